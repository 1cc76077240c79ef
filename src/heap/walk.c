/* Reading a heap without changing it: the walk, statistics, and the verifier.
 * May include: bins.h and freestanding headers, string.h for memset.
 *
 * Nothing here writes, and every address is proved to lie in a region before it is read, at every hardening level. */
#include "bins.h"

#include <string.h>

/* What a pass over all blocks adds up to. */
struct sums {
    size_t used_count;
    size_t used_bytes;
    size_t free_count;
    size_t free_bytes; /* overhead included */
};

struct finding {
    enum moat_rule rule;
    uintptr_t block;
};

static struct finding broken(enum moat_rule rule, uintptr_t block) { return (struct finding){rule, block}; }

/* ---- walk ---------------------------------------------------------------------------------------------------------- */

static bool walk_region(const struct moat_heap *heap, const struct moat_region *region,
                        bool (*visit)(void *argument, const struct moat_backend_block *block), void *argument) {
    struct moat_extent extent = moat_region_extent(region);
    uintptr_t limit = extent.low + extent.bytes;
    uintptr_t p = extent.low;
    while (p < limit) {
        uintptr_t meta = moat_block_meta(heap->key, p);
        if (!moat_block_plausible(meta, p, extent))
            return false;
        bool used = (meta & MOAT_BLOCK_FREE) == 0;
        struct moat_backend_block block = {(void *)p, moat_block_size(meta) - MOAT_BLOCK_OVERHEAD, used};
        if ((meta & MOAT_BLOCK_FIXED) == 0 && !visit(argument, &block))
            return false;
        p += moat_block_size(meta);
    }
    return moat_follower_plausible(moat_block_meta(heap->key, limit), limit, extent);
}

bool moat_heap_walk(const struct moat_heap *heap, bool (*visit)(void *argument, const struct moat_backend_block *block),
                    void *argument) {
    if (!moat_heap_whole(heap))
        return false;
    for (uintptr_t at = heap->first_region; at != 0;) {
        const struct moat_region *region = moat_region_at(at);
        if (!moat_region_proved(heap, region) || !walk_region(heap, region, visit, argument))
            return false;
        at = region->next;
    }
    return true;
}

/* ---- statistics ---------------------------------------------------------------------------------------------------- */

/* The size of a free block that is surely inside a region, else 0. */
static uintptr_t readable_free_size(const struct moat_heap *heap, uintptr_t p) {
    struct moat_extent extent;
    if (p % MOAT_BLOCK_ALIGN != 0 || !moat_region_seek(heap, p, &extent))
        return 0;
    uintptr_t meta = moat_block_meta(heap->key, p);
    return (meta & MOAT_BLOCK_FREE) != 0 && moat_block_plausible(meta, p, extent) ? moat_block_size(meta) : 0;
}

static size_t largest_free_size(const struct moat_heap *heap) {
    size_t largest = 0;
    for (uint32_t bin = moat_geometry_last_bin(heap->geometry) + 1; bin-- > 0 && largest == 0;) {
        size_t steps = heap->free_count;
        for (uintptr_t p = moat_heap_heads(heap)[bin]; p != 0 && steps-- > 0; p = *moat_block_next(p)) {
            uintptr_t size = readable_free_size(heap, p);
            if (size == 0)
                break;
            if (size > largest)
                largest = size;
        }
    }
    return largest;
}

void moat_heap_statistics(const struct moat_heap *heap, struct moat_heap_statistics *statistics) {
    memset(statistics, 0, sizeof *statistics);
    if (!moat_heap_whole(heap))
        return;
    for (uintptr_t at = heap->first_region; at != 0 && moat_region_proved(heap, moat_region_at(at));
         at = moat_region_at(at)->next) {
        statistics->region_count++;
        statistics->region_bytes += moat_region_end(moat_region_at(at)) - at;
    }
    size_t largest = largest_free_size(heap);
    statistics->used_bytes = heap->used_bytes;
    statistics->used_bytes_peak = heap->peak_bytes;
    statistics->used_count = heap->used_count;
    statistics->free_bytes = moat_heap_free_bytes(heap) - heap->free_count * MOAT_BLOCK_OVERHEAD;
    statistics->free_count = heap->free_count;
    statistics->free_bytes_largest = largest != 0 ? largest - MOAT_BLOCK_OVERHEAD : 0;
    statistics->allocation_count = heap->allocation_count;
    statistics->failure_count = heap->failure_count;
}

/* ---- verify -------------------------------------------------------------------------------------------------------- */

/* Whether `p`, met as a link, leads to a place where links can be read. */
static bool link_readable(const struct moat_heap *heap, uintptr_t p) {
    struct moat_extent extent;
    return p % MOAT_BLOCK_ALIGN == 0 && moat_region_seek(heap, p, &extent);
}

static enum moat_rule verify_links(const struct moat_heap *heap, uintptr_t p, uintptr_t size) {
    uintptr_t next = *moat_block_next(p);
    uintptr_t previous = *moat_block_previous(p);
    if (next != 0 && (!link_readable(heap, next) || *moat_block_previous(next) != p))
        return MOAT_RULE_LINK_NEXT;
    if (previous == 0)
        return moat_heap_heads(heap)[moat_bin_of(heap, size)] == p ? MOAT_RULE_NONE : MOAT_RULE_BIN;
    return link_readable(heap, previous) && *moat_block_next(previous) == p ? MOAT_RULE_NONE : MOAT_RULE_LINK_PREVIOUS;
}

