/* Free blocks: proving them, and taking them in and out of the bins' lists.
 * May include: control.h and freestanding headers.
 *
 * A list is doubly linked and begins in the control block. The functions that prove change nothing; those that change
 * trust what was proved before. */
#ifndef MOAT_HEAP_BINS_H
#define MOAT_HEAP_BINS_H

#include "control.h"

/* ---- proofs -------------------------------------------------------------------------------------------------------- */

/* Whether the size in a meta value fits a block at p, p in the extent. */
static inline bool moat_size_fits(uintptr_t meta, uintptr_t p, struct moat_extent extent) {
    uintptr_t size = moat_block_size(meta);
    uintptr_t room = extent.low + extent.bytes - p;
    return size >= MOAT_BLOCK_MIN && size <= room;
}

/* Whether a meta value fits a block at p, p in the extent. */
static inline bool moat_block_plausible(uintptr_t meta, uintptr_t p, struct moat_extent extent) {
    return moat_size_fits(meta, p, extent) && (meta & MOAT_BLOCK_NEVER) == 0;
}

/* Whether a meta value fits what follows a block: another block, or the sentinel. */
static inline bool moat_follower_plausible(uintptr_t meta, uintptr_t p, struct moat_extent extent) {
    if (moat_extent_holds(extent, p))
        return moat_block_plausible(meta, p, extent);
    return (meta & ~MOAT_BLOCK_BEFORE_FREE) == MOAT_BLOCK_FIXED;
}

/* The functions that follow look at all flags at once, and only when those are wrong at what is wrong with them. */

/* Proves the header of what follows a block: whole, and its flag right about whether the block in front is free. */
MOAT_HEAP_INLINE enum moat_rule moat_follower_proved(uintptr_t meta, uintptr_t p, struct moat_extent extent,
                                                     uintptr_t before_free) {
    bool fits = moat_extent_holds(extent, p) ? moat_size_fits(meta, p, extent)
                                             : (meta & ~MOAT_BLOCK_BEFORE_FREE) == MOAT_BLOCK_FIXED;
    if (!fits)
        return MOAT_RULE_NEXT_HEADER;
    if ((meta & (MOAT_BLOCK_NEVER | MOAT_BLOCK_BEFORE_FREE)) == before_free)
        return MOAT_RULE_NONE;
    return (meta & MOAT_BLOCK_NEVER) != 0 ? MOAT_RULE_NEXT_HEADER : MOAT_RULE_NEXT_FLAG;
}

/* Proves a free block's header and footer; p is aligned and inside the extent. */
MOAT_HEAP_INLINE enum moat_rule moat_shape_proved(uintptr_t p, uintptr_t meta, struct moat_extent extent) {
    if (!moat_size_fits(meta, p, extent))
        return MOAT_RULE_HEADER;
    if ((meta & MOAT_BLOCK_FLAGS) == MOAT_BLOCK_FREE) {
        uintptr_t size = moat_block_size(meta);
        return *moat_block_footer_before(p + size) == size ? MOAT_RULE_NONE : MOAT_RULE_FOOTER;
    }
    if ((meta & MOAT_BLOCK_NEVER) != 0)
        return MOAT_RULE_HEADER;
    return (meta & MOAT_BLOCK_FREE) != 0 ? MOAT_RULE_JOINED : MOAT_RULE_FREE;
}

/* Whether the next block in its list points back to a free block. */
static inline bool moat_next_answers(struct moat_heap *heap, uintptr_t p, struct moat_extent extent) {
    uintptr_t next = *moat_block_next(p);
    return next == 0 ||
           (next % MOAT_BLOCK_ALIGN == 0 && moat_region_find(heap, next, &extent) && *moat_block_previous(next) == p);
}

/* Whether the previous block in its list, or the bin's head, points to a free block. */
static inline bool moat_previous_answers(struct moat_heap *heap, uintptr_t p, uint32_t bin, struct moat_extent extent) {
    uintptr_t previous = *moat_block_previous(p);
    if (previous == 0)
        return moat_heap_heads(heap)[bin] == p;
    return previous % MOAT_BLOCK_ALIGN == 0 && moat_region_find(heap, previous, &extent) &&
           *moat_block_next(previous) == p;
}

/* Proves all of a free block: header, footer and links. */
MOAT_HEAP_INLINE enum moat_rule moat_free_proved(struct moat_heap *heap, uintptr_t p, uintptr_t meta,
                                                 struct moat_extent extent) {
    enum moat_rule rule = moat_shape_proved(p, meta, extent);
    if (rule != MOAT_RULE_NONE)
        return rule;
    if (!moat_next_answers(heap, p, extent))
        return MOAT_RULE_LINK_NEXT;
    uint32_t bin = moat_bin_of(heap, moat_block_size(meta));
    return moat_previous_answers(heap, p, bin, extent) ? MOAT_RULE_NONE : MOAT_RULE_LINK_PREVIOUS;
}

