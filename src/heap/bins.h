/* Free blocks: proving them, and taking them in and out of the bins' lists.
 * May include: control.h and freestanding headers.
 *
 * A list is doubly linked and begins in the control block. The functions that prove change nothing; those that change
 * trust what was proved before. */
#ifndef MOAT_HEAP_BINS_H
#define MOAT_HEAP_BINS_H

#include "control.h"

/* Whether a meta value fits a block at p, p in the extent. */
static inline bool moat_block_plausible(uintptr_t meta, uintptr_t p, const struct moat_extent *extent) {
    uintptr_t size = moat_block_size(meta);
    uintptr_t room = extent->low + extent->bytes - p;
    return size >= MOAT_BLOCK_MIN && size <= room && (meta & MOAT_BLOCK_NEVER) == 0;
}

/* Whether a meta value fits what follows a block: another block, or the sentinel. */
static inline bool moat_follower_plausible(uintptr_t meta, uintptr_t p, const struct moat_extent *extent) {
    if (p - extent->low < extent->bytes)
        return moat_block_plausible(meta, p, extent);
    return (meta & ~MOAT_BLOCK_BEFORE_FREE) == MOAT_BLOCK_FIXED;
}

/* Whether the neighbours in its list point back to a free block of a size. */
static inline enum moat_rule moat_links_proved(struct moat_heap *heap, uintptr_t p, uintptr_t size,
                                               const struct moat_extent *extent) {
    uintptr_t next = *moat_block_next(p);
    uintptr_t previous = *moat_block_previous(p);
    struct moat_extent near = *extent;
    if (next != 0 && (next % MOAT_BLOCK_ALIGN != 0 || !moat_region_find(heap, next, &near) || *moat_block_previous(next) != p))
        return MOAT_RULE_LINK_NEXT;
    if (previous == 0)
        return moat_heap_heads(heap)[moat_bin_of(heap, size)] == p ? MOAT_RULE_NONE : MOAT_RULE_LINK_PREVIOUS;
    if (previous % MOAT_BLOCK_ALIGN != 0 || !moat_region_find(heap, previous, &near) || *moat_block_next(previous) != p)
        return MOAT_RULE_LINK_PREVIOUS;
    return MOAT_RULE_NONE;
}

/* Proves a free block's header, footer and links.
 * Takes:   p, aligned and inside the extent. */
static inline enum moat_rule moat_free_proved(struct moat_heap *heap, uintptr_t p, uintptr_t meta,
                                              const struct moat_extent *extent) {
    if (!moat_block_plausible(meta, p, extent))
        return MOAT_RULE_HEADER;
    uintptr_t size = moat_block_size(meta);
    if ((meta & MOAT_BLOCK_FLAGS) != MOAT_BLOCK_FREE)
        return (meta & MOAT_BLOCK_FREE) != 0 ? MOAT_RULE_JOINED : MOAT_RULE_FREE;
    if (*moat_block_footer_before(p + size) != size)
        return MOAT_RULE_FOOTER;
    return moat_links_proved(heap, p, size, extent);
}

/* Proves the header of what follows a block: whole, and its flag right about whether the block in front is free. */
static inline enum moat_rule moat_follower_proved(uintptr_t meta, uintptr_t p, const struct moat_extent *extent,
                                                  uintptr_t before_free) {
    if (!moat_follower_plausible(meta, p, extent))
        return MOAT_RULE_NEXT_HEADER;
    return (meta & MOAT_BLOCK_BEFORE_FREE) == before_free ? MOAT_RULE_NONE : MOAT_RULE_NEXT_FLAG;
}

/* Takes a proved free block out of its list. */
static inline void moat_bin_remove(struct moat_heap *heap, uintptr_t p, uintptr_t size) {
    uintptr_t next = *moat_block_next(p);
    uintptr_t previous = *moat_block_previous(p);
    heap->free_bytes -= size;
    heap->free_count--;
    if (next != 0)
        *moat_block_previous(next) = previous;
    if (previous != 0) {
        *moat_block_next(previous) = next;
        return;
    }
    uint32_t bin = moat_bin_of(heap, size);
    moat_heap_heads(heap)[bin] = next;
    if (next == 0)
        moat_bin_unmark(heap, bin);
}

/* Forgets a list of which a block is damaged: its blocks are lost on purpose. */
static inline void moat_bin_drop(struct moat_heap *heap, uint32_t bin, enum moat_rule rule, uintptr_t p) {
    moat_heap_note(heap, rule, p);
    moat_heap_heads(heap)[bin] = 0;
    moat_bin_unmark(heap, bin);
}

/* Makes memory a free block: header, footer and place in its list. The block behind must know by its flag, or be told by the
 * caller.
 * Takes:   extent, a proved one, to try first. */
static inline void moat_bin_insert(struct moat_heap *heap, uintptr_t p, uintptr_t size, const struct moat_extent *extent) {
    uint32_t bin = moat_bin_of(heap, size);
    uintptr_t *head = &moat_heap_heads(heap)[bin];
    uintptr_t next = *head;
    if (MOAT_PROVE && next != 0) {
        struct moat_extent near = *extent;
        if (next % MOAT_BLOCK_ALIGN != 0 || !moat_region_find(heap, next, &near) || *moat_block_previous(next) != 0) {
            moat_bin_drop(heap, bin, MOAT_RULE_LINK_PREVIOUS, next);
            next = 0;
        }
    }
    moat_block_set_meta(heap->key, p, size | MOAT_BLOCK_FREE);
    *moat_block_footer_before(p + size) = size;
    *moat_block_next(p) = next;
    *moat_block_previous(p) = 0;
    if (next != 0)
        *moat_block_previous(next) = p;
    *head = p;
    moat_bin_mark(heap, bin);
    heap->free_bytes += size;
    heap->free_count++;
}

/* Tells the block at p whether the one in front of it is free. Its header must have been proved. */
static inline void moat_block_tell(struct moat_heap *heap, uintptr_t p, uintptr_t meta, bool before_free) {
    uintptr_t told = before_free ? meta | MOAT_BLOCK_BEFORE_FREE : meta & ~MOAT_BLOCK_BEFORE_FREE;
    moat_block_set_meta(heap->key, p, told);
}

#endif
