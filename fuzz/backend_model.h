/* A model of any backend that is run beside it: who owns which byte, what is in it, what a rewind takes back.
 * May include: moat's public headers and freestanding headers. Neither allocates nor prints; it also runs on devices.
 *
 * The same stream of bytes drives the heap, a pool and an arena: alloc, aligned alloc with lead, free, resize, realloc,
 * misuse, marks and rewinds, full checks. Any bytes are a valid stream, so a generator with a seed and a fuzzer drive
 * it alike. What only the heap has, regions and their joining, is in heap_model.h. */
#ifndef MOAT_FUZZ_BACKEND_MODEL_H
#define MOAT_FUZZ_BACKEND_MODEL_H

#include "moat/arena.h"
#include "moat/backend.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MOAT_BACKEND_MODEL_BLOCKS 160
#define MOAT_BACKEND_MODEL_MARKS 8

/* What is to be expected of a backend. */
struct moat_backend_traits {
    const struct moat_backend *backend;
    void *context;
    unsigned char *memory; /* all blocks lie in it */
    size_t memory_bytes;
    size_t block_bytes;       /* of every block; 0: any size */
    size_t block_count;       /* of a pool; 0: unknown */
    size_t slack_bytes_max;   /* how much more than asked for a block may have */
    bool knows_sizes;         /* usable and walk know every block, not just the latest */
    bool proves;              /* bad frees are refused; otherwise none is tried */
    struct moat_arena *arena; /* blocks are not freed singly, but rewound; NULL: they are freed */
    bool (*verify)(void *context, struct moat_fault *fault);
    void *(*realloc)(void *context, void *block, size_t size_bytes); /* NULL: none */
    bool (*is_empty)(void *context); /* everything was freed: has all memory come together? */
};

struct moat_backend_model_block {
    unsigned char *start; /* NULL: none */
    size_t size_bytes;    /* as asked for */
    size_t usable_bytes;  /* as the backend said at once */
    uint32_t seed;        /* what its bytes are filled from */
    uint64_t born;        /* which operation made it */
};

struct moat_backend_model {
    struct moat_backend_traits traits;
    unsigned char *owner; /* a byte for each byte of memory: 0 free */
    struct moat_backend_model_block blocks[MOAT_BACKEND_MODEL_BLOCKS];
    struct moat_arena_mark marks[MOAT_BACKEND_MODEL_MARKS];
    uint64_t mark_born[MOAT_BACKEND_MODEL_MARKS];
    size_t mark_count;
    size_t used_count;
    unsigned char *last_freed;
    uint32_t next_seed;
    uint64_t operations; /* done so far */
    uint64_t refusals;   /* bad frees that were refused */
    const char *failure; /* what went wrong; NULL: nothing yet */
};

/* Sets the model up over a backend of which no block was taken yet; owner has memory_bytes bytes. */
void moat_backend_model_init(struct moat_backend_model *model, const struct moat_backend_traits *traits,
                             unsigned char *owner);

/* Runs a stream of operations, then takes everything back and checks that nothing is left.
 * Gives:   NULL, or what went wrong first. */
const char *moat_backend_model_run(struct moat_backend_model *model, const uint8_t *stream, size_t length_bytes);

#endif
