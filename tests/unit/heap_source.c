/* Portable tests of a heap over a source that fails: at the n-th call for every n, in giving and in taking back; and of
 * the high-water mark.
 * May include: tests/test.h, moat/heap.h, moat/sources.h, string.h. */
#include "moat/heap.h"
#include "moat/sources.h"
#include "tests/test.h"

#include <string.h>

#define UNIT ((size_t)(sizeof(uintptr_t) > 4 ? 64 : 4) * 1024) /* what trimming counts in */
#define UNITS 24u
#define SLOTS 40u
#define STEPS 400u

static _Alignas(64 * 1024) unsigned char memory[UNITS * UNIT];

/* Wraps a source: one call, or every call from some on, fails. */
struct faulty {
    struct moat_source source;
    const struct moat_source *below;
    size_t acquires, releases;
    size_t failing_acquire, failing_release; /* number of the first call that fails, from 1; 0: none */
    bool goes_on;                            /* later ones fail too */
    size_t held_bytes;
};

static bool is_failing(const struct faulty *faulty, size_t call, size_t failing) {
    return failing != 0 && (call == failing || (faulty->goes_on && call > failing));
}

static void *faulty_acquire(void *context, size_t size_bytes, size_t *got_bytes) {
    struct faulty *faulty = context;
    if (is_failing(faulty, ++faulty->acquires, faulty->failing_acquire))
        return NULL;
    void *start = faulty->below->acquire(faulty->below->context, (size_bytes + UNIT - 1) / UNIT * UNIT, got_bytes);
    faulty->held_bytes += start != NULL ? *got_bytes : 0;
    return start;
}

static bool faulty_release(void *context, void *start, size_t size_bytes) {
    struct faulty *faulty = context;
    if (is_failing(faulty, ++faulty->releases, faulty->failing_release))
        return false;
    memset(start, 0xdd, size_bytes);
    bool released = faulty->below->release(faulty->below->context, start, size_bytes);
    if (!released)
        memset(start, 0x6d, size_bytes); /* it is the heap's still, but nothing may rely on its bytes */
    faulty->held_bytes -= released ? size_bytes : 0;
    return released;
}

struct world {
    struct moat_static_source memory;
    struct faulty faulty;
    struct moat_heap *heap;
    unsigned char *blocks[SLOTS];
    size_t sizes[SLOTS];
};

static void set_up(struct world *world, size_t keep_bytes) {
    world->faulty.below = moat_static_source_init(&world->memory, memory, sizeof memory);
    world->faulty.source = (struct moat_source){faulty_acquire, faulty_release, &world->faulty};
    struct moat_heap_config config = {.source = &world->faulty.source, .grow_bytes = UNIT, .keep_bytes = keep_bytes};
    world->heap = moat_heap_create_from_source(&config);
}

static void check_blocks(const struct world *world) {
    struct moat_fault fault;
    CHECK(moat_heap_verify(world->heap, NULL));
    CHECK(!moat_heap_take_fault(world->heap, &fault));
    for (size_t i = 0; i < SLOTS; i++) {
        const unsigned char *block = world->blocks[i];
        CHECK(block == NULL || (block[0] == i && block[world->sizes[i] - 1] == i));
    }
}

static void let_go(struct world *world, size_t i) {
    if (world->blocks[i] == NULL)
        return;
    memset(world->blocks[i], (int)i, world->sizes[i]);
    CHECK(moat_heap_free(world->heap, world->blocks[i]));
    world->blocks[i] = NULL;
}

/* Random allocations, reallocations and frees, everything checked after each. Gives how many failed. */
static size_t churn(struct world *world, uint32_t seed) {
    uint32_t random = seed * 2654435761u + 1;
    size_t failures = 0;
    for (size_t step = 0; step < STEPS; step++) {
        random ^= random << 13;
        random ^= random >> 17;
        random ^= random << 5;
        size_t i = (random >> 3) % SLOTS;
        size_t size = 1 + (random >> 9) % (random % 8 == 0 ? 3 * UNIT : UNIT / 4);
        if (world->blocks[i] != NULL && random % 3 != 0) {
            let_go(world, i);
        } else {
            unsigned char *block = moat_heap_realloc(world->heap, world->blocks[i], size);
            failures += block == NULL;
            if (block != NULL) {
                CHECK(world->blocks[i] == NULL || block[0] == i);
                world->blocks[i] = block;
                world->sizes[i] = size;
                memset(block, (int)i, size);
            }
        }
        check_blocks(world);
    }
    return failures;
}

static void finish(struct world *world) {
    for (size_t i = 0; i < SLOTS; i++)
        let_go(world, i);
    check_blocks(world);
    struct moat_heap_statistics said;
    moat_heap_statistics(world->heap, &said);
    CHECK_EQ(said.used_count, 0);
    CHECK_EQ(said.region_bytes, world->faulty.held_bytes); /* nothing was lost between heap and source */
}

