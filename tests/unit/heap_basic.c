/* Portable tests of the heap's single functions: create, alloc, aligned alloc, free, resize, walk, statistics, verify.
 * May include: tests/test.h, moat/heap.h, string.h. */
#include "moat/heap.h"
#include "tests/test.h"

#include <string.h>

#define KIB 1024u
#define WORD sizeof(uintptr_t)
#define ALIGN (2 * WORD)

static _Alignas(max_align_t) unsigned char memory[64 * KIB];

static struct moat_heap *fresh(size_t bytes) {
    memset(memory, 0xa5, sizeof memory);
    struct moat_heap *heap = moat_heap_create(memory, bytes, NULL);
    CHECK(heap != NULL);
    CHECK(moat_heap_verify(heap, NULL));
    return heap;
}

static struct moat_heap_statistics statistics_of(const struct moat_heap *heap) {
    struct moat_heap_statistics statistics;
    moat_heap_statistics(heap, &statistics);
    return statistics;
}

static void check_no_fault(struct moat_heap *heap) {
    struct moat_fault fault = {"", 0, 0};
    bool holds = moat_heap_verify(heap, &fault);
    CHECK_TEXT(fault.rule, "");
    CHECK(holds);
    CHECK(!moat_heap_take_fault(heap, &fault));
}

/* ---- create -------------------------------------------------------------------------------------------------------- */

MOAT_TEST(heap_create, smallest_buffer_serves_a_block) {
    struct moat_heap *heap = fresh(MOAT_HEAP_BUFFER_BYTES_MIN);
    unsigned char *block = moat_heap_alloc(heap, 16);
    CHECK(block != NULL);
    CHECK(block >= memory && block + 16 <= memory + MOAT_HEAP_BUFFER_BYTES_MIN);
    CHECK(moat_heap_free(heap, block));
    check_no_fault(heap);
}

MOAT_TEST(heap_create, refuses_what_is_too_small) {
    for (size_t bytes = 0; bytes < 96; bytes++)
        CHECK(moat_heap_create(memory, bytes, NULL) == NULL);
    CHECK(moat_heap_create(NULL, sizeof memory, NULL) == NULL);
    CHECK(moat_heap_create((void *)(uintptr_t)(UINTPTR_MAX - 100), 4096, NULL) == NULL);
}

MOAT_TEST(heap_create, touches_nothing_outside_the_buffer) {
    for (size_t skew = 0; skew < 2 * ALIGN; skew++) {
        for (size_t cut = 0; cut < 2 * ALIGN; cut++) {
            memset(memory, 0xa5, sizeof memory);
            size_t bytes = 2 * KIB - cut;
            struct moat_heap *heap = moat_heap_create(memory + 64 + skew, bytes, NULL);
            CHECK(heap != NULL);
            while (moat_heap_alloc(heap, 1) != NULL)
                continue;
            for (size_t i = 0; i < 64 + skew; i++)
                CHECK_EQ(memory[i], 0xa5);
            for (size_t i = 64 + skew + bytes; i < 3 * KIB; i++)
                CHECK_EQ(memory[i], 0xa5);
        }
    }
}

MOAT_TEST(heap_create, control_block_scales_with_the_buffer) {
    size_t part = WORD == 4 ? 64 : 32;
    size_t base = WORD == 4 ? 128 : 256;
    for (size_t bytes = MOAT_HEAP_BUFFER_BYTES_MIN; bytes <= (size_t)256 << 20; bytes *= 2) {
        size_t control = moat_heap_control_bytes(bytes, NULL);
        CHECK(control <= bytes / part + base);
    }
}

MOAT_TEST(heap_create, control_block_can_live_apart) {
    static uintptr_t control[2 * KIB];
    size_t bytes = moat_heap_control_bytes(256, NULL);
    CHECK(bytes <= sizeof control);
    CHECK(moat_heap_create_apart(control, bytes - 1, memory, 256, NULL) == NULL);
    CHECK(moat_heap_create_apart((char *)control + 1, bytes, memory, 256, NULL) == NULL);
    struct moat_heap *heap = moat_heap_create_apart(control, bytes, memory, 256, NULL);
    CHECK(heap != NULL);
    /* All but the record, the first header and the sentinel is one free block. */
    CHECK_EQ(statistics_of(heap).free_bytes, 256 - MOAT_HEAP_BLOCK_BYTES_MIN - MOAT_HEAP_OVERHEAD_BYTES);
    void *block = moat_heap_alloc(heap, statistics_of(heap).free_bytes);
    CHECK(block != NULL);
    CHECK(moat_heap_free(heap, block));
    check_no_fault(heap);
    CHECK(moat_heap_remove_region(heap, memory));
    CHECK(moat_heap_alloc(heap, 1) == NULL);
    check_no_fault(heap);
}

