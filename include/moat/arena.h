/* Arenas: memory that is handed out by moving a pointer, and taken back all at once, to a mark or to the start.
 * May include: moat/backend.h, moat/source.h and the C library's freestanding headers.
 *
 *   chunk   | record | block | block | block | ... unused ... |
 *
 * An arena works in one buffer, or in chunks that it chains together as a source gives them, or in both: the buffer
 * first. It has no lock: who shares one locks around every call.
 *
 *   struct moat_arena arena;
 *   moat_arena_init(&arena, buffer, sizeof buffer, NULL);
 *   struct moat_arena_mark mark = moat_arena_mark(&arena);
 *   void *p = moat_arena_alloc(&arena, 100);
 *   moat_arena_rewind(&arena, mark);
 */
#ifndef MOAT_ARENA_H
#define MOAT_ARENA_H

#include "moat/backend.h"
#include "moat/source.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What blocks are aligned to unless the caller asks for something else. */
#define MOAT_ARENA_ALIGNMENT_BYTES (2 * sizeof(uintptr_t))

/* What a chunk's record takes of it, and the least that a buffer must have: a record and room for a block. Buffers that
 * are not aligned lose a few bytes more. */
#define MOAT_ARENA_RECORD_BYTES (4 * sizeof(uintptr_t))
#define MOAT_ARENA_BUFFER_BYTES_MIN (MOAT_ARENA_RECORD_BYTES + 2 * MOAT_ARENA_ALIGNMENT_BYTES)

/* All zero is a good default. */
struct moat_arena_config {
    /* Where chunks come from when the buffer is full. NULL: nowhere. It must outlive the arena. */
    const struct moat_source *source;
    /* The least that is acquired from the source at a time. 0: 64 KiB on 64-bit, 1 KiB on 32-bit targets. */
    size_t chunk_bytes;
    /* The high-water mark: of chunks that a rewind empties so much is kept for reuse; what is beyond goes back to the
     * source. 0: as much as one chunk; 1: nothing; SIZE_MAX: everything. */
    size_t keep_bytes;
    /* Whether each block has its size in a word in front of it, so that `usable` and `walk` know all blocks. A guard
     * over the arena needs it. Without it only the latest block's size is known, until the next mark. */
    bool sized_blocks;
};

/* Private to src/arena, but for its size. */
struct moat_arena {
    const struct moat_source *source;
    size_t chunk_bytes;
    size_t keep_bytes;
    size_t header_bytes; /* a word in front of each block, or 0 */
    uintptr_t chunk;     /* record of the chunk that blocks are taken from; 0: none */
    uintptr_t next;      /* where it is unused from */
    uintptr_t end;       /* where it ends */
    uintptr_t last;      /* the latest block, as long as it can be resized; 0: none */
    uintptr_t spare;     /* record of the first chunk that is kept for reuse; 0: none */
    size_t spare_bytes;
    size_t used_bytes; /* of earlier chunks and this one, records left out */
    size_t used_bytes_peak;
    size_t allocation_count;
    size_t failure_count;
    uintptr_t fault_block;
    uint32_t fault_count;
    uint8_t fault_rule;
    uint8_t fault_pending;
    uint8_t reserved[2];
};

/* A point in an arena's life. Valid until the arena is rewound to an earlier point, reset or closed. */
struct moat_arena_mark {
    uintptr_t chunk;
    uintptr_t next;
    size_t used_bytes;
};

/* Prepares an arena.
 * Takes:   a buffer, which may be NULL with 0 bytes when the config names a source; config may be NULL.
 * Fails:   false when there is neither a buffer of MOAT_ARENA_BUFFER_BYTES_MIN nor a source; the arena is then one that
 *          never has a block.
 * Owns:    the arena owns the buffer until it is closed. */
bool moat_arena_init(struct moat_arena *arena, void *buffer, size_t bytes, const struct moat_arena_config *config);

/* Gives a block of at least size_bytes, aligned to MOAT_ARENA_ALIGNMENT_BYTES; its contents are unspecified. A size of
 * 0 is taken as 1.
 * Fails:   NULL when there is no room and the source gives no more; nothing changes.
 * Owns:    the arena; the block is valid until it is rewound past.
 * Cost:    O(1); O(spare chunks) and the source's cost when the chunk is full. */
void *moat_arena_alloc(struct moat_arena *arena, size_t size_bytes);

