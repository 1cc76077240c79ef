/* Proving a used block and what lies on either side of it.
 * May include: bins.h and freestanding headers.
 *
 * The functions here change nothing but the heap's memory of regions. Without hardening they only read. */
#ifndef MOAT_HEAP_USED_H
#define MOAT_HEAP_USED_H

#include "bins.h"

/* A used block and its surroundings, proved. */
struct moat_used {
    uintptr_t meta;
    uintptr_t behind; /* the block behind it, or the sentinel */
    uintptr_t behind_meta;
    struct moat_extent extent;
};

static inline uintptr_t moat_used_size(const struct moat_used *used) { return moat_block_size(used->meta); }

MOAT_HEAP_INLINE enum moat_rule moat_used_proved(struct moat_heap *heap, uintptr_t p, struct moat_used *used) {
    if (!moat_geometry_whole(heap))
        return MOAT_RULE_CONTROL;
    if (MOAT_PROVE && p % MOAT_BLOCK_ALIGN != 0)
        return MOAT_RULE_ALIGNED;
    used->extent = (struct moat_extent){0, 0};
    if (MOAT_PROVE && !moat_region_find(heap, p, &used->extent))
        return MOAT_RULE_INSIDE;
    used->meta = moat_block_meta(heap->key, p);
    if (MOAT_PROVE && !moat_size_fits(used->meta, p, used->extent))
        return MOAT_RULE_HEADER;
    if (MOAT_PROVE && (used->meta & (MOAT_BLOCK_NEVER | MOAT_BLOCK_FREE | MOAT_BLOCK_FIXED)) != 0)
        return (used->meta & MOAT_BLOCK_NEVER) != 0 ? MOAT_RULE_HEADER : MOAT_RULE_USED;
    used->behind = p + moat_used_size(used);
    used->behind_meta = moat_block_meta(heap->key, used->behind);
    return MOAT_PROVE ? moat_follower_proved(used->behind_meta, used->behind, used->extent, 0) : MOAT_RULE_NONE;
}

/* Proves the free block behind a used one, if there is one. */
static inline enum moat_rule moat_behind_proved(struct moat_heap *heap, const struct moat_used *used) {
    if (!MOAT_PROVE || (used->behind_meta & MOAT_BLOCK_FREE) == 0)
        return MOAT_RULE_NONE;
    return moat_free_proved(heap, used->behind, used->behind_meta, used->extent);
}

/* Proves the free block in front of a used one, if there is one; *size is its size, or 0. */
static inline enum moat_rule moat_front_proved(struct moat_heap *heap, uintptr_t p, const struct moat_used *used,
                                               uintptr_t *size) {
    *size = 0;
    if ((used->meta & MOAT_BLOCK_BEFORE_FREE) == 0)
        return MOAT_RULE_NONE;
    uintptr_t before = *moat_block_footer_before(p);
    *size = before;
    if (!MOAT_PROVE)
        return MOAT_RULE_NONE;
    if (before % MOAT_BLOCK_ALIGN != 0 || before < MOAT_BLOCK_MIN || before > p - used->extent.low)
        return MOAT_RULE_FOOTER;
    uintptr_t meta = moat_block_meta(heap->key, p - before);
    if (moat_block_size(meta) != before)
        return MOAT_RULE_FOOTER;
    return moat_free_proved(heap, p - before, meta, used->extent);
}

/* How large a used block can become without moving: to the end of the free block behind it, whose own follower is
 * proved, or to its own end. */
static inline enum moat_rule moat_reach_proved(struct moat_heap *heap, uintptr_t p, const struct moat_used *used,
                                               uintptr_t *reach) {
    bool free_behind = (used->behind_meta & MOAT_BLOCK_FREE) != 0;
    *reach = moat_used_size(used) + (free_behind ? moat_block_size(used->behind_meta) : 0);
    if (!MOAT_PROVE || !free_behind)
        return MOAT_RULE_NONE;
    uintptr_t far_meta = moat_block_meta(heap->key, p + *reach);
    return moat_follower_proved(far_meta, p + *reach, used->extent, MOAT_BLOCK_BEFORE_FREE);
}

#endif