/* ---- alloc and free ------------------------------------------------------------------------------------------------ */

MOAT_TEST(heap_alloc, gives_aligned_blocks_with_little_slack) {
    struct moat_heap *heap = fresh(sizeof memory);
    for (size_t size = 0; size < 700; size++) {
        void *block = moat_heap_alloc(heap, size);
        CHECK(block != NULL);
        CHECK_EQ((uintptr_t)block % ALIGN, 0);
        size_t usable = moat_heap_usable(heap, block);
        CHECK(usable >= size);
        CHECK(usable <= (size == 0 ? 1 : size) + MOAT_HEAP_SLACK_BYTES_MAX);
        memset(block, 0xff, usable);
        CHECK(moat_heap_free(heap, block));
    }
    check_no_fault(heap);
}

MOAT_TEST(heap_alloc, a_block_costs_its_overhead_only) {
    struct moat_heap *heap = fresh(4 * KIB);
    size_t size = 10 * ALIGN - MOAT_HEAP_OVERHEAD_BYTES;
    unsigned char *first = moat_heap_alloc(heap, size);
    unsigned char *second = moat_heap_alloc(heap, size);
    CHECK_EQ(moat_heap_usable(heap, first), size);
    CHECK_EQ((size_t)(second - first), size + MOAT_HEAP_OVERHEAD_BYTES);
    if (MOAT_HEAP_HARDENING < 2 || WORD == 8)
        CHECK_EQ((size_t)(second - first), size + WORD);
}

MOAT_TEST(heap_alloc, fits_the_last_byte) {
    for (size_t bytes = MOAT_HEAP_BUFFER_BYTES_MIN; bytes <= sizeof memory; bytes += bytes / 3) {
        struct moat_heap *heap = fresh(bytes);
        size_t all = statistics_of(heap).free_bytes_largest;
        CHECK_EQ(all, statistics_of(heap).free_bytes);
        CHECK(moat_heap_alloc(heap, all + 1) == NULL);
        void *block = moat_heap_alloc(heap, all);
        CHECK(block != NULL);
        CHECK(moat_heap_alloc(heap, 1) == NULL);
        CHECK_EQ(statistics_of(heap).free_count, 0);
        CHECK_EQ(statistics_of(heap).free_bytes_largest, 0);
        CHECK_EQ(statistics_of(heap).failure_count, 2);
        CHECK(moat_heap_free(heap, block));
        CHECK_EQ(statistics_of(heap).free_bytes, all);
        check_no_fault(heap);
    }
}

MOAT_TEST(heap_alloc, refuses_impossible_sizes) {
    struct moat_heap *heap = fresh(4 * KIB);
    static const size_t sizes[] = {SIZE_MAX,      SIZE_MAX - 1, SIZE_MAX - 7, SIZE_MAX - 15,
                                   SIZE_MAX - 64, SIZE_MAX / 2, 4 * KIB};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        CHECK(moat_heap_alloc(heap, sizes[i]) == NULL);
        CHECK(moat_heap_alloc_aligned(heap, sizes[i], 64, 0) == NULL);
    }
    CHECK(moat_heap_alloc_aligned(heap, 1, SIZE_MAX / 2 + 1, 0) == NULL);
    check_no_fault(heap);
}

MOAT_TEST(heap_free, joins_in_every_order) {
    static const unsigned char orders[6][3] = {{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}};
    for (size_t order = 0; order < 6; order++) {
        struct moat_heap *heap = fresh(4 * KIB);
        size_t all = statistics_of(heap).free_bytes;
        void *block[3];
        for (size_t i = 0; i < 3; i++)
            block[i] = moat_heap_alloc(heap, 100 + i);
        for (size_t i = 0; i < 3; i++) {
            CHECK(moat_heap_free(heap, block[orders[order][i]]));
            check_no_fault(heap);
        }
        CHECK_EQ(statistics_of(heap).free_count, 1);
        CHECK_EQ(statistics_of(heap).free_bytes, all);
        CHECK_EQ(statistics_of(heap).used_bytes, 0);
    }
}

