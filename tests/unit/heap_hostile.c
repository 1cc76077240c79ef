/* Portable to every Linux: whatever bytes a heap's memory holds, no call crashes, hangs or leaves the regions.
 * May include: tests/test.h, moat/heap.h, moat/sources.h, stdio.h, string.h, sys/mman.h.
 *
 * Each region lies between pages that cannot be touched, flush with the one behind it or the one before it. */
#include "moat/heap.h"
#include "tests/test.h"

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#define PAGE 4096u
#define REGIONS 3u
#define REGION_PAGES 2u
#define BLOCKS 64u
#define ROUNDS (sizeof(uintptr_t) > 4 ? 12000u : 8000u)
#define KEY ((uintptr_t)0x9ad3c51b2f60e749u)

static uint64_t random_state;

static uint32_t random_below(uint32_t limit) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (uint32_t)((random_state >> 32) * limit >> 32);
}

/* Memory with an untouchable page on either side; what is asked for ends at the page behind it. */
static unsigned char *fenced(size_t bytes) {
    size_t pages = (bytes + PAGE - 1) / PAGE;
    unsigned char *start = mmap(NULL, (pages + 2) * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(start != MAP_FAILED);
    CHECK(mprotect(start + PAGE, pages * PAGE, PROT_READ | PROT_WRITE) == 0);
    return start + PAGE + pages * PAGE - bytes;
}

struct scene {
    struct moat_heap *heap;
    unsigned char *control; /* NULL: the control block is in the first region */
    size_t control_bytes;
    unsigned char *region[REGIONS];
    size_t region_bytes;
    unsigned char *block[BLOCKS];
};

static void build(struct scene *scene, bool apart) {
    struct moat_heap_config config = {.key = KEY};
    memset(scene->block, 0, sizeof scene->block);
    for (size_t i = 0; i < REGIONS; i++)
        memset(scene->region[i], 0, scene->region_bytes);
    if (apart)
        scene->heap = moat_heap_create_apart(scene->control, scene->control_bytes, scene->region[0],
                                             scene->region_bytes, &config);
    else
        scene->heap = moat_heap_create(scene->region[0], scene->region_bytes, &config);
    CHECK(scene->heap != NULL);
    for (size_t i = 1; i < REGIONS; i++)
        CHECK(moat_heap_add_region(scene->heap, scene->region[i], scene->region_bytes));
    for (size_t i = 0; i < BLOCKS; i++)
        scene->block[i] = moat_heap_alloc(scene->heap, 1 + random_below(400));
    for (size_t i = 0; i < BLOCKS; i++) {
        if (random_below(2) == 0 && scene->block[i] != NULL) {
            CHECK(moat_heap_free(scene->heap, scene->block[i]));
            scene->block[i] = NULL;
        }
    }
    CHECK(moat_heap_verify(scene->heap, NULL));
}

/* An interesting value for a word: a pointer into some region, a small size with flags, a bit pattern. */
static uintptr_t hostile_word(const struct scene *scene) {
    switch (random_below(6)) {
    case 0:
        return (uintptr_t)scene->region[random_below(REGIONS)] + random_below((uint32_t)scene->region_bytes + 16);
    case 1:
        return ((uintptr_t)scene->region[random_below(REGIONS)] + random_below((uint32_t)scene->region_bytes)) &
               ~(MOAT_HEAP_ALIGNMENT_BYTES - 1);
    case 2:
        return random_below((uint32_t)scene->region_bytes) & ~3u;
    case 3:
        return (uintptr_t)random_state;
    case 4:
        return random_below(64);
    default:
        return 0 - (uintptr_t)random_below(64);
    }
}

static void damage(struct scene *scene, bool control_too) {
    uint32_t hits = 1 + random_below(8);
    for (uint32_t i = 0; i < hits; i++) {
        unsigned char *target = scene->region[random_below(REGIONS)];
        size_t bytes = scene->region_bytes;
        if (control_too && random_below(3) == 0) {
            target = (unsigned char *)scene->heap;
            bytes = scene->control != NULL ? scene->control_bytes : moat_heap_control_bytes(scene->region_bytes, NULL);
        }
        size_t at = random_below((uint32_t)(bytes - sizeof(uintptr_t)));
        bool in_control =
            target + at + sizeof(uintptr_t) > (unsigned char *)scene->heap &&
            target + at < (unsigned char *)scene->heap + moat_heap_control_bytes(scene->region_bytes, NULL);
        if (in_control && !control_too)
            continue;
        uintptr_t value = hostile_word(scene);
        switch (random_below(4)) {
        case 0:
            target[at] ^= (unsigned char)(1u << random_below(8));
            break;
        case 1:
            memset(target + at, (int)random_below(256), random_below(sizeof(uintptr_t)) + 1);
            break;
        default:
            memcpy(target + at / sizeof value * sizeof value, &value, sizeof value);
        }
    }
}

static bool look(void *argument, const struct moat_backend_block *block) {
    const struct scene *scene = argument;
    bool inside = false;
    for (size_t i = 0; i < REGIONS; i++)
        inside =
            inside || ((unsigned char *)block->start >= scene->region[i] &&
                       (unsigned char *)block->start + block->size_bytes <= scene->region[i] + scene->region_bytes);
    CHECK(inside);
    return true;
}

/* Every call there is. What they answer is open; that they come back, and stay inside, is not. */
static void use(struct scene *scene) {
    struct moat_heap_statistics statistics;
    struct moat_fault fault;
    bool sound = moat_heap_verify(scene->heap, &fault);
    (void)moat_heap_walk(scene->heap, look, scene);
    moat_heap_statistics(scene->heap, &statistics);
    if (!sound)
        CHECK(strlen(fault.rule) > 10);
    if (MOAT_HEAP_HARDENING < 1)
        return;
    for (size_t i = 0; i < 2 * BLOCKS; i++) {
        unsigned char **block = &scene->block[random_below(BLOCKS)];
        uint32_t size = random_below(10) == 0 ? random_below(8000) : random_below(400);
        switch (random_below(8)) {
        case 0:
        case 1:
            *block = moat_heap_alloc(scene->heap, size);
            break;
        case 2:
            *block = moat_heap_alloc_aligned(scene->heap, size, (size_t)16 << random_below(8), 32);
            break;
        case 3:
        case 4:
            (void)moat_heap_free(scene->heap, *block);
            *block = NULL;
            break;
        case 5:
            (void)moat_heap_resize(scene->heap, *block, size);
            break;
        case 6:
            (void)moat_heap_usable(scene->heap, (void *)hostile_word(scene));
            break;
        default:
            (void)moat_heap_free(scene->heap, (void *)hostile_word(scene));
        }
        if (*block != NULL)
            (void)look(scene, &(struct moat_backend_block){*block, 1, true});
    }
    (void)moat_heap_remove_region(scene->heap, scene->region[random_below(REGIONS)]);
    (void)moat_heap_add_region(scene->heap, scene->region[random_below(REGIONS)], scene->region_bytes);
    (void)moat_heap_trim(scene->heap, 0);
    (void)moat_heap_take_fault(scene->heap, &fault);
    (void)moat_heap_verify(scene->heap, &fault);
}

static void prepare(struct scene *scene, bool apart) {
    *scene = (struct scene){.region_bytes = REGION_PAGES * PAGE};
    for (size_t i = 0; i < REGIONS; i++)
        scene->region[i] = fenced(scene->region_bytes);
    scene->control_bytes = moat_heap_control_bytes(scene->region_bytes, NULL);
    if (apart)
        scene->control = fenced((scene->control_bytes + 15) / 16 * 16);
}

static void put_away(const struct scene *scene) {
    for (size_t i = 0; i < REGIONS; i++)
        munmap(scene->region[i] - PAGE, scene->region_bytes + 2 * PAGE);
    if (scene->control != NULL)
        munmap((unsigned char *)((uintptr_t)scene->control & ~(uintptr_t)(PAGE - 1)) - PAGE,
               (scene->control_bytes + 2 * PAGE - 1) / PAGE * PAGE + PAGE);
}

static void run(uint64_t seed, bool apart, bool control_too) {
    struct scene scene;
    prepare(&scene, apart);
    for (uint32_t round = 0; round < ROUNDS; round++) {
        random_state = seed + round * 0x9e3779b97f4a7c15u;
        build(&scene, apart);
        damage(&scene, control_too);
        use(&scene);
        if (random_below(2) == 0) {
            damage(&scene, control_too);
            use(&scene);
        }
    }
    put_away(&scene);
}

MOAT_TEST(heap_hostile, regions_damaged_at_random) { run(0x1234567u, false, false); }

MOAT_TEST(heap_hostile, control_block_damaged_as_well) { run(0x89abcdeu, false, true); }

MOAT_TEST(heap_hostile, control_block_apart) { run(0xf00dfeedu, true, true); }

/* Nothing but noise. */
MOAT_TEST(heap_hostile, regions_of_random_bytes) {
    struct scene scene;
    prepare(&scene, true);
    for (uint32_t round = 0; round < ROUNDS / 8; round++) {
        random_state = 77u + round * 0x9e3779b97f4a7c15u;
        build(&scene, true);
        for (size_t i = 0; i < REGIONS; i++) {
            size_t from = random_below(2) == 0 ? 0 : MOAT_HEAP_BLOCK_BYTES_MIN; /* with and without the record */
            for (size_t at = from; at < scene.region_bytes; at++)
                scene.region[i][at] = (unsigned char)random_below(256);
        }
        use(&scene);
    }
    put_away(&scene);
}
