/* Portable tests of realloc: in place, backward, elsewhere, and what it does not do.
 * May include: tests/test.h, moat/heap.h, string.h. */
#include "moat/heap.h"
#include "tests/test.h"

#include <string.h>

#define BLOCK ((size_t)200)

static _Alignas(64) unsigned char memory[16 * 1024];

static struct moat_heap_statistics statistics_of(const struct moat_heap *heap) {
    struct moat_heap_statistics statistics;
    moat_heap_statistics(heap, &statistics);
    return statistics;
}

static void fill(unsigned char *block, size_t bytes, unsigned seed) {
    for (size_t i = 0; i < bytes; i++)
        block[i] = (unsigned char)(seed + i * 7);
}

static bool holds(const unsigned char *block, size_t bytes, unsigned seed) {
    for (size_t i = 0; i < bytes; i++) {
        if (block[i] != (unsigned char)(seed + i * 7))
            return false;
    }
    return true;
}

/* A heap with blocks side by side and no other free memory but what a test makes by freeing some. */
static struct moat_heap *full_heap(unsigned char *blocks[], size_t count) {
    struct moat_heap *heap = moat_heap_create(memory, sizeof memory, NULL);
    for (size_t i = 0; i < count; i++) {
        blocks[i] = moat_heap_alloc(heap, BLOCK);
        CHECK(blocks[i] != NULL);
        CHECK(i == 0 || blocks[i] > blocks[i - 1]);
        fill(blocks[i], BLOCK, (unsigned)i);
    }
    while (moat_heap_alloc(heap, 1) != NULL)
        continue;
    return heap;
}

MOAT_TEST(heap_realloc, grows_forward_in_place) {
    unsigned char *blocks[5];
    struct moat_heap *heap = full_heap(blocks, 5);
    CHECK(moat_heap_free(heap, blocks[2]));
    CHECK(moat_heap_free(heap, blocks[0]));
    CHECK(moat_heap_realloc(heap, blocks[1], 2 * BLOCK) == blocks[1]);
    CHECK(holds(blocks[1], BLOCK, 1));
    fill(blocks[1], 2 * BLOCK, 50);
    CHECK(holds(blocks[3], BLOCK, 3));
    CHECK(moat_heap_verify(heap, NULL));
    CHECK(moat_heap_realloc(heap, blocks[1], 10) == blocks[1]);
    CHECK(holds(blocks[1], 10, 50));
    CHECK(moat_heap_verify(heap, NULL));
}

/* Into the free block in front, alone or with the one behind, exactly full or with a rest. */
MOAT_TEST(heap_realloc, grows_backward_when_it_must) {
    for (size_t with_behind = 0; with_behind < 2; with_behind++) {
        size_t blocks_joined = 2 + with_behind;
        size_t most = 0;
        for (size_t size = BLOCK + MOAT_HEAP_SLACK_BYTES_MAX + 1;
             size <= blocks_joined * (BLOCK + 2 * MOAT_HEAP_ALIGNMENT_BYTES); size++) {
            unsigned char *blocks[5];
            struct moat_heap *heap = full_heap(blocks, 5);
            struct moat_heap_statistics full = statistics_of(heap);
            CHECK(moat_heap_free(heap, blocks[1]));
            CHECK(with_behind == 0 || moat_heap_free(heap, blocks[3]));
            unsigned char *moved = moat_heap_realloc(heap, blocks[2], size);
            CHECK(moat_heap_verify(heap, NULL));
            if (moved == NULL) {
                CHECK(size > most && holds(blocks[2], BLOCK, 2));
                CHECK(moat_heap_free(heap, blocks[2]));
                continue;
            }
            most = size;
            CHECK(moved == blocks[1] || (with_behind != 0 && moved == blocks[2]));
            CHECK(holds(moved, BLOCK, 2));
            CHECK_EQ(statistics_of(heap).used_count, full.used_count - 1 - with_behind);
            CHECK_EQ(statistics_of(heap).allocation_count, full.allocation_count);
            size_t usable = moat_heap_usable(heap, moved);
            CHECK(usable >= size && usable <= size + MOAT_HEAP_SLACK_BYTES_MAX);
            /* The old place is no block any more, even before its bytes are written over. */
            CHECK(moved == blocks[2] || MOAT_HEAP_HARDENING == 0 || !moat_heap_free(heap, blocks[2]));
            fill(moved, usable, 90);
            CHECK(holds(blocks[0], BLOCK, 0) && holds(blocks[4], BLOCK, 4));
            CHECK(with_behind != 0 || holds(blocks[3], BLOCK, 3));
            CHECK(moat_heap_verify(heap, NULL));
            CHECK(moat_heap_free(heap, moved));
            CHECK(moat_heap_verify(heap, NULL));
        }
        /* Their sizes and all overheads but one. */
        CHECK(most >= blocks_joined * BLOCK + with_behind * MOAT_HEAP_OVERHEAD_BYTES);
    }
}

