/* Allocation, free and resizing.
 * May include: bins.h and freestanding headers.
 *
 * Each operation first proves all it is going to touch, at hardening level 1 and 2, and only then changes anything. */
#include "bins.h"

/* How many blocks are tried where a list holds blocks both large enough and too small. */
#define FIT_TRIES 16

/* A request, ready for the search. */
struct want {
    uintptr_t size;      /* of the block, overhead included */
    uintptr_t worst;     /* any free block of this size holds it, however the alignment falls */
    uintptr_t alignment; /* power of two; MOAT_BLOCK_ALIGN: the usual one */
    uintptr_t lead;
};

/* A place found for it. */
struct place {
    uintptr_t free_block;
    uintptr_t free_size;
    uintptr_t p; /* where the block goes inside the free one */
    struct moat_extent extent;
};

/* ---- search -------------------------------------------------------------------------------------------------------- */

/* Where in a free block the wanted block goes; 0 when it does not fit. */
static inline uintptr_t place_in(const struct want *want, uintptr_t block, uintptr_t size) {
    if (want->alignment <= MOAT_BLOCK_ALIGN)
        return size >= want->size ? block : 0;
    uintptr_t mask = want->alignment - 1;
    uintptr_t p = ((block + want->lead + mask) & ~mask) - want->lead;
    if (p != block && p - block < MOAT_BLOCK_MIN)
        p = ((block + MOAT_BLOCK_MIN + want->lead + mask) & ~mask) - want->lead;
    uintptr_t gap = p - block;
    return gap <= size && size - gap >= want->size ? p : 0;
}

/* Sets a free block aside whose neighbour is damaged: it is in no list any more, but says it is free, so that nobody joins it. */
static void set_aside(struct moat_heap *heap, uintptr_t block, uintptr_t size, enum moat_rule rule, uintptr_t neighbour) {
    moat_bin_remove(heap, block, size);
    moat_heap_note(heap, rule, neighbour);
}

/* Proves a list's block and what follows it.
 * Gives:   its size; 0 when it is damaged, in which case it is out of the list, or the whole list is dropped. */
static uintptr_t proved_candidate(struct moat_heap *heap, uint32_t bin, uintptr_t block, struct moat_extent *extent) {
    if (block % MOAT_BLOCK_ALIGN != 0 || !moat_region_find(heap, block, extent)) {
        moat_bin_drop(heap, bin, MOAT_RULE_INSIDE, block);
        return 0;
    }
    uintptr_t meta = moat_block_meta(heap->key, block);
    enum moat_rule rule = moat_free_proved(heap, block, meta, extent);
    uintptr_t size = moat_block_size(meta);
    if (rule == MOAT_RULE_NONE && moat_bin_of(heap, size) != bin)
        rule = MOAT_RULE_BIN;
    if (rule != MOAT_RULE_NONE) {
        moat_bin_drop(heap, bin, rule, block);
        return 0;
    }
    uintptr_t behind = block + size;
    uintptr_t behind_meta = moat_block_meta(heap->key, behind);
    rule = moat_follower_proved(behind_meta, behind, extent, MOAT_BLOCK_BEFORE_FREE);
    if (rule == MOAT_RULE_NONE && (behind_meta & MOAT_BLOCK_FREE) != 0)
        rule = MOAT_RULE_JOINED;
    if (rule != MOAT_RULE_NONE) {
        set_aside(heap, block, size, rule, behind);
        return 0;
    }
    return size;
}

/* Tries a bin's block.
 * Gives:   true when the wanted block fits into it; *damaged says that it did not because the list had to be changed. */
static inline bool try_block(struct moat_heap *heap, const struct want *want, uint32_t bin, uintptr_t block, struct place *place,
                             bool *damaged) {
    uintptr_t size;
    *damaged = false;
    if (MOAT_PROVE) {
        size = proved_candidate(heap, bin, block, &place->extent);
        if (size == 0) {
            *damaged = true;
            return false;
        }
    } else {
        size = moat_block_size(moat_block_meta(heap->key, block));
    }
    place->p = place_in(want, block, size);
    place->free_block = block;
    place->free_size = size;
    return place->p != 0;
}

/* Tries a bounded number of blocks one by one, from a bin upwards. */
static bool search_slowly(struct moat_heap *heap, const struct want *want, uint32_t from, struct place *place) {
    uint32_t count = moat_geometry_bin_count(heap->geometry);
    uint32_t tries = FIT_TRIES;
    uint32_t bin = moat_bin_next(heap, from);
    while (bin < count) {
        bool damaged = false;
        uintptr_t block = moat_heap_heads(heap)[bin];
        while (block != 0 && !damaged) {
            if (tries-- == 0)
                return false;
            if (try_block(heap, want, bin, block, place, &damaged))
                return true;
            if (!damaged)
                block = *moat_block_next(block);
        }
        bin = moat_bin_next(heap, bin + 1);
    }
    return false;
}