MOAT_TEST(source_faults, every_failing_acquire_leaves_all_consistent) {
    for (size_t goes_on = 0; goes_on < 2; goes_on++) {
        for (size_t n = 1;; n++) {
            struct world world = {.faulty = {.failing_acquire = n, .goes_on = goes_on != 0}};
            set_up(&world, 2 * UNIT);
            CHECK(world.heap != NULL || (n == 1 && goes_on != 0));
            if (world.heap == NULL)
                continue;
            size_t failures = churn(&world, 7);
            finish(&world);
            CHECK(goes_on == 0 || n > 3 || failures > 0);
            if (world.faulty.acquires < n)
                break;
        }
    }
}

MOAT_TEST(source_faults, every_failing_release_leaves_all_consistent) {
    for (size_t goes_on = 0; goes_on < 2; goes_on++) {
        for (size_t n = 1;; n++) {
            struct world world = {.faulty = {.failing_release = n, .goes_on = goes_on != 0}};
            set_up(&world, 1);
            (void)churn(&world, 11);
            finish(&world);
            (void)moat_heap_trim(world.heap, 0);
            check_blocks(&world);
            if (world.faulty.releases < n)
                break;
        }
    }
}

/* ---- the high-water mark ----------------------------------------------------------------------------------------- */

MOAT_TEST(source_high_water, free_memory_beyond_it_goes_back_by_itself) {
    for (size_t keep_units = 0; keep_units <= 6; keep_units += 3) {
        struct world world = {.heap = NULL};
        size_t keep_bytes = keep_units * UNIT + 1;
        set_up(&world, keep_bytes);
        for (size_t round = 0; round < 3; round++) {
            for (size_t i = 0; i < 20; i++) {
                world.blocks[i] = moat_heap_alloc(world.heap, UNIT - 64);
                world.sizes[i] = UNIT - 64;
                CHECK(world.blocks[i] != NULL);
            }
            CHECK(world.faulty.held_bytes >= 20 * (UNIT - 64));
            for (size_t i = 20; i-- > 0;) {
                let_go(&world, i);
                struct moat_heap_statistics said;
                moat_heap_statistics(world.heap, &said);
                CHECK(said.free_bytes < keep_bytes + 2 * UNIT);
                CHECK(said.free_bytes + 2 * UNIT >= (keep_bytes < (20 - i) * UNIT ? keep_bytes : 0));
            }
        }
        CHECK(moat_heap_verify(world.heap, NULL));
        CHECK(world.faulty.releases > 0);
    }
}

MOAT_TEST(source_high_water, none_keeps_everything) {
    struct world world = {.heap = NULL};
    set_up(&world, 0);
    void *large = moat_heap_alloc(world.heap, 15 * UNIT);
    CHECK(moat_heap_free(world.heap, large));
    CHECK_EQ(world.faulty.releases, 0);
    CHECK(moat_heap_trim(world.heap, 0) >= 14 * UNIT);
}

/* A source that takes nothing back is not asked at every free: only when a unit more has become free since. */
MOAT_TEST(source_high_water, asking_in_vain_is_rare) {
    struct world world = {.faulty = {.failing_release = 1, .goes_on = true}};
    set_up(&world, 1);
    unsigned char *blocks[1000];
    size_t count = 0;
    while (count < 1000 && (blocks[count] = moat_heap_alloc(world.heap, UNIT / 50)) != NULL)
        count++;
    CHECK(count == 1000);
    for (size_t i = count; i-- > 0;)
        CHECK(moat_heap_free(world.heap, blocks[i]));
    CHECK(world.faulty.releases >= 5);
    CHECK(world.faulty.releases <= 60); /* 20 units became free; an attempt asks twice at most */
    CHECK(moat_heap_verify(world.heap, NULL));
}

/* After an attempt in vain it waits, but not for ever: growing makes it try again. */
MOAT_TEST(source_high_water, growing_makes_it_try_again) {
    struct world world = {.faulty = {.failing_release = 1}};
    set_up(&world, 1);
    void *first = moat_heap_alloc(world.heap, 12 * UNIT - 64);
    CHECK(moat_heap_free(world.heap, first)); /* refused */
    CHECK_EQ(world.faulty.releases, 1);
    CHECK_EQ(world.faulty.held_bytes, 13 * UNIT);
    first = moat_heap_alloc(world.heap, 11 * UNIT - 64);
    void *second = moat_heap_alloc(world.heap, UNIT - 64);
    CHECK_EQ(world.faulty.held_bytes, 13 * UNIT);
    CHECK(moat_heap_free(world.heap, second));
    CHECK_EQ(world.faulty.releases, 1); /* there is less free than there was */
    second = moat_heap_alloc(world.heap, 3 * UNIT);
    CHECK(world.faulty.held_bytes > 13 * UNIT);
    CHECK(moat_heap_free(world.heap, second));
    CHECK_EQ(world.faulty.releases, 2);
    CHECK(world.faulty.held_bytes <= 13 * UNIT);
    CHECK(moat_heap_verify(world.heap, NULL));
}
