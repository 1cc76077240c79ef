/* The workload by which small heaps are compared: filling 64 KiB at random until the first failure, then 20 rounds of
 * freeing half of the blocks and filling up again. Sizes of 1 to 512 bytes, small ones oftener.
 * May include: moat/heap.h and freestanding headers. */
#ifndef MOAT_BENCH_FILL_H
#define MOAT_BENCH_FILL_H

#include "moat/heap.h"

#include <stdint.h>

#define FILL_BYTES 65536u
#define FILL_ROUNDS 20u
#define FILL_SEED 0x9E3779B9u
#define FILL_BLOCKS (FILL_BYTES / MOAT_HEAP_BLOCK_BYTES_MIN)

struct fill {
    uint32_t random;
    size_t count;
    size_t requested_bytes; /* held now */
    void *blocks[FILL_BLOCKS];
    uint32_t sizes[FILL_BLOCKS];
};

struct fill_result {
    size_t first_bytes; /* requested bytes held at the first failure */
    size_t last_bytes;  /* and after the last round */
};

static inline uint32_t fill_draw(struct fill *fill) {
    fill->random ^= fill->random << 13;
    fill->random ^= fill->random >> 17;
    fill->random ^= fill->random << 5;
    return fill->random;
}

static inline void fill_up(struct fill *fill, struct moat_heap *heap) {
    for (;;) {
        uint32_t bits = 1 + fill_draw(fill) % 9;
        uint32_t size = 1 + (fill_draw(fill) & ((1u << bits) - 1));
        void *block = moat_heap_alloc(heap, size);
        if (block == NULL)
            return;
        fill->blocks[fill->count] = block;
        fill->sizes[fill->count++] = size;
        fill->requested_bytes += size;
    }
}

/* Frees each block with probability one half. */
static inline void fill_halve(struct fill *fill, struct moat_heap *heap) {
    size_t kept = 0;
    for (size_t i = 0; i < fill->count; i++) {
        if ((fill_draw(fill) & 1) != 0) {
            (void)moat_heap_free(heap, fill->blocks[i]);
            fill->requested_bytes -= fill->sizes[i];
            continue;
        }
        fill->blocks[kept] = fill->blocks[i];
        fill->sizes[kept++] = fill->sizes[i];
    }
    fill->count = kept;
}

/* Takes: fill, overwritten; memory of FILL_BYTES, aligned to 64. */
static inline struct fill_result fill_run(struct fill *fill, void *memory, uint32_t seed) {
    struct fill_result result;
    struct moat_heap *heap = moat_heap_create(memory, FILL_BYTES, NULL);
    fill->random = seed;
    fill->count = 0;
    fill->requested_bytes = 0;
    fill_up(fill, heap);
    result.first_bytes = fill->requested_bytes;
    for (size_t round = 0; round < FILL_ROUNDS; round++) {
        fill_halve(fill, heap);
        fill_up(fill, heap);
    }
    result.last_bytes = fill->requested_bytes;
    return result;
}

#endif