/* Finds a free block: the first of the bin of just this size if it is large enough, else the first of the smallest bin whose
 * blocks all are, else one of a few tried one by one. */
static inline bool search(struct moat_heap *heap, const struct want *want, struct place *place) {
    uint32_t count = moat_geometry_bin_count(heap->geometry);
    uint32_t bin = moat_bin_of(heap, want->size);
    const uintptr_t *heads = moat_heap_heads(heap);
    bool damaged = true;
    while (damaged && heads[bin] != 0) {
        if (try_block(heap, want, bin, heads[bin], place, &damaged))
            return true;
    }
    bin = moat_bin_of(heap, want->worst) + 1;
    while ((bin = moat_bin_next(heap, bin)) < count) {
        if (heads[bin] == 0) {
            moat_bin_drop(heap, bin, MOAT_RULE_BIN_MAP, (uintptr_t)heap);
            continue;
        }
        if (try_block(heap, want, bin, heads[bin], place, &damaged))
            return true;
        if (!damaged) /* the last bin holds all that is larger than it was made for, so its first block may be too small */
            break;
    }
    /* First where most blocks fit, then where an aligned request may be lucky. */
    uint32_t own = moat_bin_of(heap, want->size);
    uint32_t sure = moat_bin_of(heap, want->worst);
    return search_slowly(heap, want, sure, place) || (own != sure && search_slowly(heap, want, own, place));
}

/* ---- alloc --------------------------------------------------------------------------------------------------------- */

static inline void count_used(struct moat_heap *heap, uintptr_t size) {
    heap->used_count++;
    heap->used_bytes += size - MOAT_BLOCK_OVERHEAD;
    if (heap->used_bytes > heap->peak_bytes)
        heap->peak_bytes = heap->used_bytes;
}

/* Cuts the wanted block out of the free one; what is left on either side stays free. */
static inline void *occupy(struct moat_heap *heap, const struct want *want, const struct place *place) {
    uintptr_t gap = place->p - place->free_block;
    uintptr_t size = place->free_size - gap;
    uintptr_t rest = size - want->size;
    uintptr_t behind = place->p + size;
    moat_bin_remove(heap, place->free_block, place->free_size);
    if (gap != 0)
        moat_bin_insert(heap, place->free_block, gap, &place->extent);
    if (rest >= MOAT_BLOCK_MIN) {
        size = want->size;
        moat_bin_insert(heap, place->p + size, rest, &place->extent);
    } else {
        moat_block_tell(heap, behind, moat_block_meta(heap->key, behind), false);
    }
    moat_block_set_meta(heap->key, place->p, size | (gap != 0 ? MOAT_BLOCK_BEFORE_FREE : 0));
    count_used(heap, size);
    heap->allocation_count++;
    return (void *)place->p;
}

static inline void *take(struct moat_heap *heap, const struct want *want) {
    struct place place = {0, 0, 0, {0, 0}};
    if (!moat_geometry_whole(heap)) {
        moat_heap_note(heap, MOAT_RULE_CONTROL, (uintptr_t)heap);
        return NULL;
    }
    bool found = search(heap, want, &place);
    if (!found && moat_region_grow(heap, want->worst)) {
        place.extent = (struct moat_extent){0, 0}; /* the region it was may have grown */
        found = search(heap, want, &place);
    }
    if (found)
        return occupy(heap, want, &place);
    heap->failure_count++;
    return NULL;
}

void *moat_heap_alloc(struct moat_heap *heap, size_t size_bytes) {
    if (size_bytes > MOAT_BLOCK_REQUEST_MAX) {
        heap->failure_count++;
        return NULL;
    }
    uintptr_t size = moat_block_size_for(size_bytes);
    struct want want = {size, size, MOAT_BLOCK_ALIGN, 0};
    return take(heap, &want);
}

void *moat_heap_alloc_aligned(struct moat_heap *heap, size_t size_bytes, size_t alignment, size_t lead_bytes) {
    uintptr_t unit = alignment < MOAT_BLOCK_ALIGN ? alignment : MOAT_BLOCK_ALIGN;
    bool possible = alignment != 0 && (alignment & (alignment - 1)) == 0 && (lead_bytes & (unit - 1)) == 0;
    if (!possible || size_bytes > MOAT_BLOCK_REQUEST_MAX || alignment > MOAT_BLOCK_REQUEST_MAX) {
        heap->failure_count++;
        return NULL;
    }
    if (alignment <= MOAT_BLOCK_ALIGN)
        return moat_heap_alloc(heap, size_bytes);
    uintptr_t size = moat_block_size_for(size_bytes);
    struct want want = {size, size + MOAT_BLOCK_MIN + alignment - MOAT_BLOCK_ALIGN, alignment, lead_bytes & (alignment - 1)};
    return take(heap, &want);
}

