/* Portable tests of the static buffer as a source.
 * May include: tests/test.h, moat/heap.h, moat/sources.h. */
#include "moat/heap.h"
#include "moat/sources.h"
#include "tests/test.h"

#define ALIGN _Alignof(max_align_t)

static _Alignas(max_align_t) unsigned char memory[32 * 1024];

MOAT_TEST(source_static, hands_out_pieces_that_touch) {
    struct moat_static_source state;
    const struct moat_source *source = moat_static_source_init(&state, memory, sizeof memory);
    size_t got = 0;
    unsigned char *first = source->acquire(source->context, 1007, &got);
    CHECK(first == memory);
    CHECK(got == 1008);
    unsigned char *second = source->acquire(source->context, 64, &got);
    CHECK(second == first + 1008);
    CHECK_EQ(got, 64);
    CHECK(source->acquire(source->context, sizeof memory, &got) == NULL);
    CHECK(source->acquire(source->context, SIZE_MAX, &got) == NULL);
    CHECK(source->acquire(source->context, 0, &got) == NULL);
    CHECK(source->acquire(source->context, sizeof memory - 1072, &got) == second + 64);
    CHECK(source->acquire(source->context, 1, &got) == NULL);
}

MOAT_TEST(source_static, takes_the_end_back) {
    struct moat_static_source state;
    const struct moat_source *source = moat_static_source_init(&state, memory + 64, sizeof memory - 64);
    size_t got = 0;
    unsigned char *first = source->acquire(source->context, 1024, &got);
    unsigned char *second = source->acquire(source->context, 1024, &got);
    CHECK(!source->release(source->context, first, 1024));
    CHECK(!source->release(source->context, second + 2048, 0));
    CHECK(!source->release(source->context, memory + 48, 2064));
    CHECK(source->release(source->context, second + 512, 512));
    CHECK(!source->release(source->context, second + 512, 512));
    CHECK(source->release(source->context, first, 1536));
    CHECK(source->acquire(source->context, sizeof memory - 64, &got) == memory + 64);
}

MOAT_TEST(source_static, rounds_its_ends_inwards) {
    struct moat_static_source state;
    size_t got = 0;
    const struct moat_source *source = moat_static_source_init(&state, memory + 1, 5 * ALIGN + 4);
    unsigned char *piece = source->acquire(source->context, 4 * ALIGN, &got);
    CHECK(piece == memory + ALIGN);
    CHECK(source->acquire(source->context, 1, &got) == NULL);
    source = moat_static_source_init(&state, memory + 1, ALIGN);
    CHECK(source->acquire(source->context, 1, &got) == NULL);
    source = moat_static_source_init(&state, NULL, 100);
    CHECK(source->acquire(source->context, 1, &got) == NULL);
}

MOAT_TEST(source_static, feeds_a_heap_to_its_end) {
    struct moat_static_source state;
    struct moat_heap_config config = {.source = moat_static_source_init(&state, memory, sizeof memory),
                                      .grow_bytes = 1024};
    struct moat_heap *heap = moat_heap_create_from_source(&config);
    size_t blocks = 0;
    while (moat_heap_alloc(heap, 100) != NULL)
        blocks++;
    struct moat_heap_statistics statistics;
    moat_heap_statistics(heap, &statistics);
    CHECK_EQ(statistics.region_count, 1);
    CHECK(statistics.region_bytes + 512 > sizeof memory);
    CHECK(blocks * (100 + MOAT_HEAP_SLACK_BYTES_MAX + MOAT_HEAP_OVERHEAD_BYTES) > sizeof memory - 2048);
    CHECK(moat_heap_verify(heap, NULL));
}

/* A host's heap remembers a region for each stretch of 4 MiB. One that grew must not be remembered as it was: a block across
 * the seam would seem to reach out of it. Here the first region begins in one stretch and ends in the next. */
MOAT_TEST(source_static, a_large_heap_forgets_what_a_region_was) {
    enum { STRETCH = 4 << 20, MIB = 1 << 20 };
    static unsigned char large[3 * STRETCH];
    static _Alignas(max_align_t) unsigned char other[8192];
    unsigned char *start = large + (STRETCH - (uintptr_t)large % STRETCH) + STRETCH - MIB / 2;
    struct moat_static_source state;
    struct moat_heap_config config = {.source = moat_static_source_init(&state, start, 3 * MIB), .grow_bytes = MIB};
    struct moat_heap *heap = moat_heap_create_from_source(&config);
    void *small = moat_heap_alloc(heap, 100); /* the region is remembered now */
    void *across = moat_heap_alloc(heap, MIB);
    CHECK(moat_heap_add_region(heap, other, sizeof other));
    void *elsewhere = moat_heap_alloc(heap, 8000); /* and now another one is the latest */
    CHECK((unsigned char *)elsewhere > other && (unsigned char *)elsewhere < other + sizeof other);
    CHECK(moat_heap_free(heap, elsewhere));
    CHECK(moat_heap_free(heap, across));
    CHECK(moat_heap_free(heap, small));
    CHECK(moat_heap_verify(heap, NULL));
}
