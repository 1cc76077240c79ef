/* Moat's heap: constant-time alloc and free over any number of memory regions, for hosts and devices alike.
 * May include: moat/backend.h, moat/source.h and the C library's freestanding headers.
 *
 * The heap is a plain data structure in memory that its caller provides. It has no globals, no lock and no operating
 * system below it: who shares a heap between threads or with an interrupt handler locks around every call.
 *
 *   region   | record | control block (first region only) | block | block | ... | block | sentinel |
 *
 * The smallest complete use:
 *
 *   static max_align_t memory[1024];
 *   struct moat_heap *heap = moat_heap_create(memory, sizeof memory, NULL);
 *   void *p = moat_heap_alloc(heap, 100);
 *   moat_heap_free(heap, p);
 */
#ifndef MOAT_HEAP_H
#define MOAT_HEAP_H

#include "moat/backend.h"
#include "moat/source.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* How much the heap distrusts its own memory. Set it with -DMOAT_HEAP_HARDENING=n, the same for every file that
 * includes this header.
 *   0  nothing is proved. For memory that nobody else writes to. `verify` and `walk` still never leave the regions.
 *   1  every link, size, footer and flag is proved before it is followed: damage and misuse (double free, wild
 *   pointers)
 *      are refused and recorded, and no call leaves the regions whatever its bytes say. Sizes changed into other
 *      plausible ones pass.
 *   2  as 1, and every block header carries a 16-bit check that depends on its address and the heap's key: a change
 *      confined to 16 adjacent bits of the header is always detected, any other with probability 1 - 2^-16. On 32-bit
 *      targets the check takes one more word for each block. */
#ifndef MOAT_HEAP_HARDENING
#define MOAT_HEAP_HARDENING 1
#endif

#define MOAT_HEAP_WORD_BYTES sizeof(uintptr_t)

/* Every block's address is a multiple of this. */
#define MOAT_HEAP_ALIGNMENT_BYTES (2 * MOAT_HEAP_WORD_BYTES)

/* What a used block costs beyond its usable bytes. */
#if MOAT_HEAP_HARDENING >= 2 && UINTPTR_MAX <= 0xffffffffu
#define MOAT_HEAP_OVERHEAD_BYTES (2 * MOAT_HEAP_WORD_BYTES)
#else
#define MOAT_HEAP_OVERHEAD_BYTES MOAT_HEAP_WORD_BYTES
#endif

/* The smallest block, overhead included: a free block holds its header, two links and its size again at the end. */
#define MOAT_HEAP_BLOCK_BYTES_MIN                                                                                      \
    ((MOAT_HEAP_OVERHEAD_BYTES + 3 * MOAT_HEAP_WORD_BYTES + MOAT_HEAP_ALIGNMENT_BYTES - 1) /                           \
     MOAT_HEAP_ALIGNMENT_BYTES * MOAT_HEAP_ALIGNMENT_BYTES)

/* A block's usable size is at most this much more than was asked for: rounding, the smallest block, and a remainder too
 * small to be a block of its own. */
#define MOAT_HEAP_SLACK_BYTES_MAX                                                                                      \
    (2 * MOAT_HEAP_BLOCK_BYTES_MIN - MOAT_HEAP_ALIGNMENT_BYTES - MOAT_HEAP_OVERHEAD_BYTES - 1)

/* The smallest buffer that `moat_heap_create` can do something with. */
#define MOAT_HEAP_BUFFER_BYTES_MIN (sizeof(uintptr_t) > 4 ? 512u : 256u)

/* Further regions can be smaller. */
#define MOAT_HEAP_REGION_BYTES_MIN (2 * MOAT_HEAP_BLOCK_BYTES_MIN)

struct moat_heap;

