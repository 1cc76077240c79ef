/* The list of regions: finding, proving, adding, joining.
 * May include: bins.h and freestanding headers.
 *
 * Records lie at the regions' starts, sorted by address and each signed with the heap's key; the list begins in the control
 * block. A record found damaged cuts the list off: what it and later ones describe is lost on purpose. */
#include "bins.h"

static uintptr_t record_checksum(const struct moat_heap *heap, uintptr_t address, uintptr_t end, uintptr_t next) {
    return moat_mix(moat_mix(moat_mix(heap->key, address), end), next);
}

bool moat_region_proved(const struct moat_heap *heap, const struct moat_region *region) {
    uintptr_t address = (uintptr_t)region;
    return region->check == record_checksum(heap, address, region->end, region->next) &&
           moat_region_end(region) - address >= MOAT_HEAP_REGION_BYTES_MIN && moat_region_end(region) > address;
}

void moat_region_sign(const struct moat_heap *heap, struct moat_region *region, uintptr_t end, uintptr_t next) {
    region->end = end;
    region->next = next;
    region->check = record_checksum(heap, (uintptr_t)region, end, next);
}

void moat_region_link(struct moat_heap *heap, struct moat_region *region, uintptr_t next) {
    if (region != NULL) {
        moat_region_sign(heap, region, region->end, next);
        return;
    }
    heap->first_region = next;
    heap->check = moat_heap_checksum(heap);
}

void moat_region_forget(struct moat_heap *heap) {
    struct moat_remembered *remembered = moat_heap_remembered(heap);
    uint32_t count = moat_geometry_remembered(heap->geometry);
    heap->latest = (struct moat_remembered){{0, 0}, 0};
    for (uint32_t i = 0; i < count; i++)
        remembered[i] = (struct moat_remembered){{0, 0}, 0};
}

/* What a search of the list came to. */
struct search {
    struct moat_region *found;  /* the last region that starts at or below the address; NULL: none */
    struct moat_region *before; /* the one before it; NULL: none */
    struct moat_region *last;   /* the last whole record that was met */
    uintptr_t damaged;          /* a damaged record that ended the search; 0: none */
};

static struct search search_list(const struct moat_heap *heap, uintptr_t address) {
    struct search search = {NULL, NULL, NULL, 0};
    uintptr_t at = heap->first_region;
    while (at != 0 && at <= address) {
        struct moat_region *region = moat_region_at(at);
        if (!moat_region_proved(heap, region)) {
            search.damaged = at;
            return search;
        }
        search.before = search.last;
        search.last = search.found = region;
        at = region->next;
    }
    return search;
}

bool moat_region_seek(const struct moat_heap *heap, uintptr_t address, struct moat_extent *extent) {
    struct search search = search_list(heap, address);
    if (search.found == NULL || search.damaged != 0)
        return false;
    *extent = moat_region_extent(search.found);
    return moat_extent_holds(*extent, address);
}

/* Searches the list and mends it where it is damaged. */
static bool search_mending(struct moat_heap *heap, uintptr_t address, struct search *search) {
    if (!moat_heap_whole(heap)) {
        moat_heap_note(heap, MOAT_RULE_CONTROL, (uintptr_t)heap);
        return false;
    }
    *search = search_list(heap, address);
    if (search->damaged == 0)
        return true;
    moat_heap_note(heap, MOAT_RULE_REGION, search->damaged);
    moat_region_link(heap, search->last, 0);
    moat_region_forget(heap);
    search->damaged = 0;
    return true;
}

/* Where a region that an address is in would be remembered; NULL when this heap remembers none but the latest. */
static struct moat_remembered *remembered_for(const struct moat_heap *heap, uintptr_t address) {
    uint32_t count = moat_geometry_remembered(heap->geometry);
    return count != 0 ? &moat_heap_remembered(heap)[address >> MOAT_REMEMBERED_SHIFT & (count - 1)] : NULL;
}

