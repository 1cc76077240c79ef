/* Memory on its way out of the heap, and in from its source: removing regions, trimming, growing.
 * May include: bins.h and freestanding headers. */
#include "bins.h"

/* What is given back is a multiple of this, aligned to it: a page on every system that has pages. */
#if UINTPTR_MAX > 0xffffffffu
#define TRIM_BYTES ((uintptr_t)64 << 10)
#else
#define TRIM_BYTES ((uintptr_t)4 << 10)
#endif
/* A heap that has grown asks its source for this part of itself at a time, so that its regions stay few. */
#define GROW_PART 16

static uintptr_t round_up(uintptr_t value, uintptr_t unit) { return (value + unit - 1) & ~(unit - 1); }

/* The size of the free block at p when it is proved, else 0. */
static uintptr_t proved_free_size(struct moat_heap *heap, uintptr_t p, const struct moat_extent *extent) {
    uintptr_t meta = moat_block_meta(heap->key, p);
    if (moat_free_proved(heap, p, meta, *extent) != MOAT_RULE_NONE)
        return 0;
    uintptr_t behind = p + moat_block_size(meta);
    uintptr_t behind_meta = moat_block_meta(heap->key, behind);
    bool told = moat_follower_proved(behind_meta, behind, *extent, MOAT_BLOCK_BEFORE_FREE) == MOAT_RULE_NONE;
    return told ? moat_block_size(meta) : 0;
}

/* Takes a region that is one proved free block out of the list. */
static void unlink_region(struct moat_heap *heap, struct moat_region *before, const struct moat_region *region) {
    struct moat_extent extent = moat_region_extent(region);
    moat_bin_remove(heap, extent.low, extent.bytes);
    heap->block_bytes -= extent.bytes;
    moat_region_link(heap, before, region->next);
    moat_region_forget(heap);
}

bool moat_heap_remove_region(struct moat_heap *heap, void *start) {
    if (!moat_heap_whole(heap))
        return false;
    uintptr_t wanted = round_up((uintptr_t)start, MOAT_BLOCK_ALIGN);
    struct moat_region *before = NULL;
    for (uintptr_t at = heap->first_region; at != 0 && at <= wanted;) {
        struct moat_region *region = moat_region_at(at);
        if (!moat_region_proved(heap, region))
            return false;
        if (at == wanted) {
            struct moat_extent extent = moat_region_extent(region);
            if (proved_free_size(heap, extent.low, &extent) != extent.bytes)
                return false;
            unlink_region(heap, before, region);
            return true;
        }
        before = region;
        at = region->next;
    }
    return false;
}

/* ---- trimming ------------------------------------------------------------------------------------------------------ */

/* Gives memory that is no longer in a region to the source, or takes it in again when the source refuses. */
static size_t hand_over(struct moat_heap *heap, uintptr_t start, uintptr_t end) {
    if (heap->source->release(heap->source->context, (void *)start, end - start))
        return end - start;
    (void)moat_region_add(heap, start, end, MOAT_REGION_FROM_SOURCE);
    return 0;
}

/* Cuts a region's end off, at most `excess` bytes of it. */
static size_t trim_tail(struct moat_heap *heap, struct moat_region *region, uintptr_t excess) {
    struct moat_extent extent = moat_region_extent(region);
    uintptr_t end = moat_region_end(region);
    uintptr_t sentinel = moat_block_meta(heap->key, end);
    if (sentinel != (MOAT_BLOCK_FIXED | MOAT_BLOCK_BEFORE_FREE))
        return 0;
    uintptr_t size = *moat_block_footer_before(end);
    if (size % MOAT_BLOCK_ALIGN != 0 || size > extent.bytes || proved_free_size(heap, end - size, &extent) != size)
        return 0;
    uintptr_t p = end - size;
    uintptr_t kept_end = round_up(p + MOAT_BLOCK_MIN, TRIM_BYTES);
    if (excess < end - p && round_up(end - excess, TRIM_BYTES) > kept_end)
        kept_end = round_up(end - excess, TRIM_BYTES);
    if (kept_end >= end)
        return 0;
    moat_bin_replace(heap, moat_bin_of(heap, size), p, p, kept_end - p, extent);
    heap->block_bytes -= end - kept_end;
    moat_block_set_meta(heap->key, kept_end, sentinel);
    moat_region_sign(heap, region, kept_end | MOAT_REGION_FROM_SOURCE, region->next);
    moat_region_forget(heap);
    return hand_over(heap, kept_end, end);
}

/* Cuts a region's start off, at most `excess` bytes of it. */
static size_t trim_head(struct moat_heap *heap, struct moat_region *before, struct moat_region *region,
                        uintptr_t excess) {
    struct moat_extent extent = moat_region_extent(region);
    uintptr_t start = (uintptr_t)region;
    uintptr_t size = proved_free_size(heap, extent.low, &extent);
    uintptr_t kept = MOAT_REGION_LEAD + MOAT_BLOCK_MIN;
    if (size < kept)
        return 0;
    uintptr_t behind = extent.low + size;
    uintptr_t new_start = (behind - kept) & ~(TRIM_BYTES - 1);
    if (excess < new_start - start)
        new_start = (start + excess) & ~(TRIM_BYTES - 1);
    if (new_start <= start)
        return 0;
    moat_bin_remove(heap, extent.low, size);
    struct moat_region *moved = moat_region_at(new_start);
    moat_region_sign(heap, moved, region->end, region->next);
    moat_region_link(heap, before, new_start);
    moat_region_forget(heap);
    extent = moat_region_extent(moved);
    heap->block_bytes -= new_start - start;
    moat_bin_insert(heap, extent.low, behind - extent.low, extent);
    return hand_over(heap, start, new_start);
}

