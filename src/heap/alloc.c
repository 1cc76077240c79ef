/* Allocation.
 * May include: bins.h and freestanding headers.
 *
 * All that is going to be touched is proved first, at hardening level 1 and 2, and only then is anything changed. The
 * common case, a block that the first list in question yields, is inlined as one; everything else is kept out of its
 * way. */
#include "bins.h"

/* How many blocks are tried where a list holds blocks both large enough and too small. */
#define FIT_TRIES 16
#define RARE static __attribute__((noinline, cold))

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
    uint32_t bin; /* the free one's */
    uintptr_t p;  /* where the block goes inside it */
    struct moat_extent extent;
};

/* ---- search ------------------------------------------------------------------------------------------------------ */

/* Where in a free block the wanted block goes; 0 when it does not fit. */
MOAT_HEAP_INLINE uintptr_t place_in(const struct want *want, uintptr_t block, uintptr_t size) {
    if (want->alignment <= MOAT_BLOCK_ALIGN)
        return size >= want->size ? block : 0;
    uintptr_t mask = want->alignment - 1;
    uintptr_t p = ((block + want->lead + mask) & ~mask) - want->lead;
    if (p != block && p - block < MOAT_BLOCK_MIN)
        p = ((block + MOAT_BLOCK_MIN + want->lead + mask) & ~mask) - want->lead;
    uintptr_t gap = p - block;
    return gap <= size && size - gap >= want->size ? p : 0;
}

/* Sets a free block aside whose neighbour is damaged: it is in no list any more, but says it is free, so that nobody
 * joins it. */
RARE void set_aside(struct moat_heap *heap, uintptr_t block, uintptr_t size, enum moat_rule rule, uintptr_t neighbour) {
    moat_bin_remove(heap, block, size);
    moat_heap_note(heap, rule, neighbour);
}

/* Drops the list that a damaged block is in. */
RARE void drop_list(struct moat_heap *heap, uint32_t bin, enum moat_rule rule, uintptr_t block) {
    moat_bin_drop(heap, bin, rule, block);
}

/* Proves a bin's block and what follows it.
 * Takes:   fitting, the size for which the bin is known to be the right one.
 * Gives:   its size; 0 when it is damaged, in which case it is out of the list, or the whole list is dropped. */
MOAT_HEAP_INLINE uintptr_t proved_candidate(struct moat_heap *heap, uint32_t bin, uintptr_t block, uintptr_t fitting,
                                            struct moat_extent *extent) {
    if (block % MOAT_BLOCK_ALIGN != 0 || !moat_region_find(heap, block, extent)) {
        drop_list(heap, bin, MOAT_RULE_INSIDE, block);
        return 0;
    }
    uintptr_t meta = moat_block_meta(heap->key, block);
    uintptr_t size = moat_block_size(meta);
    enum moat_rule rule = moat_shape_proved(block, meta, *extent);
    if (rule == MOAT_RULE_NONE && size != fitting && moat_bin_of(heap, size) != bin)
        rule = MOAT_RULE_BIN;
    if (rule == MOAT_RULE_NONE && !moat_next_answers(heap, block, *extent))
        rule = MOAT_RULE_LINK_NEXT;
    if (rule == MOAT_RULE_NONE && !moat_previous_answers(heap, block, bin, *extent))
        rule = MOAT_RULE_LINK_PREVIOUS;
    if (rule != MOAT_RULE_NONE) {
        drop_list(heap, bin, rule, block);
        return 0;
    }
    uintptr_t behind = block + size;
    uintptr_t behind_meta = moat_block_meta(heap->key, behind);
    rule = moat_follower_proved(behind_meta, behind, *extent, MOAT_BLOCK_BEFORE_FREE);
    if (rule == MOAT_RULE_NONE && (behind_meta & MOAT_BLOCK_FREE) != 0)
        rule = MOAT_RULE_JOINED;
    if (rule != MOAT_RULE_NONE) {
        set_aside(heap, block, size, rule, behind);
        return 0;
    }
    return size;
}

/* Tries a bin's block; own_bin is the bin of the wanted size.
 * Gives:   true when the wanted block fits into it; *damaged says that it did not because the list had to be
 *          changed. */
MOAT_HEAP_INLINE bool try_block(struct moat_heap *heap, const struct want *want, uint32_t own_bin, uint32_t bin,
                                uintptr_t block, struct place *place, bool *damaged) {
    uintptr_t fitting = bin == own_bin ? want->size : 0;
    uintptr_t size = MOAT_PROVE ? proved_candidate(heap, bin, block, fitting, &place->extent)
                                : moat_block_size(moat_block_meta(heap->key, block));
    *damaged = size == 0;
    place->p = place_in(want, block, size);
    place->free_block = block;
    place->free_size = size;
    place->bin = bin;
    return place->p != 0 && !*damaged;
}

/* Tries a bounded number of blocks one by one, from a bin upwards. */
static bool search_slowly(struct moat_heap *heap, const struct want *want, uint32_t from, struct place *place) {
    uint32_t tries = FIT_TRIES;
    for (uint32_t bin = moat_bin_next(heap, from); bin != MOAT_BIN_NONE; bin = moat_bin_next(heap, bin + 1)) {
        bool damaged = false;
        uintptr_t block = moat_heap_heads(heap)[bin];
        while (block != 0 && !damaged) {
            if (tries-- == 0)
                return false;
            if (try_block(heap, want, MOAT_BIN_NONE, bin, block, place, &damaged))
                return true;
            if (!damaged)
                block = *moat_block_next(block);
        }
    }
    return false;
}

/* The bin to look in first. Where bins are of one size each, those next to the wanted one hold blocks from which
 * nothing would be left that can be a block: they are taken only when there is no larger one. On a full heap that is a
 * block in a hundred more. */