/* The free block in front is smaller than the one that moves, so that both places overlap. */
MOAT_TEST(heap_realloc, moves_back_by_less_than_its_size) {
    for (size_t step = 1; step <= 4 * MOAT_HEAP_ALIGNMENT_BYTES; step += 3) {
        struct moat_heap *heap = moat_heap_create(memory, sizeof memory, NULL);
        unsigned char *front = moat_heap_alloc(heap, step);
        unsigned char *block = moat_heap_alloc(heap, 1000);
        unsigned char *behind = moat_heap_alloc(heap, 1);
        while (moat_heap_alloc(heap, 1) != NULL)
            continue;
        size_t usable = moat_heap_usable(heap, block);
        fill(block, usable, 33);
        CHECK(moat_heap_free(heap, front));
        CHECK(moat_heap_realloc(heap, block, usable + 1) == front);
        CHECK(holds(front, usable, 33));
        CHECK(moat_heap_free(heap, behind));
        CHECK(moat_heap_verify(heap, NULL));
    }
}

MOAT_TEST(heap_realloc, moves_elsewhere_when_there_is_no_room) {
    unsigned char *blocks[9];
    struct moat_heap *heap = full_heap(blocks, 9);
    CHECK(moat_heap_free(heap, blocks[4]));
    CHECK(moat_heap_free(heap, blocks[5]));
    CHECK(moat_heap_free(heap, blocks[6]));
    unsigned char *moved = moat_heap_realloc(heap, blocks[1], 2 * BLOCK);
    CHECK(moved >= blocks[4] && moved < blocks[7]);
    CHECK(holds(moved, BLOCK, 1));
    fill(moved, 2 * BLOCK, 60);
    CHECK(moat_heap_verify(heap, NULL));
    CHECK(moat_heap_alloc(heap, BLOCK) == blocks[1]); /* the old place is free */
    CHECK(moat_heap_realloc(heap, blocks[2], 3 * BLOCK) == NULL);
    CHECK(holds(blocks[2], BLOCK, 2));
    CHECK(moat_heap_verify(heap, NULL));
}

MOAT_TEST(heap_realloc, of_null_is_alloc) {
    struct moat_heap *heap = moat_heap_create(memory, sizeof memory, NULL);
    unsigned char *block = moat_heap_realloc(heap, NULL, 100);
    CHECK(block != NULL && moat_heap_usable(heap, block) >= 100);
    CHECK(moat_heap_realloc(heap, block, 0) == block); /* a size of 0 is taken as 1 */
    CHECK(moat_heap_usable(heap, block) >= 1);
    size_t failures = statistics_of(heap).failure_count;
    CHECK(moat_heap_realloc(heap, block, SIZE_MAX) == NULL);
    CHECK(moat_heap_realloc(heap, block, sizeof memory) == NULL);
    CHECK_EQ(statistics_of(heap).failure_count, failures + 2);
    CHECK(moat_heap_free(heap, block));
    CHECK_EQ(statistics_of(heap).free_count, 1);
}

#if MOAT_HEAP_HARDENING >= 1
MOAT_TEST(heap_realloc, refuses_damage) {
    unsigned char *blocks[5];
    struct moat_heap *heap = full_heap(blocks, 5);
    struct moat_fault fault;
    CHECK(moat_heap_free(heap, blocks[1]));
    CHECK(moat_heap_realloc(heap, blocks[1], 2 * BLOCK) == NULL);
    CHECK(moat_heap_take_fault(heap, &fault));
    CHECK_TEXT(fault.rule, "a block that is freed is in use");
    memset(blocks[1] + BLOCK - 20, 0x41, 20); /* the free block's footer, and what it may cost of the slack before it */
    memset(blocks[2] - MOAT_HEAP_OVERHEAD_BYTES - sizeof(uintptr_t), 0x41, sizeof(uintptr_t));
    CHECK(moat_heap_realloc(heap, blocks[2], 2 * BLOCK) == NULL);
    CHECK(moat_heap_take_fault(heap, &fault));
    CHECK_TEXT(fault.rule, "a free block's footer is its size");
    CHECK_EQ(fault.block, (uintptr_t)blocks[2]);
    CHECK(holds(blocks[2], BLOCK, 2));
    CHECK(moat_heap_realloc(heap, blocks[2] + 4, 10) == NULL);
}
#endif
