/* Portable tests of regions: adding, joining, removing, growing from a source and trimming back to it.
 * May include: tests/test.h, moat/heap.h, moat/sources.h, string.h. */
#include "moat/heap.h"
#include "moat/sources.h"
#include "tests/test.h"

#include <string.h>

#define PIECE 4096u
#define PIECES 32u
#define LEAD MOAT_HEAP_BLOCK_BYTES_MIN /* what a region spends at its start, the first header included */
#define REGION_FREE (PIECE - LEAD - MOAT_HEAP_OVERHEAD_BYTES)

static _Alignas(max_align_t) unsigned char memory[PIECES * PIECE];

static unsigned char *piece(size_t i) { return memory + i * PIECE; }

static struct moat_heap_statistics statistics_of(const struct moat_heap *heap) {
    struct moat_heap_statistics statistics;
    moat_heap_statistics(heap, &statistics);
    return statistics;
}

static void check_sound(struct moat_heap *heap) {
    struct moat_fault fault = {"", 0, 0};
    (void)moat_heap_verify(heap, &fault);
    CHECK_TEXT(fault.rule, "");
    CHECK(!moat_heap_take_fault(heap, &fault));
}

static struct moat_heap *fresh(size_t first_piece) {
    memset(memory, 0x5a, sizeof memory);
    struct moat_heap *heap = moat_heap_create(piece(first_piece), PIECE, NULL);
    CHECK(heap != NULL);
    return heap;
}

/* ---- adding and joining -------------------------------------------------------------------------------------------- */

MOAT_TEST(heap_region, separate_regions_stay_separate) {
    struct moat_heap *heap = fresh(0);
    CHECK(moat_heap_add_region(heap, piece(2), PIECE));
    CHECK_EQ(statistics_of(heap).region_count, 2);
    CHECK_EQ(statistics_of(heap).free_count, 2);
    CHECK_EQ(statistics_of(heap).free_bytes_largest, REGION_FREE);
    CHECK(moat_heap_alloc(heap, REGION_FREE + 1) == NULL);
    unsigned char *block = moat_heap_alloc(heap, REGION_FREE);
    CHECK(block == piece(2) + LEAD);
    memset(block, 1, REGION_FREE);
    check_sound(heap);
    for (size_t i = 0; i < PIECE; i++)
        CHECK_EQ(piece(1)[i], 0x5a);
}

MOAT_TEST(heap_region, joins_one_above) {
    struct moat_heap *heap = fresh(0);
    size_t before = statistics_of(heap).free_bytes;
    CHECK(moat_heap_add_region(heap, piece(1), PIECE));
    CHECK_EQ(statistics_of(heap).region_count, 1);
    CHECK_EQ(statistics_of(heap).region_bytes, 2 * PIECE);
    CHECK_EQ(statistics_of(heap).free_count, 1);
    CHECK_EQ(statistics_of(heap).free_bytes, before + PIECE); /* not a byte is lost at the seam */
    CHECK(moat_heap_alloc(heap, before + PIECE) != NULL);
    check_sound(heap);
}

MOAT_TEST(heap_region, joins_one_below_although_the_control_block_lies_between) {
    struct moat_heap *heap = fresh(1);
    size_t before = statistics_of(heap).free_bytes;
    CHECK(moat_heap_add_region(heap, piece(0), PIECE));
    CHECK_EQ(statistics_of(heap).region_count, 1);
    CHECK_EQ(statistics_of(heap).free_count, 2);
    CHECK_EQ(statistics_of(heap).free_bytes, before + PIECE - MOAT_HEAP_OVERHEAD_BYTES);
    check_sound(heap);
    CHECK(moat_heap_alloc(heap, PIECE - MOAT_HEAP_OVERHEAD_BYTES) != NULL);
    check_sound(heap);
}

MOAT_TEST(heap_region, joins_both_when_the_hole_is_filled) {
    for (int used_edges = 0; used_edges < 4; used_edges++) {
        struct moat_heap *heap = fresh(0);
        size_t first = statistics_of(heap).free_bytes;
        void *low = (used_edges & 1) != 0 ? moat_heap_alloc(heap, first) : NULL;
        CHECK(moat_heap_add_region(heap, piece(2), PIECE));
        void *high = (used_edges & 2) != 0 ? moat_heap_alloc(heap, REGION_FREE) : NULL;
        CHECK(moat_heap_add_region(heap, piece(1), PIECE));
        CHECK_EQ(statistics_of(heap).region_count, 1);
        CHECK_EQ(statistics_of(heap).region_bytes, 3 * PIECE);
        check_sound(heap);
        CHECK(low == NULL || moat_heap_free(heap, low));
        CHECK(high == NULL || moat_heap_free(heap, high));
        CHECK_EQ(statistics_of(heap).free_count, 1);
        CHECK_EQ(statistics_of(heap).free_bytes, first + 2 * PIECE);
        check_sound(heap);
    }
}

