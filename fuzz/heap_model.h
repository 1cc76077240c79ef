/* A model of the heap that is run beside it: an exact map of who owns which byte, checked after every operation.
 * May include: moat/heap.h and freestanding headers. Neither allocates nor prints; it also runs on devices.
 *
 * A stream of bytes is read as operations: alloc, aligned alloc, free, resize, adding and removing regions, full checks. Any bytes
 * are a valid stream, so a generator with a seed and a fuzzer drive it alike. */
#ifndef MOAT_FUZZ_HEAP_MODEL_H
#define MOAT_FUZZ_HEAP_MODEL_H

#include "moat/heap.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MOAT_MODEL_BLOCKS 200
#define MOAT_MODEL_SLOTS 12 /* pieces of memory that lie side by side; each is in the heap or not */

struct moat_model_block {
    unsigned char *start; /* NULL: none */
    size_t size_bytes;    /* as asked for */
    size_t usable_bytes;  /* as the heap said at once */
    uint32_t seed;        /* what its bytes are filled from */
};

struct moat_model {
    struct moat_heap *heap;
    unsigned char *memory;
    size_t slot_bytes;
    unsigned char *owner; /* one byte for each MOAT_HEAP_ALIGNMENT_BYTES of memory */
    bool present[MOAT_MODEL_SLOTS];
    size_t control_slot;
    size_t control_bytes; /* the control block's whole block */
    struct moat_model_block blocks[MOAT_MODEL_BLOCKS];
    size_t used_count, used_bytes, peak_bytes, allocation_count, failure_count;
    uint32_t next_seed;
    uint64_t operations; /* done so far */
    const char *failure; /* what went wrong; NULL: nothing yet */
};

/* Sets the model up over memory of MOAT_MODEL_SLOTS * slot_bytes bytes.
 * Takes:   memory and slot_bytes, both aligned to 64; owner, of memory size / MOAT_HEAP_ALIGNMENT_BYTES bytes; which slot the heap
 *          is made in. */
void moat_model_init(struct moat_model *model, void *memory, size_t slot_bytes, unsigned char *owner,
                     size_t first_slot);

/* Runs a stream of operations, then frees everything and checks that all free memory has come together again.
 * Gives:   NULL, or what went wrong first. */
const char *moat_model_run(struct moat_model *model, const uint8_t *stream, size_t length_bytes);

/* Draws the memory as the model knows it, a line for each slot: '#' used, '.' free, 'C' control block, ' ' not in the heap. */
void moat_model_draw(const struct moat_model *model, void (*put)(const char *text));

#endif