/* ---- changes ------------------------------------------------------------------------------------------------------- */

/* Takes a proved free block of a bin out of its list. */
MOAT_HEAP_INLINE void moat_bin_remove_from(struct moat_heap *heap, uint32_t bin, uintptr_t p) {
    uintptr_t next = *moat_block_next(p);
    uintptr_t previous = *moat_block_previous(p);
    heap->free_count--;
    if (next != 0)
        *moat_block_previous(next) = previous;
    if (previous != 0) {
        *moat_block_next(previous) = next;
        return;
    }
    moat_heap_heads(heap)[bin] = next;
    if (next == 0)
        moat_bin_unmark(heap, bin);
}

static inline void moat_bin_remove(struct moat_heap *heap, uintptr_t p, uintptr_t size) {
    moat_bin_remove_from(heap, moat_bin_of(heap, size), p);
}

/* Forgets a list of which a block is damaged: its blocks are lost on purpose. */
static inline void moat_bin_drop(struct moat_heap *heap, uint32_t bin, enum moat_rule rule, uintptr_t p) {
    moat_heap_note(heap, rule, p);
    moat_heap_heads(heap)[bin] = 0;
    moat_bin_unmark(heap, bin);
}

/* Writes what a free block carries but for its links. */
static inline void moat_block_make_free(struct moat_heap *heap, uintptr_t p, uintptr_t size) {
    moat_block_set_meta(heap->key, p, size | MOAT_BLOCK_FREE);
    *moat_block_footer_before(p + size) = size;
}

/* Makes memory a free block of a bin. What follows must know by its flag, or be told by the caller.
 * Takes:   extent, a proved one, to try first. */
MOAT_HEAP_INLINE void moat_bin_insert_into(struct moat_heap *heap, uint32_t bin, uintptr_t p, uintptr_t size,
                                           struct moat_extent extent) {
    uintptr_t *head = &moat_heap_heads(heap)[bin];
    uintptr_t next = *head;
    if (MOAT_PROVE && next != 0) {
        bool whole =
            next % MOAT_BLOCK_ALIGN == 0 && moat_region_find(heap, next, &extent) && *moat_block_previous(next) == 0;
        if (!whole) {
            moat_bin_drop(heap, bin, MOAT_RULE_LINK_PREVIOUS, next);
            next = 0;
        }
    }
    moat_block_make_free(heap, p, size);
    *moat_block_next(p) = next;
    *moat_block_previous(p) = 0;
    *head = p;
    heap->free_count++;
    if (next != 0)
        *moat_block_previous(next) = p;
    else
        moat_bin_mark(heap, bin);
}

static inline void moat_bin_insert(struct moat_heap *heap, uintptr_t p, uintptr_t size, struct moat_extent extent) {
    moat_bin_insert_into(heap, moat_bin_of(heap, size), p, size, extent);
}

/* Puts a free block in the place of a proved one, of a bin, that it came from, be it what is left of it or what it has grown
 * to. As long as the bin stays the same, so does the place in the list. */
MOAT_HEAP_INLINE void moat_bin_replace(struct moat_heap *heap, uint32_t old_bin, uintptr_t old, uintptr_t p,
                                       uintptr_t size, struct moat_extent extent) {
    uint32_t bin = moat_bin_of(heap, size);
    if (bin != old_bin) {
        moat_bin_remove_from(heap, old_bin, old);
        moat_bin_insert_into(heap, bin, p, size, extent);
        return;
    }
    moat_block_make_free(heap, p, size);
    if (p == old)
        return;
    uintptr_t next = *moat_block_next(old);
    uintptr_t previous = *moat_block_previous(old);
    *moat_block_next(p) = next;
    *moat_block_previous(p) = previous;
    if (next != 0)
        *moat_block_previous(next) = p;
    if (previous != 0)
        *moat_block_next(previous) = p;
    else
        moat_heap_heads(heap)[bin] = p;
}

/* Counts a block that has come into use. */
static inline void moat_heap_count_used(struct moat_heap *heap, uintptr_t size) {
    heap->used_count++;
    heap->used_bytes += size - MOAT_BLOCK_OVERHEAD;
    if (heap->used_bytes > heap->peak_bytes)
        heap->peak_bytes = heap->used_bytes;
}

/* Tells the block at p whether the one in front of it is free. Its header must have been proved. */
static inline void moat_block_tell(struct moat_heap *heap, uintptr_t p, uintptr_t meta, bool before_free) {
    uintptr_t told = before_free ? meta | MOAT_BLOCK_BEFORE_FREE : meta & ~MOAT_BLOCK_BEFORE_FREE;
    moat_block_set_meta(heap->key, p, told);
}

#endif