MOAT_TEST(heap_region, any_order_ends_as_one) {
    static const size_t orders[][5] = {{1, 2, 3, 4, 5}, {5, 4, 3, 2, 1}, {3, 1, 5, 2, 4}, {2, 4, 5, 3, 1}};
    for (size_t order = 0; order < sizeof orders / sizeof *orders; order++) {
        struct moat_heap *heap = fresh(0);
        size_t first = statistics_of(heap).free_bytes;
        for (size_t i = 0; i < 5; i++) {
            CHECK(moat_heap_add_region(heap, piece(orders[order][i]), PIECE));
            check_sound(heap);
        }
        CHECK_EQ(statistics_of(heap).region_count, 1);
        CHECK_EQ(statistics_of(heap).free_bytes_largest, first + 5 * PIECE);
    }
}

MOAT_TEST(heap_region, unaligned_ends_are_rounded_inwards) {
    struct moat_heap *heap = fresh(0);
    CHECK(moat_heap_add_region(heap, piece(2) + 1, PIECE - 2));
    CHECK_EQ(statistics_of(heap).region_bytes, 2 * PIECE - 2 * MOAT_HEAP_ALIGNMENT_BYTES);
    while (moat_heap_alloc(heap, 1) != NULL)
        continue;
    CHECK_EQ(piece(2)[0], 0x5a);
    CHECK_EQ(piece(3)[-1], 0x5a);
    check_sound(heap);
}

MOAT_TEST(heap_region, smallest_region_gives_the_smallest_block) {
    struct moat_heap *heap = fresh(0);
    CHECK(!moat_heap_add_region(heap, piece(2), MOAT_HEAP_REGION_BYTES_MIN - 1));
    CHECK(moat_heap_add_region(heap, piece(2), MOAT_HEAP_REGION_BYTES_MIN));
    while (moat_heap_alloc(heap, 100) != NULL)
        continue;
    bool found = false;
    for (unsigned char *block; (block = moat_heap_alloc(heap, 1)) != NULL;)
        found = found || block == piece(2) + LEAD;
    CHECK(found);
    check_sound(heap);
}

MOAT_TEST(heap_region, overlaps_are_refused) {
    struct moat_heap *heap = fresh(4);
    CHECK(moat_heap_add_region(heap, piece(8), PIECE));
    CHECK(!moat_heap_add_region(heap, piece(4), PIECE));
    CHECK(!moat_heap_add_region(heap, piece(3), PIECE + 64));
    CHECK(!moat_heap_add_region(heap, piece(5) - 64, PIECE));
    CHECK(!moat_heap_add_region(heap, piece(3), 4 * PIECE));
    CHECK(!moat_heap_add_region(heap, piece(4) + 256, 256));
    CHECK(!moat_heap_add_region(heap, piece(7), PIECE + 64));
    CHECK(!moat_heap_add_region(heap, NULL, PIECE));
    CHECK(!moat_heap_add_region(heap, (void *)(uintptr_t)(UINTPTR_MAX - 64), PIECE));
    CHECK_EQ(statistics_of(heap).region_bytes, 2 * PIECE);
    check_sound(heap);
}

/* ---- removing ------------------------------------------------------------------------------------------------------ */

MOAT_TEST(heap_region, a_free_region_can_be_taken_out) {
    struct moat_heap *heap = fresh(4);
    for (size_t i = 0; i <= 8; i += 2)
        CHECK(i == 4 || moat_heap_add_region(heap, piece(i), PIECE));
    static const size_t order[] = {6, 0, 8, 2};
    for (size_t i = 0; i < 4; i++) {
        CHECK(moat_heap_remove_region(heap, piece(order[i])));
        memset(piece(order[i]), 0xee, PIECE);
        CHECK(!moat_heap_remove_region(heap, piece(order[i])));
        check_sound(heap);
        CHECK_EQ(statistics_of(heap).region_count, 4 - i);
    }
    CHECK(moat_heap_alloc(heap, REGION_FREE) == NULL);
}