/* Gives back what a region can spare beyond `keep_bytes` of free memory in all.
 * Takes:   *before, the record before the region's, or NULL; set to the one before `next`.
 * Gives:   how much was given back. */
static size_t trim_region(struct moat_heap *heap, struct moat_region **before, struct moat_region *region,
                          size_t keep_bytes) {
    uintptr_t at = (uintptr_t)region;
    uintptr_t end = moat_region_end(region);
    size_t excess = moat_heap_free_bytes(heap) - keep_bytes;
    struct moat_extent extent = moat_region_extent(region);
    if ((region->end & MOAT_REGION_FROM_SOURCE) == 0) {
        *before = region;
        return 0;
    }
    if (extent.bytes <= excess && proved_free_size(heap, extent.low, &extent) == extent.bytes) {
        unlink_region(heap, *before, region);
        size_t given = hand_over(heap, at, end);
        if (given == 0) /* the region is back, perhaps as part of the one before it */
            *before = *before != NULL && moat_region_end(*before) == end ? *before : region;
        return given;
    }
    size_t released = trim_tail(heap, region, excess);
    excess = moat_heap_free_bytes(heap) > keep_bytes ? moat_heap_free_bytes(heap) - keep_bytes : 0;
    size_t given = trim_head(heap, *before, region, excess);
    *before = given != 0 ? moat_region_at(at + given) : region;
    return released + given;
}

size_t moat_heap_trim(struct moat_heap *heap, size_t keep_bytes) {
    if (!moat_heap_whole(heap) || heap->source == NULL || heap->source->release == NULL)
        return 0;
    size_t released = 0;
    struct moat_region *before = NULL;
    for (uintptr_t at = heap->first_region; at != 0 && moat_heap_free_bytes(heap) > keep_bytes;) {
        struct moat_region *region = moat_region_at(at);
        if (!moat_region_proved(heap, region))
            return released;
        uintptr_t next = region->next;
        released += trim_region(heap, &before, region, keep_bytes);
        at = next;
    }
    return released;
}

void moat_heap_keep(struct moat_heap *heap, size_t keep_bytes) {
    bool gives_back = keep_bytes != 0 && heap->source != NULL && heap->source->release != NULL;
    heap->keep_bytes = keep_bytes;
    heap->trim_least = gives_back ? TRIM_BYTES : SIZE_MAX;
    moat_heap_trim_again(heap);
}

void moat_heap_trim_around(struct moat_heap *heap, uintptr_t p, uintptr_t size, struct moat_extent extent) {
    if (moat_heap_free_bytes(heap) < heap->trim_from || !moat_heap_whole(heap) || !moat_region_find(heap, p, &extent))
        return;
    if (heap->source == NULL || heap->source->release == NULL) /* the limits are not proved: damage may lead here */
        return;
    bool at_an_end = p == extent.low || p + size == extent.low + extent.bytes;
    if (!at_an_end)
        return;
    uintptr_t wanted = extent.low - MOAT_REGION_LEAD;
    struct moat_region *before = NULL;
    for (uintptr_t at = heap->first_region; at != 0 && at <= wanted;) {
        struct moat_region *region = moat_region_at(at);
        if (!moat_region_proved(heap, region))
            return;
        if (at == wanted) {
            size_t given = trim_region(heap, &before, region, heap->keep_bytes);
            moat_heap_trim_again(heap);
            if (given == 0) /* in vain: not again before there is that much more, or the heap has grown */
                heap->trim_from = moat_heap_free_bytes(heap) + heap->grow_bytes;
            return;
        }
        before = region;
        at = region->next;
    }
}

/* ---- growing ------------------------------------------------------------------------------------------------------- */

static bool acquire(struct moat_heap *heap, size_t bytes) {
    size_t got = 0;
    uintptr_t start = (uintptr_t)heap->source->acquire(heap->source->context, bytes, &got);
    uintptr_t end = (start + got) & ~(MOAT_BLOCK_ALIGN - 1);
    uintptr_t aligned = round_up(start, MOAT_BLOCK_ALIGN);
    if (start == 0 || end < aligned)
        return false;
    if (moat_region_add(heap, aligned, end, MOAT_REGION_FROM_SOURCE))
        return true;
    if (heap->source->release != NULL)
        (void)heap->source->release(heap->source->context, (void *)start, got);
    return false;
}

bool moat_region_grow(struct moat_heap *heap, uintptr_t size) {
    if (heap->source == NULL || !moat_heap_whole(heap))
        return false;
    uintptr_t need = size + MOAT_REGION_LEAD + MOAT_BLOCK_ALIGN;
    uintptr_t part = heap->block_bytes / GROW_PART;
    uintptr_t ask = need > part ? need : part;
    ask = (ask + heap->grow_bytes - 1) / heap->grow_bytes * heap->grow_bytes;
    moat_heap_trim_again(heap);
    return (ask > need && acquire(heap, ask)) || acquire(heap, need);
}