/* All zero is a good default. */
struct moat_heap_config {
    /* The largest block that is found in constant time; it sizes the control block. Larger ones work too, as long as
     * few of them are free at a time. 0: the first region's size. */
    size_t largest_block_bytes;
    /* Where more memory comes from when there is no block large enough. NULL: nowhere. It must outlive the heap. */
    const struct moat_source *source;
    /* The least that is acquired from the source at a time; a heap that has grown asks for a sixteenth of itself. 0: 4
     * MiB on 64-bit, 4 KiB on 32-bit targets. */
    size_t grow_bytes;
    /* The high-water mark: how much free memory the heap keeps when blocks are freed; what is beyond goes back to the
     * source by itself, as trim gives it back, once it is grow_bytes or more. 0: nothing goes back before trim is
     * called. */
    size_t keep_bytes;
    /* A secret for the checks, the more random the better. 0: made of the heap's address, which catches accidents
     * only. */
    uintptr_t key;
};

/* Makes a heap inside a buffer, which becomes its first region; the control block lies at its start and takes at most
 * bytes / 64 + 128 (32-bit) or bytes / 32 + 256 (64-bit), unless largest_block_bytes asks for more.
 * Takes:   any buffer; bytes >= MOAT_HEAP_BUFFER_BYTES_MIN (an unaligned one may need a few more); config may be NULL.
 * Gives:   the heap, or NULL when the buffer is too small.
 * Owns:    the heap owns the buffer until the caller stops using the heap; there is nothing to destroy. */
struct moat_heap *moat_heap_create(void *buffer, size_t bytes, const struct moat_heap_config *config);

/* The same with the control block in memory of its own, which may be better protected.
 * Takes:   `control`, aligned for a pointer, of at least `moat_heap_control_bytes`; the buffer may be NULL: then there
 *          is no region yet.
 * Gives:   the heap, or NULL when something is too small or misaligned. */
struct moat_heap *moat_heap_create_apart(void *control, size_t control_bytes, void *buffer, size_t bytes,
                                         const struct moat_heap_config *config);

/* How large a control block is for a first region of that size. */
size_t moat_heap_control_bytes(size_t bytes, const struct moat_heap_config *config);

/* Makes a heap whose first region comes from config->source as well: max(grow_bytes, MOAT_HEAP_BUFFER_BYTES_MIN). NULL
 * when the source gives nothing. */
struct moat_heap *moat_heap_create_from_source(const struct moat_heap_config *config);

/* Gives the heap more memory. Regions that touch become one, so blocks can span them; memory the heap acquired itself
 * is not joined with memory it was given.
 * Takes:   at least MOAT_HEAP_REGION_BYTES_MIN after rounding the ends inwards to MOAT_HEAP_ALIGNMENT_BYTES.
 * Fails:   false when it is too small or overlaps a region; nothing changes.
 * Cost:    O(regions). */
bool moat_heap_add_region(struct moat_heap *heap, void *start, size_t bytes);

/* Takes a wholly free region out of the heap; the memory is the caller's again. Regions that were joined are one.
 * Takes:   the region's start, as it was given or rounded.
 * Fails:   false when there is no such region, or a block (or the control block) is in it; nothing changes.
 * Cost:    O(regions). */
bool moat_heap_remove_region(struct moat_heap *heap, void *start);

/* Gives free memory back to the source: wholly free regions, and free memory at the end or start of others, in
 * multiples of 64 KiB (4 KiB on 32-bit targets).
 * Takes:   keep_bytes, how much free memory the heap keeps at least.
 * Gives:   how much was given back.
 * Cost:    O(regions), and what the source takes. */
size_t moat_heap_trim(struct moat_heap *heap, size_t keep_bytes);

/* Changes the high-water mark, config->keep_bytes; 0: nothing goes back before trim is called. What is beyond it goes
 * back at a later free. */
void moat_heap_keep(struct moat_heap *heap, size_t keep_bytes);

/* Gives a block of at least size_bytes, aligned to MOAT_HEAP_ALIGNMENT_BYTES; its contents are unspecified. A size of 0
 * is taken as 1.
 * Fails:   NULL when no free block is large enough and the source gives no more.
 * Cost:    O(1) in blocks. Finding a block's region is O(1) while few regions are in use, O(regions) at worst. */