MOAT_TEST(heap_region, a_region_in_use_stays) {
    struct moat_heap *heap = fresh(0);
    CHECK(!moat_heap_remove_region(heap, piece(0))); /* the control block is in it */
    CHECK(moat_heap_add_region(heap, piece(2), PIECE));
    void *block = moat_heap_alloc(heap, REGION_FREE - 200);
    CHECK(!moat_heap_remove_region(heap, piece(2)));
    CHECK(!moat_heap_remove_region(heap, piece(1)));
    CHECK(!moat_heap_remove_region(heap, piece(2) + 512));
    CHECK(moat_heap_free(heap, block));
    CHECK(moat_heap_remove_region(heap, piece(2)));
    check_sound(heap);
}

MOAT_TEST(heap_region, a_region_can_come_back) {
    struct moat_heap *heap = fresh(0);
    size_t first = statistics_of(heap).free_bytes;
    for (int i = 0; i < 3; i++) {
        CHECK(moat_heap_add_region(heap, piece(2), PIECE));
        CHECK(moat_heap_remove_region(heap, piece(2)));
        CHECK_EQ(statistics_of(heap).free_bytes, first);
    }
    check_sound(heap);
}

/* ---- a source that is watched -------------------------------------------------------------------------------------- */

/* Hands out whole pieces, downwards from the top or upwards from the bottom, up to a limit, and keeps count. */
struct watched {
    struct moat_source source;
    size_t next, left, most_at_once; /* pieces */
    bool downwards;
    size_t acquires, releases, released_bytes;
    bool refuse_release;
};

static void *watched_acquire(void *context, size_t size_bytes, size_t *got_bytes) {
    struct watched *watched = context;
    size_t pieces = (size_bytes + PIECE - 1) / PIECE;
    watched->acquires++;
    if (pieces > watched->left || pieces > watched->most_at_once)
        return NULL;
    watched->left -= pieces;
    *got_bytes = pieces * PIECE;
    if (watched->downwards)
        watched->next -= pieces;
    unsigned char *start = piece(watched->next);
    if (!watched->downwards)
        watched->next += pieces;
    return start;
}

static bool watched_release(void *context, void *start, size_t size_bytes) {
    struct watched *watched = context;
    if (watched->refuse_release)
        return false;
    CHECK((unsigned char *)start >= memory && (unsigned char *)start + size_bytes <= memory + sizeof memory);
    memset(start, 0xdd, size_bytes);
    watched->releases++;
    watched->released_bytes += size_bytes;
    return true;
}

static struct watched watch(size_t pieces, bool downwards) {
    memset(memory, 0x5a, sizeof memory);
    return (struct watched){
        {watched_acquire, watched_release, NULL}, downwards ? PIECES : 0, pieces, SIZE_MAX, downwards, 0, 0, 0, false};
}

MOAT_TEST(heap_source, heap_grows_by_itself_as_one_region) {
    for (int downwards = 0; downwards < 2; downwards++) {
        struct watched watched = watch(PIECES, downwards != 0);
        watched.source.context = &watched;
        struct moat_heap_config config = {.source = &watched.source, .grow_bytes = 2 * PIECE};
        struct moat_heap *heap = moat_heap_create_from_source(&config);
        CHECK(heap != NULL);
        CHECK_EQ(PIECES - watched.left, 2);
        while (moat_heap_alloc(heap, 300) != NULL)
            CHECK_EQ(statistics_of(heap).region_count, 1);
        CHECK_EQ(watched.left, 0);
        CHECK_EQ(statistics_of(heap).region_bytes, sizeof memory);
        check_sound(heap);
    }
}

MOAT_TEST(heap_source, a_large_block_gets_what_it_needs) {
    struct watched watched = watch(PIECES, false);
    watched.source.context = &watched;
    struct moat_heap_config config = {.source = &watched.source, .grow_bytes = PIECE};
    struct moat_heap *heap = moat_heap_create_from_source(&config);
    unsigned char *block = moat_heap_alloc(heap, 10 * PIECE);
    CHECK(block != NULL);
    memset(block, 3, 10 * PIECE);
    block = moat_heap_alloc_aligned(heap, PIECE, 4 * PIECE, 2 * MOAT_HEAP_ALIGNMENT_BYTES);
    CHECK_EQ((uintptr_t)(block + 2 * MOAT_HEAP_ALIGNMENT_BYTES) % (4 * PIECE), 0);
    check_sound(heap);
}