/* ---- free ---------------------------------------------------------------------------------------------------------- */

/* A used block and its surroundings, proved. */
struct used {
    uintptr_t meta;
    uintptr_t behind; /* the block behind it, or the sentinel */
    uintptr_t behind_meta;
    struct moat_extent extent;
};

static inline uintptr_t used_size(const struct used *used) {
    return moat_block_size(used->meta);
}

static inline enum moat_rule used_proved(struct moat_heap *heap, uintptr_t p, struct used *used) {
    if (!moat_geometry_whole(heap))
        return MOAT_RULE_CONTROL;
    if (MOAT_PROVE && p % MOAT_BLOCK_ALIGN != 0)
        return MOAT_RULE_ALIGNED;
    used->extent = (struct moat_extent){0, 0};
    if (MOAT_PROVE && !moat_region_find(heap, p, &used->extent))
        return MOAT_RULE_INSIDE;
    used->meta = moat_block_meta(heap->key, p);
    if (MOAT_PROVE && !moat_block_plausible(used->meta, p, &used->extent))
        return MOAT_RULE_HEADER;
    if (MOAT_PROVE && (used->meta & (MOAT_BLOCK_FREE | MOAT_BLOCK_FIXED)) != 0)
        return MOAT_RULE_USED;
    used->behind = p + used_size(used);
    used->behind_meta = moat_block_meta(heap->key, used->behind);
    return MOAT_PROVE ? moat_follower_proved(used->behind_meta, used->behind, &used->extent, 0) : MOAT_RULE_NONE;
}

/* Proves the free block behind a used one, if there is one. */
static inline enum moat_rule behind_proved(struct moat_heap *heap, const struct used *used) {
    if (!MOAT_PROVE || (used->behind_meta & MOAT_BLOCK_FREE) == 0)
        return MOAT_RULE_NONE;
    return moat_free_proved(heap, used->behind, used->behind_meta, &used->extent);
}

/* Proves the free block in front of a used one, if there is one; *size is its size, or 0. */
static inline enum moat_rule front_proved(struct moat_heap *heap, uintptr_t p, const struct used *used, uintptr_t *size) {
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
    return moat_free_proved(heap, p - before, meta, &used->extent);
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
    heap->used_count--;
    heap->used_bytes -= size - MOAT_BLOCK_OVERHEAD;
    if ((used.behind_meta & MOAT_BLOCK_FREE) != 0) {
        moat_bin_remove(heap, used.behind, moat_block_size(used.behind_meta));
        moat_block_erase(used.behind);
        size += moat_block_size(used.behind_meta);
    } else {
        moat_block_tell(heap, used.behind, used.behind_meta, true);
    }
    if (before != 0) {
        moat_bin_remove(heap, p - before, before);
        moat_block_erase(p);
        p -= before;
        size += before;
    }
    moat_bin_insert(heap, p, size, &used.extent);
    return true;
}

/* ---- resize -------------------------------------------------------------------------------------------------------- */

/* Gives a used block another size; `available` runs to the end of the free block behind it, or to its own end. */
static void set_size(struct moat_heap *heap, uintptr_t p, const struct used *used, uintptr_t wanted, uintptr_t available) {
    uintptr_t size = used_size(used);
    bool was_free_behind = (used->behind_meta & MOAT_BLOCK_FREE) != 0;
    uintptr_t far_behind = p + available;
    heap->used_bytes -= size - MOAT_BLOCK_OVERHEAD;
    heap->used_count--;
    if (was_free_behind) {
        moat_bin_remove(heap, used->behind, moat_block_size(used->behind_meta));
        moat_block_erase(used->behind);
    }
    uintptr_t far_meta = moat_block_meta(heap->key, far_behind);
    if (available - wanted >= MOAT_BLOCK_MIN) {
        moat_bin_insert(heap, p + wanted, available - wanted, &used->extent);
        if (!was_free_behind)
            moat_block_tell(heap, far_behind, far_meta, true);
        size = wanted;
    } else {
        if (was_free_behind)
            moat_block_tell(heap, far_behind, far_meta, false);
        size = available;
    }
    moat_block_set_meta(heap->key, p, size | (used->meta & MOAT_BLOCK_BEFORE_FREE));
    count_used(heap, size);
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
            rule = moat_follower_proved(far_meta, p + available, &used.extent, MOAT_BLOCK_BEFORE_FREE);
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