void *moat_heap_alloc(struct moat_heap *heap, size_t size_bytes);

/* The same with (result + lead_bytes) % alignment == 0. The result itself is a multiple of MOAT_HEAP_ALIGNMENT_BYTES.
 * Takes:   alignment, a power of two; lead_bytes, a multiple of MOAT_HEAP_ALIGNMENT_BYTES or of the alignment,
 *          whichever is less.
 * Fails:   as alloc, and NULL when alignment and lead cannot be had. */
void *moat_heap_alloc_aligned(struct moat_heap *heap, size_t size_bytes, size_t alignment, size_t lead_bytes);

/* Takes a block back and joins it with free neighbours. NULL is fine and does nothing.
 * Fails:   false, from hardening level 1, when the pointer is no used block or the block or a neighbour is damaged.
 *          Nothing changes then, the block is lost, and `moat_heap_take_fault` tells why.
 * Cost:    O(1), as alloc. */
bool moat_heap_free(struct moat_heap *heap, void *block);

/* Makes a block larger or smaller without moving it.
 * Fails:   false when what follows is not free or not large enough, or is damaged; the block stays as it was. */
bool moat_heap_resize(struct moat_heap *heap, void *block, size_t size_bytes);

/* Makes a block larger or smaller, moving it when it must: in place, else down into free memory in front of it, which
 * costs the same copy as anywhere else and leaves no hole, else to a new block.
 * Takes:   a block, or NULL, which makes this an alloc.
 * Gives:   the block, with its contents up to the lesser size.
 * Fails:   NULL when there is no room, or the block or a neighbour is damaged; the block stays as it was.
 * Cost:    O(1) and a copy when it moves. */
void *moat_heap_realloc(struct moat_heap *heap, void *block, size_t size_bytes);

/* The usable size of a block: what was asked for and at most MOAT_HEAP_SLACK_BYTES_MAX more. It changes by resize only.
 * Gives:   0 when the pointer is no used block or is damaged (from level 1). */
size_t moat_heap_usable(struct moat_heap *heap, const void *block);

/* Visits every block, used and free, in address order; the control block is not shown.
 * Gives:   true when it came to the end; false when `visit` said so or the heap is damaged.
 * Context: reads only; `visit` must not call the heap. */
bool moat_heap_walk(const struct moat_heap *heap, bool (*visit)(void *argument, const struct moat_backend_block *block),
                    void *argument);

struct moat_heap_statistics {
    size_t region_bytes; /* in all regions */
    size_t region_count;
    size_t used_bytes;         /* usable bytes of all used blocks */
    size_t used_bytes_peak;    /* the most there ever were */
    size_t used_count;         /* used blocks */
    size_t free_bytes;         /* usable bytes of all free blocks */
    size_t free_count;         /* free blocks */
    size_t free_bytes_largest; /* usable bytes of the largest free block */
    size_t allocation_count;   /* successful allocations so far; wraps */
    size_t failure_count;      /* allocations that got NULL; wraps */
};

/* Fills in the statistics.
 * Cost:    O(regions + free blocks of the largest size class). */
void moat_heap_statistics(const struct moat_heap *heap, struct moat_heap_statistics *statistics);

/* Checks every invariant of the heap and changes nothing. It ends, and stays inside the regions, whatever their bytes
 * say.
 * Gives:   true when all holds; else false with *fault (may be NULL) filled in.
 * Cost:    O(blocks * regions). */
bool moat_heap_verify(const struct moat_heap *heap, struct moat_fault *fault);

/* The latest fault that a call ran into, if there was one since the last time this was asked.
 * Gives:   true with *fault filled in, else false. */
bool moat_heap_take_fault(struct moat_heap *heap, struct moat_fault *fault);

/* The heap as a backend; the context is the struct moat_heap. */
const struct moat_backend *moat_heap_backend(void);

#ifdef __cplusplus
}
#endif
#endif