MOAT_TEST(heap_source, asks_for_less_when_it_cannot_have_more) {
    struct watched watched = watch(PIECES, false);
    watched.source.context = &watched;
    watched.most_at_once = 4;
    struct moat_heap_config config = {.source = &watched.source, .grow_bytes = 4 * PIECE};
    struct moat_heap *heap = moat_heap_create_from_source(&config);
    watched.most_at_once = 1;
    size_t blocks = 0;
    while (moat_heap_alloc(heap, 1000) != NULL)
        blocks++;
    CHECK(blocks > 3 * PIECES);
    CHECK_EQ(watched.left, 0);
    CHECK_EQ(statistics_of(heap).failure_count, 1);
    check_sound(heap);
}

MOAT_TEST(heap_source, the_first_region_may_be_the_least) {
    struct watched watched = watch(PIECES, false);
    watched.source.context = &watched;
    watched.most_at_once = 1;
    struct moat_heap_config config = {.source = &watched.source, .grow_bytes = 8 * PIECE};
    struct moat_heap *heap = moat_heap_create_from_source(&config);
    CHECK(heap != NULL);
    CHECK_EQ(watched.acquires, 2);
    watched.left = 0;
    CHECK(moat_heap_create_from_source(&config) == NULL);
    CHECK(moat_heap_create_from_source(NULL) == NULL);
    config.source = NULL;
    CHECK(moat_heap_create_from_source(&config) == NULL);
    check_sound(heap);
}

MOAT_TEST(heap_source, given_and_acquired_memory_are_not_joined) {
    struct watched watched = watch(4, false);
    watched.source.context = &watched;
    watched.next = 1;
    struct moat_heap_config config = {.source = &watched.source, .grow_bytes = PIECE};
    struct moat_heap *heap = moat_heap_create(memory, PIECE, &config);
    while (moat_heap_alloc(heap, 500) != NULL)
        continue;
    CHECK_EQ(statistics_of(heap).region_count, 2);
    CHECK_EQ(statistics_of(heap).region_bytes, 5 * PIECE);
    check_sound(heap);
}

MOAT_TEST(heap_source, memory_given_below_what_was_acquired_is_not_joined) {
    struct watched watched = watch(2, false);
    watched.source.context = &watched;
    watched.next = 1;
    struct moat_heap_config config = {.source = &watched.source, .grow_bytes = PIECE};
    struct moat_heap *heap = moat_heap_create_from_source(&config);
    CHECK(moat_heap_add_region(heap, piece(0), PIECE));
    CHECK_EQ(statistics_of(heap).region_count, 2);
    CHECK(moat_heap_add_region(heap, piece(2), PIECE));
    CHECK_EQ(statistics_of(heap).region_count, 3);
    CHECK(moat_heap_remove_region(heap, piece(0)));
    check_sound(heap);
}

/* ---- trimming ------------------------------------------------------------------------------------------------------ */

/* Trimming counts in 64 KiB, on 32-bit in 4 KiB: big enough pieces of memory, aligned to that. */
#define UNIT ((size_t)(sizeof(uintptr_t) > 4 ? 64 : 4) * 1024)
#define ARENA_UNITS 12u
static unsigned char arena_room[(ARENA_UNITS + 1) * UNIT];

/* Its first address that is aligned: not every loader aligns a variable to more than a page. */
static unsigned char *arena(void) { return arena_room + (UNIT - (uintptr_t)arena_room % UNIT); }

static void *arena_acquire(void *context, size_t size_bytes, size_t *got_bytes) {
    struct watched *watched = context;
    size_t units = (size_bytes + UNIT - 1) / UNIT;
    if (units > watched->left)
        return NULL;
    watched->left -= units;
    if (watched->downwards)
        watched->next -= units;
    unsigned char *start = arena() + watched->next * UNIT;
    if (!watched->downwards)
        watched->next += units;
    *got_bytes = units * UNIT;
    return start;
}

static bool arena_release(void *context, void *start, size_t size_bytes) {
    struct watched *watched = context;
    if (watched->refuse_release)
        return false;
    memset(start, 0xdd, size_bytes);
    watched->releases++;
    watched->released_bytes += size_bytes;
    return true;
}

static struct watched watch_arena(bool downwards) {
    return (struct watched){
        {arena_acquire, arena_release, NULL}, downwards ? ARENA_UNITS : 0, ARENA_UNITS, 0, downwards, 0, 0, 0, false};
}