static struct finding verify_region(const struct moat_heap *heap, const struct moat_region *region, struct sums *sums) {
    struct moat_extent extent = moat_region_extent(region);
    uintptr_t limit = extent.low + extent.bytes;
    uintptr_t p = extent.low;
    uintptr_t before_free = 0;
    while (p < limit) {
        uintptr_t meta = moat_block_meta(heap->key, p);
        uintptr_t size = moat_block_size(meta);
        bool is_control = p == (uintptr_t)heap;
        if (!moat_block_plausible(meta, p, extent) || ((meta & MOAT_BLOCK_FIXED) != 0) != is_control)
            return broken(MOAT_RULE_HEADER, p);
        if ((meta & MOAT_BLOCK_BEFORE_FREE) != before_free)
            return broken(MOAT_RULE_NEXT_FLAG, p);
        bool is_free = (meta & MOAT_BLOCK_FREE) != 0;
        if (is_free && before_free != 0)
            return broken(MOAT_RULE_JOINED, p);
        if (is_free && *moat_block_footer_before(p + size) != size)
            return broken(MOAT_RULE_FOOTER, p);
        enum moat_rule rule = is_free ? verify_links(heap, p, size) : MOAT_RULE_NONE;
        if (rule != MOAT_RULE_NONE)
            return broken(rule, p);
        sums->free_count += is_free;
        sums->free_bytes += is_free ? size : 0;
        sums->used_count += !is_free && !is_control;
        sums->used_bytes += !is_free && !is_control ? size - MOAT_BLOCK_OVERHEAD : 0;
        before_free = is_free ? MOAT_BLOCK_BEFORE_FREE : 0;
        p += size;
    }
    bool ended = moat_block_meta(heap->key, limit) == (MOAT_BLOCK_FIXED | before_free);
    return ended ? broken(MOAT_RULE_NONE, 0) : broken(MOAT_RULE_SENTINEL, limit);
}

/* Every list: marked in the map when filled, ending, and of free blocks of its sizes. */
static struct finding verify_bins(const struct moat_heap *heap, size_t free_count) {
    uint32_t last = moat_geometry_last_bin(heap->geometry);
    const uintptr_t *map = moat_heap_map(heap);
    size_t listed = 0;
    for (uint32_t bin = 0; bin <= last; bin++) {
        uintptr_t previous = 0;
        uintptr_t p = moat_heap_heads(heap)[bin];
        uint32_t word = bin / MOAT_MAP_WORD_BITS;
        bool marked = (map[word] >> bin % MOAT_MAP_WORD_BITS & 1u) != 0 && (heap->filled_words >> word & 1u) != 0;
        bool word_fits = (map[word] != 0) == ((heap->filled_words >> word & 1u) != 0);
        if ((p != 0) != marked || !word_fits)
            return broken(MOAT_RULE_BIN_MAP, (uintptr_t)heap);
        for (; p != 0; previous = p, p = *moat_block_next(p)) {
            uintptr_t size = readable_free_size(heap, p);
            if (size == 0 || moat_bin_of(heap, size) != bin)
                return broken(MOAT_RULE_BIN, p);
            if (*moat_block_previous(p) != previous)
                return broken(MOAT_RULE_LINK_PREVIOUS, p);
            if (++listed > free_count)
                return broken(MOAT_RULE_COUNTS, p);
        }
    }
    return broken(listed == free_count ? MOAT_RULE_NONE : MOAT_RULE_COUNTS, (uintptr_t)heap);
}

static struct finding verify_all(const struct moat_heap *heap) {
    struct sums sums = {0, 0, 0, 0};
    if (!moat_heap_whole(heap))
        return broken(MOAT_RULE_CONTROL, (uintptr_t)heap);
    /* All records first, so that links can be looked up while the blocks are gone through. */
    for (uintptr_t at = heap->first_region; at != 0; at = moat_region_at(at)->next) {
        const struct moat_region *region = moat_region_at(at);
        if (!moat_region_proved(heap, region) || (region->next != 0 && region->next < moat_region_end(region)))
            return broken(MOAT_RULE_REGION, at);
    }
    for (uintptr_t at = heap->first_region; at != 0; at = moat_region_at(at)->next) {
        struct finding finding = verify_region(heap, moat_region_at(at), &sums);
        if (finding.rule != MOAT_RULE_NONE)
            return finding;
    }
    bool counts_fit = sums.used_count == heap->used_count && sums.used_bytes == heap->used_bytes &&
                      sums.free_count == heap->free_count && sums.free_bytes == moat_heap_free_bytes(heap) &&
                      heap->peak_bytes >= heap->used_bytes;
    if (!counts_fit)
        return broken(MOAT_RULE_COUNTS, (uintptr_t)heap);
    return verify_bins(heap, sums.free_count);
}

bool moat_heap_verify(const struct moat_heap *heap, struct moat_fault *fault) {
    struct finding finding = verify_all(heap);
    if (finding.rule == MOAT_RULE_NONE)
        return true;
    if (fault != NULL)
        *fault = (struct moat_fault){moat_rule_text(finding.rule), finding.block, (uint64_t)heap->fault_count + 1};
    return false;
}