MOAT_TEST(heap_free, takes_null) {
    struct moat_heap *heap = fresh(4 * KIB);
    CHECK(moat_heap_free(heap, NULL));
    check_no_fault(heap);
}

/* ---- aligned alloc ------------------------------------------------------------------------------------------------- */

MOAT_TEST(heap_alloc_aligned, puts_the_lead_on_the_boundary) {
    struct moat_heap *heap = fresh(sizeof memory);
    size_t all = statistics_of(heap).free_bytes;
    for (size_t alignment = 1; alignment <= 16 * KIB; alignment *= 2) {
        for (size_t lead = 0; lead <= 6 * ALIGN; lead += ALIGN) {
            void *before = moat_heap_alloc(heap, 24);
            unsigned char *block = moat_heap_alloc_aligned(heap, 500, alignment, lead);
            CHECK(block != NULL);
            CHECK_EQ((uintptr_t)(block + lead) % alignment, 0);
            CHECK_EQ((uintptr_t)block % ALIGN, 0);
            size_t usable = moat_heap_usable(heap, block);
            CHECK(usable >= 500 && usable <= 500 + MOAT_HEAP_SLACK_BYTES_MAX);
            memset(block, 0x11, usable);
            check_no_fault(heap);
            CHECK(moat_heap_free(heap, before));
            CHECK(moat_heap_free(heap, block));
            CHECK_EQ(statistics_of(heap).free_bytes, all);
        }
    }
}

MOAT_TEST(heap_alloc_aligned, refuses_what_cannot_be) {
    struct moat_heap *heap = fresh(sizeof memory);
    CHECK(moat_heap_alloc_aligned(heap, 8, 0, 0) == NULL);
    CHECK(moat_heap_alloc_aligned(heap, 8, 48, 0) == NULL);
    CHECK(moat_heap_alloc_aligned(heap, 8, 4 * ALIGN, ALIGN / 2) == NULL);
    CHECK(moat_heap_alloc_aligned(heap, 8, 2, 2) != NULL);
    check_no_fault(heap);
}

MOAT_TEST(heap_alloc_aligned, finds_the_only_block_that_fits_exactly) {
    struct moat_heap *heap = fresh(4 * KIB);
    size_t all = statistics_of(heap).free_bytes;
    unsigned char *whole = moat_heap_alloc(heap, all);
    CHECK(moat_heap_free(heap, whole));
    size_t alignment = (uintptr_t)whole & (0 - (uintptr_t)whole); /* the largest that `whole` happens to have */
    CHECK(moat_heap_alloc_aligned(heap, all, alignment, 0) == whole);
    check_no_fault(heap);
}

/* ---- resize -------------------------------------------------------------------------------------------------------- */

MOAT_TEST(heap_resize, grows_into_what_follows_and_shrinks_back) {
    struct moat_heap *heap = fresh(sizeof memory);
    unsigned char *block = moat_heap_alloc(heap, 100);
    for (size_t size = 100; size < 30 * KIB; size += 97) {
        CHECK(moat_heap_resize(heap, block, size));
        size_t usable = moat_heap_usable(heap, block);
        CHECK(usable >= size && usable <= size + MOAT_HEAP_SLACK_BYTES_MAX);
        check_no_fault(heap);
    }
    for (size_t size = 30 * KIB; size > 0; size -= 61 < size ? 61 : size) {
        CHECK(moat_heap_resize(heap, block, size));
        size_t usable = moat_heap_usable(heap, block);
        CHECK(usable >= size && usable <= size + MOAT_HEAP_SLACK_BYTES_MAX);
        check_no_fault(heap);
    }
    CHECK_EQ(statistics_of(heap).used_count, 1);
    CHECK_EQ(statistics_of(heap).allocation_count, 1);
}

MOAT_TEST(heap_resize, takes_exactly_all_that_follows) {
    struct moat_heap *heap = fresh(4 * KIB);
    size_t all = statistics_of(heap).free_bytes;
    void *block = moat_heap_alloc(heap, 40);
    CHECK(!moat_heap_resize(heap, block, all + 1));
    CHECK(moat_heap_usable(heap, block) <= 40 + MOAT_HEAP_SLACK_BYTES_MAX);
    CHECK(moat_heap_resize(heap, block, all));
    CHECK_EQ(moat_heap_usable(heap, block), all);
    CHECK_EQ(statistics_of(heap).free_count, 0);
    CHECK_EQ(statistics_of(heap).used_bytes_peak, all);
    CHECK(moat_heap_resize(heap, block, 40));
    CHECK_EQ(statistics_of(heap).free_count, 1);
    check_no_fault(heap);
}