MOAT_TEST(heap_trim, gives_the_free_end_back) {
    struct watched watched = watch_arena(false);
    watched.source.context = &watched;
    struct moat_heap_config config = {.source = &watched.source, .grow_bytes = UNIT};
    struct moat_heap *heap = moat_heap_create_from_source(&config);
    void *kept = moat_heap_alloc(heap, 100);
    void *large = moat_heap_alloc(heap, 6 * UNIT);
    CHECK(moat_heap_free(heap, large));
    size_t region_bytes = statistics_of(heap).region_bytes;
    size_t free_bytes = statistics_of(heap).free_bytes;
    size_t given = moat_heap_trim(heap, 3 * UNIT);
    CHECK(given > 0 && given % UNIT == 0);
    CHECK_EQ(watched.released_bytes, given);
    CHECK_EQ(statistics_of(heap).region_bytes, region_bytes - given);
    CHECK_EQ(statistics_of(heap).free_bytes, free_bytes - given);
    CHECK(statistics_of(heap).free_bytes + MOAT_HEAP_OVERHEAD_BYTES >= 3 * UNIT);
    CHECK(statistics_of(heap).free_bytes < 4 * UNIT);
    check_sound(heap);
    CHECK_EQ(moat_heap_trim(heap, 3 * UNIT), 0);
    CHECK(moat_heap_trim(heap, 0) > 0);
    CHECK_EQ(statistics_of(heap).region_bytes, UNIT);
    CHECK(moat_heap_free(heap, kept));
    check_sound(heap);
}

MOAT_TEST(heap_trim, gives_whole_regions_and_free_starts_back) {
    struct watched watched = watch_arena(true);
    watched.source.context = &watched;
    struct moat_heap_config config = {.source = &watched.source, .grow_bytes = UNIT};
    struct moat_heap *heap = moat_heap_create_from_source(&config);
    watched.next -= 1; /* a hole: the next piece becomes a region of its own */
    watched.left -= 1;
    void *large = moat_heap_alloc(heap, 4 * UNIT);
    CHECK_EQ(statistics_of(heap).region_count, 2);
    void *more = moat_heap_alloc(heap, 3 * UNIT); /* joined below `large` */
    CHECK(more < large);
    CHECK_EQ(statistics_of(heap).region_count, 2);
    CHECK(moat_heap_free(heap, more));
    CHECK(moat_heap_trim(heap, 0) >= 3 * UNIT);
    CHECK_EQ(moat_heap_usable(heap, large) >= 4 * UNIT, 1);
    check_sound(heap);
    CHECK(moat_heap_free(heap, large));
    CHECK(moat_heap_trim(heap, 0) >= 4 * UNIT);
    CHECK_EQ(statistics_of(heap).region_count, 1);
    CHECK_EQ(statistics_of(heap).region_bytes, UNIT);
    check_sound(heap);
}

MOAT_TEST(heap_trim, keeps_what_the_source_refuses) {
    struct watched watched = watch_arena(false);
    watched.source.context = &watched;
    watched.refuse_release = true;
    struct moat_heap_config config = {.source = &watched.source, .grow_bytes = UNIT};
    struct moat_heap *heap = moat_heap_create_from_source(&config);
    watched.next += 1;
    watched.left -= 1;
    void *large = moat_heap_alloc(heap, 3 * UNIT);
    void *middle = moat_heap_alloc(heap, UNIT);
    struct moat_heap_statistics before = statistics_of(heap);
    CHECK_EQ(moat_heap_trim(heap, 0), 0);
    CHECK(moat_heap_free(heap, large));
    CHECK_EQ(moat_heap_trim(heap, 0), 0);
    CHECK(moat_heap_free(heap, middle));
    CHECK_EQ(moat_heap_trim(heap, 0), 0);
    CHECK_EQ(statistics_of(heap).region_bytes, before.region_bytes);
    CHECK_EQ(statistics_of(heap).region_count, before.region_count);
    check_sound(heap);
}

MOAT_TEST(heap_trim, leaves_given_memory_alone) {
    struct watched watched = watch_arena(false);
    watched.source.context = &watched;
    struct moat_heap_config config = {.source = &watched.source, .grow_bytes = UNIT};
    struct moat_heap *heap = moat_heap_create(arena(), 8 * UNIT, &config);
    CHECK_EQ(moat_heap_trim(heap, 0), 0);
    heap = moat_heap_create(arena(), 8 * UNIT, NULL);
    CHECK_EQ(moat_heap_trim(heap, 0), 0);
    check_sound(heap);
}