/* The same with (result + lead_bytes) % alignment == 0.
 * Takes:   alignment, a power of two; below MOAT_ARENA_ALIGNMENT_BYTES it packs blocks tightly, unless they are sized.
 *          Any lead for blocks that are not sized; otherwise a multiple of MOAT_ARENA_ALIGNMENT_BYTES or of the
 *          alignment, whichever is less.
 * Fails:   as alloc, and NULL when alignment and lead cannot be had. */
void *moat_arena_alloc_aligned(struct moat_arena *arena, size_t size_bytes, size_t alignment, size_t lead_bytes);

/* Makes a block larger or smaller without moving it.
 * Fails:   false when it is not the latest block since the last mark and would have to grow, or its size is not known,
 *          or the chunk is full. */
bool moat_arena_resize(struct moat_arena *arena, void *block, size_t size_bytes);

/* The usable size of a block; 0 when the arena cannot vouch for it: without sized blocks it knows the latest only. */
size_t moat_arena_usable(struct moat_arena *arena, const void *block);

/* Remembers the present point. The latest block cannot be resized any more from then on. Cost: O(1). */
struct moat_arena_mark moat_arena_mark(struct moat_arena *arena);

/* Takes back every block handed out since the mark. Chunks that become empty go back to the source, newest first, or
 * are kept for reuse as far as keep_bytes says.
 * Fails:   false when the mark is not of this arena's chunks, or the arena was rewound past it and has not come as far
 *          again, or a record is damaged; nothing changes, `moat_arena_take_fault` tells why.
 * Cost:    O(chunks since the mark), and what the source takes. */
bool moat_arena_rewind(struct moat_arena *arena, struct moat_arena_mark mark);

/* Takes back every block. As rewinding to a mark taken right after init. */
bool moat_arena_reset(struct moat_arena *arena);

/* Gives every chunk back to the source. The arena is then empty, and its buffer the caller's; it must be initialised
 * again before it is used. Memory that the source refuses is lost to the arena and still the source's to account for.
 * Fails:   false when a damaged record ended it early. */
bool moat_arena_close(struct moat_arena *arena);

/* Visits the ranges of memory in which blocks lie that a rewind to the mark would take back, newest first: what a guard
 * must look at before it happens. For a reset and for close pass moat_arena_mark_start.
 * Gives:   true when it came to the end; false when `visit` said so, or where rewind would fail.
 * Context: reads only; `visit` must not call the arena. */
bool moat_arena_each_range_after(const struct moat_arena *arena, struct moat_arena_mark mark,
                                 bool (*visit)(void *argument, void *start, size_t size_bytes), void *argument);

/* The mark that everything comes after. */
struct moat_arena_mark moat_arena_mark_start(void);

/* Visits every block, newest chunk first, in address order within a chunk; gaps that alignment made are shown as free.
 * Nothing is visited without sized blocks.
 * Gives:   true when it came to the end; false when `visit` said so or something is damaged.
 * Context: reads only; `visit` must not call the arena. */
bool moat_arena_walk(const struct moat_arena *arena,
                     bool (*visit)(void *argument, const struct moat_backend_block *block), void *argument);

struct moat_arena_statistics {
    size_t chunk_count; /* in use, the buffer included */
    size_t chunk_bytes; /* of these, records included */
    size_t spare_count; /* kept for reuse */
    size_t spare_bytes;
    size_t used_bytes; /* blocks, their headers and what alignment and the ends of chunks left unused */
    size_t used_bytes_peak;
    size_t allocation_count; /* successful allocations so far; wraps */
    size_t failure_count;    /* allocations that got NULL; wraps */
};

/* Fills in the statistics. Cost: O(chunks). */
void moat_arena_statistics(const struct moat_arena *arena, struct moat_arena_statistics *statistics);

/* Checks every record, and with sized blocks every block's size, and changes nothing.
 * Gives:   true when all holds; else false with *fault (may be NULL) filled in. */
bool moat_arena_verify(const struct moat_arena *arena, struct moat_fault *fault);

/* The latest fault that a call ran into, if there was one since the last time this was asked. */
bool moat_arena_take_fault(struct moat_arena *arena, struct moat_fault *fault);

/* The arena as a backend; the context is the struct moat_arena. `free` refuses every block and records the fault "arena
 * blocks are not freed singly". */
const struct moat_backend *moat_arena_backend(void);

#ifdef __cplusplus
}
#endif
#endif
