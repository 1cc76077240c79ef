/* Free, resize and usable size.
 * May include: bins.h and freestanding headers.
 *
 * All that is going to be touched is proved first, at hardening level 1 and 2, and only then is anything changed. */
#include "bins.h"

#define ALWAYS_INLINE static inline __attribute__((always_inline))

/* A used block and its surroundings, proved. */
struct used {
    uintptr_t meta;
    uintptr_t behind; /* the block behind it, or the sentinel */
    uintptr_t behind_meta;
    struct moat_extent extent;
};

static inline uintptr_t used_size(const struct used *used) { return moat_block_size(used->meta); }

ALWAYS_INLINE enum moat_rule used_proved(struct moat_heap *heap, uintptr_t p, struct used *used) {
    if (!moat_geometry_whole(heap))
        return MOAT_RULE_CONTROL;
    if (MOAT_PROVE && p % MOAT_BLOCK_ALIGN != 0)
        return MOAT_RULE_ALIGNED;
    used->extent = (struct moat_extent){0, 0};
    if (MOAT_PROVE && !moat_region_find(heap, p, &used->extent))
        return MOAT_RULE_INSIDE;
    used->meta = moat_block_meta(heap->key, p);
    if (MOAT_PROVE && !moat_block_plausible(used->meta, p, used->extent))
        return MOAT_RULE_HEADER;
    if (MOAT_PROVE && (used->meta & (MOAT_BLOCK_FREE | MOAT_BLOCK_FIXED)) != 0)
        return MOAT_RULE_USED;
    used->behind = p + used_size(used);
    used->behind_meta = moat_block_meta(heap->key, used->behind);
    return MOAT_PROVE ? moat_follower_proved(used->behind_meta, used->behind, used->extent, 0) : MOAT_RULE_NONE;
}

/* Proves the free block behind a used one, if there is one. */
static inline enum moat_rule behind_proved(struct moat_heap *heap, const struct used *used) {
    if (!MOAT_PROVE || (used->behind_meta & MOAT_BLOCK_FREE) == 0)
        return MOAT_RULE_NONE;
    return moat_free_proved(heap, used->behind, used->behind_meta, used->extent);
}

/* Proves the free block in front of a used one, if there is one; *size is its size, or 0. */
static inline enum moat_rule front_proved(struct moat_heap *heap, uintptr_t p, const struct used *used,
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

bool moat_heap_free(struct moat_heap *heap, void *block) {
    uintptr_t p = (uintptr_t)block;
    if (p == 0)
        return true;
    struct used used;
    uintptr_t before = 0;
    enum moat_rule rule = used_proved(heap, p, &used);
    if (rule == MOAT_RULE_NONE)
        rule = behind_proved(heap, &used);
    if (rule == MOAT_RULE_NONE)
        rule = front_proved(heap, p, &used, &before);
    if (rule != MOAT_RULE_NONE) {
        moat_heap_note(heap, rule, p);
        return false;
    }
    uintptr_t size = used_size(&used);
    bool joins_behind = (used.behind_meta & MOAT_BLOCK_FREE) != 0;
    uintptr_t behind_size = joins_behind ? moat_block_size(used.behind_meta) : 0;
    heap->used_count--;
    heap->used_bytes -= size - MOAT_BLOCK_OVERHEAD;
    if (!joins_behind)
        moat_block_tell(heap, used.behind, used.behind_meta, true);
    if (before != 0) {
        if (joins_behind)
            moat_bin_remove(heap, used.behind, behind_size);
        moat_bin_replace(heap, moat_bin_of(heap, before), p - before, p - before, before + size + behind_size,
                         used.extent);
        moat_block_erase(p);
    } else if (joins_behind) {
        moat_bin_replace(heap, moat_bin_of(heap, behind_size), used.behind, p, size + behind_size, used.extent);
    } else {
        moat_bin_insert(heap, p, size, used.extent);
    }
    if (joins_behind)
        moat_block_erase(used.behind);
    return true;
}

/* ---- resize -------------------------------------------------------------------------------------------------------- */

/* Gives a used block another size; `available` runs to the end of the free block behind it, or to its own end. */
static void set_size(struct moat_heap *heap, uintptr_t p, const struct used *used, uintptr_t wanted,
                     uintptr_t available) {
    uintptr_t size = used_size(used);
    bool was_free_behind = (used->behind_meta & MOAT_BLOCK_FREE) != 0;
    bool is_free_behind = available - wanted >= MOAT_BLOCK_MIN;
    uintptr_t behind_size = available - size;
    uintptr_t far_behind = p + available;
    heap->used_bytes -= size - MOAT_BLOCK_OVERHEAD;
    heap->used_count--;
    if (was_free_behind != is_free_behind)
        moat_block_tell(heap, far_behind, moat_block_meta(heap->key, far_behind), is_free_behind);
    if (was_free_behind) {
        moat_bin_remove(heap, used->behind, behind_size);
        moat_block_erase(used->behind);
    }
    size = is_free_behind ? wanted : available;
    if (is_free_behind)
        moat_bin_insert(heap, p + wanted, available - wanted, used->extent);
    moat_block_set_meta(heap->key, p, size | (used->meta & MOAT_BLOCK_BEFORE_FREE));
    moat_heap_count_used(heap, size);
}

bool moat_heap_resize(struct moat_heap *heap, void *block, size_t size_bytes) {
    uintptr_t p = (uintptr_t)block;
    struct used used;
    if (p == 0 || size_bytes > MOAT_BLOCK_REQUEST_MAX)
        return false;
    enum moat_rule rule = used_proved(heap, p, &used);
    if (rule == MOAT_RULE_NONE)
        rule = behind_proved(heap, &used);
    uintptr_t wanted = moat_block_size_for(size_bytes);
    uintptr_t available = 0;
    if (rule == MOAT_RULE_NONE) {
        bool free_behind = (used.behind_meta & MOAT_BLOCK_FREE) != 0;
        available = used_size(&used) + (free_behind ? moat_block_size(used.behind_meta) : 0);
        if (MOAT_PROVE && free_behind) {
            uintptr_t far_meta = moat_block_meta(heap->key, p + available);
            rule = moat_follower_proved(far_meta, p + available, used.extent, MOAT_BLOCK_BEFORE_FREE);
        }
    }
    if (rule != MOAT_RULE_NONE) {
        moat_heap_note(heap, rule, p);
        return false;
    }
    if (wanted > available)
        return false;
    set_size(heap, p, &used, wanted, available);
    return true;
}

size_t moat_heap_usable(struct moat_heap *heap, const void *block) {
    struct used used;
    if (block == NULL)
        return 0;
    enum moat_rule rule = used_proved(heap, (uintptr_t)block, &used);
    if (rule != MOAT_RULE_NONE) {
        moat_heap_note(heap, rule, (uintptr_t)block);
        return 0;
    }
    return used_size(&used) - MOAT_BLOCK_OVERHEAD;
}