MOAT_HEAP_INLINE uint32_t first_bin(const struct moat_heap *heap, uint32_t own) {
    uint32_t bin = moat_bin_next(heap, own);
    if (bin - own - 1 < MOAT_BLOCK_MIN / MOAT_BLOCK_ALIGN - 1 && moat_bin_is_exact(heap, bin)) {
        uint32_t splitting = moat_bin_next(heap, own + (uint32_t)(MOAT_BLOCK_MIN / MOAT_BLOCK_ALIGN));
        return splitting != MOAT_BIN_NONE ? splitting : bin;
    }
    return bin;
}

/* Finds a free block in constant time: the first of the bin of just this size if it is large enough, else the first of
 * the smallest bin whose blocks all are. */
MOAT_HEAP_INLINE bool search(struct moat_heap *heap, const struct want *want, struct place *place) {
    uint32_t own = moat_bin_of(heap, want->size);
    uint32_t bin = first_bin(heap, own);
    while (bin != MOAT_BIN_NONE) {
        bool damaged = false;
        uintptr_t block = moat_heap_heads(heap)[bin];
        if (block == 0) {
            drop_list(heap, bin, MOAT_RULE_BIN_MAP, (uintptr_t)heap);
        } else {
            if (try_block(heap, want, own, bin, block, place, &damaged))
                return true;
            if (!damaged) {
                uint32_t sure = moat_bin_of(heap, want->worst);
                bin = (bin > sure ? bin : sure) + 1;
            }
        }
        bin = moat_bin_next(heap, bin);
    }
    return false;
}

/* ---- alloc ------------------------------------------------------------------------------------------------------- */

/* Cuts the wanted block out of the free one; what is left on either side stays free. */
MOAT_HEAP_INLINE void *occupy(struct moat_heap *heap, const struct want *want, const struct place *place) {
    uintptr_t gap = place->p - place->free_block;
    uintptr_t size = place->free_size - gap;
    uintptr_t rest = size - want->size;
    bool cut = rest >= MOAT_BLOCK_MIN;
    if (!cut) {
        uintptr_t behind = place->p + size;
        moat_block_tell(heap, behind, moat_block_meta(heap->key, behind), false);
    } else {
        size = want->size;
    }
    if (gap != 0) {
        moat_bin_replace(heap, place->bin, place->free_block, place->free_block, gap, place->extent);
        if (cut)
            moat_bin_insert(heap, place->p + size, rest, place->extent);
    } else if (cut) {
        moat_bin_replace(heap, place->bin, place->free_block, place->p + size, rest, place->extent);
    } else {
        moat_bin_remove_from(heap, place->bin, place->free_block);
    }
    moat_block_set_meta(heap->key, place->p, size | (gap != 0 ? MOAT_BLOCK_BEFORE_FREE : 0));
    moat_heap_count_used(heap, size);
    heap->allocation_count++;
    return (void *)place->p;
}

/* When the search finds none: tries more of the blocks that may fit, first where most do, then where an aligned request
 * may be lucky, and at last the source. The request comes by value, so that the usual way can keep its own in
 * registers. */
RARE void *take_slowly(struct moat_heap *heap, struct want want) {
    struct place place = {0, 0, 0, 0, {0, 0}};
    uint32_t own = moat_bin_of(heap, want.size);
    uint32_t sure = moat_bin_of(heap, want.worst);
    bool found = search_slowly(heap, &want, sure, &place) || (own != sure && search_slowly(heap, &want, own, &place));
    if (!found && moat_region_grow(heap, want.worst)) {
        place.extent = (struct moat_extent){0, 0}; /* the region it was may have grown */
        found = search(heap, &want, &place);
    }
    if (found)
        return occupy(heap, &want, &place);
    heap->failure_count++;
    return NULL;
}

MOAT_HEAP_INLINE void *take(struct moat_heap *heap, const struct want *want) {
    struct place place = {0, 0, 0, 0, {0, 0}};
    if (!moat_geometry_whole(heap)) {
        moat_heap_note(heap, MOAT_RULE_CONTROL, (uintptr_t)heap);
        return NULL;
    }
    return search(heap, want, &place) ? occupy(heap, want, &place) : take_slowly(heap, *want);
}

RARE void *refuse(struct moat_heap *heap) {
    heap->failure_count++;
    return NULL;
}

void *moat_heap_alloc(struct moat_heap *heap, size_t size_bytes) {
    if (size_bytes > MOAT_BLOCK_REQUEST_MAX)
        return refuse(heap);
    uintptr_t size = moat_block_size_for(size_bytes);
    struct want want = {size, size, MOAT_BLOCK_ALIGN, 0};
    return take(heap, &want);
}

void *moat_heap_alloc_aligned(struct moat_heap *heap, size_t size_bytes, size_t alignment, size_t lead_bytes) {
    uintptr_t unit = alignment < MOAT_BLOCK_ALIGN ? alignment : MOAT_BLOCK_ALIGN;
    bool possible = alignment != 0 && (alignment & (alignment - 1)) == 0 && (lead_bytes & (unit - 1)) == 0;
    if (!possible || size_bytes > MOAT_BLOCK_REQUEST_MAX || alignment > MOAT_BLOCK_REQUEST_MAX)
        return refuse(heap);
    if (alignment <= MOAT_BLOCK_ALIGN)
        return moat_heap_alloc(heap, size_bytes);
    uintptr_t size = moat_block_size_for(size_bytes);
    struct want want = {size, size + MOAT_BLOCK_MIN + alignment - MOAT_BLOCK_ALIGN, alignment,
                        lead_bytes & (alignment - 1)};
    return take(heap, &want);
}