struct moat_extent moat_region_find_slowly(struct moat_heap *heap, uintptr_t address) {
    static const struct moat_extent none;
    struct moat_remembered *remembered = remembered_for(heap, address);
    if (remembered != NULL && moat_extent_holds(remembered->extent, address) &&
        remembered->check == moat_remembered_check(heap, remembered->extent)) {
        heap->latest = *remembered;
        return remembered->extent;
    }
    struct search search;
    if (!search_mending(heap, address, &search) || search.found == NULL)
        return none;
    struct moat_extent found = moat_region_extent(search.found);
    if (!moat_extent_holds(found, address))
        return none;
    heap->latest = (struct moat_remembered){found, moat_remembered_check(heap, found)};
    if (remembered != NULL)
        *remembered = heap->latest;
    return found;
}

/* Joins a region with the one that begins at its end: the lower one's sentinel and the upper one's record become a block,
 * which is then freed. Regions whose edges are damaged stay apart. */
static void join(struct moat_heap *heap, struct moat_region *lower, struct moat_region *upper) {
    uintptr_t seam = moat_region_end(lower);
    struct moat_extent upper_extent = moat_region_extent(upper);
    uintptr_t sentinel = moat_block_meta(heap->key, seam);
    uintptr_t first = moat_block_meta(heap->key, upper_extent.low);
    if ((sentinel & ~MOAT_BLOCK_BEFORE_FREE) != MOAT_BLOCK_FIXED) {
        moat_heap_note(heap, MOAT_RULE_SENTINEL, seam);
        return;
    }
    if (moat_follower_proved(first, upper_extent.low, upper_extent, 0) != MOAT_RULE_NONE) {
        moat_heap_note(heap, MOAT_RULE_HEADER, upper_extent.low);
        return;
    }
    uintptr_t end = upper->end;
    uintptr_t next = upper->next;
    moat_block_set_meta(heap->key, seam, MOAT_REGION_LEAD | (sentinel & MOAT_BLOCK_BEFORE_FREE));
    moat_region_sign(heap, lower, end, next);
    moat_region_forget(heap);
    heap->used_count++;
    heap->used_bytes += MOAT_REGION_LEAD - MOAT_BLOCK_OVERHEAD;
    heap->block_bytes += MOAT_REGION_LEAD;
    /* What has just come, or come back, is not to be given away at once. */
    size_t trim_least = heap->trim_least;
    heap->trim_least = SIZE_MAX;
    (void)moat_heap_free(heap, (void *)seam); /* refused when a neighbour is damaged: a few bytes are lost then */
    heap->trim_least = trim_least;
}

bool moat_region_add(struct moat_heap *heap, uintptr_t start, uintptr_t end, uintptr_t from_source) {
    struct search search;
    if (end <= start || end - start < MOAT_HEAP_REGION_BYTES_MIN || !search_mending(heap, start, &search))
        return false;
    struct moat_region *lower = search.found;
    uintptr_t next = lower != NULL ? lower->next : heap->first_region;
    if (lower != NULL && moat_region_end(lower) > start)
        return false;
    if (next != 0 && next < end)
        return false;

    struct moat_region *region = moat_region_at(start);
    moat_region_sign(heap, region, end | from_source, next);
    moat_region_link(heap, lower, start);
    struct moat_extent extent = moat_region_extent(region);
    moat_block_set_meta(heap->key, end, MOAT_BLOCK_FIXED | MOAT_BLOCK_BEFORE_FREE);
    heap->block_bytes += extent.bytes;
    moat_bin_insert(heap, extent.low, extent.bytes, extent);

    struct moat_region *upper = moat_region_at(next);
    if (next == end && moat_region_proved(heap, upper) && (upper->end & MOAT_REGION_FROM_SOURCE) == from_source)
        join(heap, region, upper);
    if (lower != NULL && moat_region_end(lower) == start && (lower->end & MOAT_REGION_FROM_SOURCE) == from_source)
        join(heap, lower, region);
    return true;
}

bool moat_heap_add_region(struct moat_heap *heap, void *start, size_t bytes) {
    uintptr_t begin = (uintptr_t)start;
    uintptr_t aligned = (begin + MOAT_BLOCK_ALIGN - 1) & ~(MOAT_BLOCK_ALIGN - 1);
    if (begin == 0 || aligned < begin || begin + bytes < begin)
        return false;
    return moat_region_add(heap, aligned, (begin + bytes) & ~(MOAT_BLOCK_ALIGN - 1), 0);
}