MOAT_TEST(heap_resize, stops_at_a_used_neighbour) {
    struct moat_heap *heap = fresh(4 * KIB);
    void *block = moat_heap_alloc(heap, 200);
    size_t usable = moat_heap_usable(heap, block);
    void *neighbour = moat_heap_alloc(heap, 200);
    CHECK(!moat_heap_resize(heap, block, usable + 1));
    CHECK(moat_heap_resize(heap, block, usable));
    CHECK(moat_heap_resize(heap, block, 10)); /* what is cut off becomes a free block between the two */
    CHECK_EQ(statistics_of(heap).free_count, 2);
    CHECK(moat_heap_resize(heap, block, usable));
    CHECK_EQ(moat_heap_usable(heap, block), usable);
    CHECK_EQ(statistics_of(heap).free_count, 1);
    CHECK(moat_heap_free(heap, neighbour));
    check_no_fault(heap);
}

/* ---- walk and statistics ------------------------------------------------------------------------------------------- */

struct seen {
    uintptr_t last;
    size_t used_count, free_count, used_bytes, free_bytes, stop_after;
};

static bool see(void *argument, const struct moat_backend_block *block) {
    struct seen *seen = argument;
    CHECK((uintptr_t)block->start > seen->last);
    seen->last = (uintptr_t)block->start;
    seen->used_count += block->used;
    seen->free_count += !block->used;
    *(block->used ? &seen->used_bytes : &seen->free_bytes) += block->size_bytes;
    return --seen->stop_after != 0;
}

MOAT_TEST(heap_walk, shows_every_block_once_in_order) {
    struct moat_heap *heap = fresh(sizeof memory);
    void *block[40];
    for (size_t i = 0; i < 40; i++)
        block[i] = moat_heap_alloc(heap, 10 + 13 * i);
    size_t used_bytes = 0;
    for (size_t i = 0; i < 40; i++) {
        if (i % 3 == 0)
            CHECK(moat_heap_free(heap, block[i]));
        else
            used_bytes += moat_heap_usable(heap, block[i]);
    }
    struct seen seen = {.stop_after = SIZE_MAX};
    CHECK(moat_heap_walk(heap, see, &seen));
    CHECK_EQ(seen.used_count, 26);
    CHECK_EQ(seen.free_count, 14); /* blocks 0, 3 ... 36, and 39 joined with the rest */
    CHECK_EQ(seen.used_bytes, used_bytes);
    struct moat_heap_statistics statistics = statistics_of(heap);
    CHECK_EQ(statistics.used_bytes, used_bytes);
    CHECK_EQ(statistics.used_count, 26);
    CHECK_EQ(statistics.free_bytes, seen.free_bytes);
    CHECK_EQ(statistics.free_count, 14);
    CHECK_EQ(statistics.allocation_count, 40);
    CHECK_EQ(statistics.region_count, 1);
    CHECK_EQ(statistics.region_bytes, sizeof memory);
    CHECK(statistics.used_bytes_peak > used_bytes);
    struct seen three = {.stop_after = 3};
    CHECK(!moat_heap_walk(heap, see, &three));
    CHECK_EQ(three.used_count + three.free_count, 3);
}

MOAT_TEST(heap_backend, is_the_heap) {
    struct moat_heap *heap = fresh(4 * KIB);
    const struct moat_backend *backend = moat_heap_backend();
    unsigned char *block = backend->alloc(heap, 100, 256, 32);
    CHECK_EQ((uintptr_t)(block + 32) % 256, 0);
    CHECK_EQ(backend->usable(heap, block), moat_heap_usable(heap, block));
    CHECK(backend->resize(heap, block, 50));
    struct seen seen = {.stop_after = SIZE_MAX};
    CHECK(backend->walk(heap, see, &seen));
    CHECK_EQ(seen.used_count, 1);
    CHECK(backend->free(heap, block));
    struct moat_fault fault;
    CHECK(!backend->fault(heap, &fault));
    if (MOAT_HEAP_HARDENING >= 1) {
        CHECK(!backend->free(heap, block));
        CHECK(backend->fault(heap, &fault));
        CHECK_EQ(fault.block, (uintptr_t)block);
        CHECK_EQ(fault.fault_count, 1);
        CHECK(!backend->fault(heap, &fault));
    }
}
