/* The control block: the heap's own state, and how to find a bin and a region in constant time.
 * May include: block.h, rule.h and freestanding headers.
 *
 *   struct moat_heap | bin heads | bin map | remembered regions
 *
 * Its arrays are as long as the heap needs them. Nothing in it is trusted blindly at hardening level 1: it lies beside
 * blocks. The geometry carries its inverse, the fields that never or seldom change a checksum, each remembered region a
 * check of its own; heads and maps are proved by what they lead to. */
#ifndef MOAT_HEAP_CONTROL_H
#define MOAT_HEAP_CONTROL_H

#include "block.h"
#include "rule.h"

/* A region's blocks: their addresses are low <= p < low + bytes, and low + bytes is the sentinel's. */
struct moat_extent {
    uintptr_t low;
    uintptr_t bytes;
};

/* What is remembered of a region that was used lately. */
struct moat_remembered {
    struct moat_extent extent;
    uintptr_t check;
};

struct moat_heap {
    uint32_t geometry; /* bits 0-3: log2 of bins a doubling, 4-7: log2 of remembered regions or 0, 8-23: the last bin */
    uint32_t geometry_inverse;
    uintptr_t key;
    uintptr_t first_region; /* record of the lowest region; 0: none */
    const struct moat_source *source;
    size_t grow_bytes;
    uintptr_t check; /* of everything above */

    struct moat_remembered latest;
    uintptr_t filled_words; /* bit i: word i of the bin map is not 0 */
    size_t used_bytes;      /* usable bytes of used blocks */
    size_t peak_bytes;
    size_t used_count;
    size_t free_count;
    size_t block_bytes; /* of all blocks, overheads included, the control block's left out */
    size_t allocation_count;
    size_t failure_count;

    size_t keep_bytes; /* free memory that trimming by itself leaves */
    size_t trim_least; /* a free block from this size on makes the heap think of trimming; SIZE_MAX: it never does */
    size_t trim_from;  /* and it does so from this much free memory on */

    uintptr_t fault_block;
    uint32_t fault_count;
    uint8_t fault_rule; /* enum moat_rule */
    uint8_t fault_pending;
    uint8_t reserved[2];
};

/* A region's record lies at its start, so that there can be any number of regions. */
struct moat_region {
    moat_word end;  /* where the region ends; bit 0: it came from the heap's source */
    moat_word next; /* record of the next region by address; 0: none */
    moat_word check;
};

#define MOAT_REGION_FROM_SOURCE ((uintptr_t)1)
/* The first block's address in its region. When two regions are joined, the lower one's sentinel and the upper one's
 * record together make exactly one smallest block. */
#define MOAT_REGION_LEAD MOAT_BLOCK_MIN
_Static_assert(sizeof(struct moat_region) <= MOAT_REGION_LEAD - MOAT_BLOCK_OVERHEAD,
               "the record fits before the first block");

/* ---- geometry ---------------------------------------------------------------------------------------------------- */

#define MOAT_BINS_LOG2_MAX 5
#define MOAT_REMEMBERED_LOG2 6
#define MOAT_REMEMBERED_SHIFT 22 /* addresses that differ above this bit are remembered in different places */
#define MOAT_MAP_WORD_BITS ((uint32_t)(sizeof(uintptr_t) * 8))

static inline uint32_t moat_geometry(uint32_t bins_log2, uint32_t remembered_log2, uint32_t last_bin) {
    return bins_log2 | remembered_log2 << 4 | last_bin << 8;
}

static inline uint32_t moat_geometry_bins_log2(uint32_t geometry) { return geometry & 15u; }

static inline uint32_t moat_geometry_remembered(uint32_t geometry) {
    uint32_t remembered_log2 = geometry >> 4 & 15u;
    return remembered_log2 != 0 ? 1u << remembered_log2 : 0;
}

static inline uint32_t moat_geometry_last_bin(uint32_t geometry) { return geometry >> 8; }

static inline uint32_t moat_geometry_map_words(uint32_t geometry) {
    return moat_geometry_last_bin(geometry) / MOAT_MAP_WORD_BITS + 1;
}

static inline bool moat_geometry_whole(const struct moat_heap *heap) {
    return !MOAT_PROVE || (heap->geometry ^ heap->geometry_inverse) == UINT32_MAX;
}

static inline uintptr_t *moat_heap_heads(const struct moat_heap *heap) { return (uintptr_t *)(uintptr_t)(heap + 1); }

static inline uintptr_t *moat_heap_map(const struct moat_heap *heap) {
    return moat_heap_heads(heap) + moat_geometry_last_bin(heap->geometry) + 1;
}

static inline struct moat_remembered *moat_heap_remembered(const struct moat_heap *heap) {
    return (struct moat_remembered *)(moat_heap_map(heap) + moat_geometry_map_words(heap->geometry));
}

/* The checksum of the fields that say where everything is. */
static inline uintptr_t moat_heap_checksum(const struct moat_heap *heap) {
    uintptr_t sum = moat_mix(heap->key, heap->first_region);
    sum = moat_mix(sum, (uintptr_t)heap->source);
    sum = moat_mix(sum, heap->grow_bytes);
    return moat_mix(sum, heap->geometry);
}

static inline bool moat_heap_whole(const struct moat_heap *heap) {
    return (heap->geometry ^ heap->geometry_inverse) == UINT32_MAX && heap->check == moat_heap_checksum(heap);
}

/* Bytes of all free blocks, overheads included; those that were set aside count too. */
static inline size_t moat_heap_free_bytes(const struct moat_heap *heap) {
    return heap->block_bytes - heap->used_bytes - heap->used_count * MOAT_BLOCK_OVERHEAD;
}

/* ---- bins -------------------------------------------------------------------------------------------------------- */

static inline uint32_t moat_log2(uintptr_t value) {
    return (uint32_t)(sizeof(unsigned long) * 8 - 1) - (uint32_t)__builtin_clzl((unsigned long)value);
}
_Static_assert(sizeof(unsigned long) == sizeof(uintptr_t), "count-leading-zeros works on words");

/* The bin of blocks of a size: sizes in units of the alignment, 2^bins_log2 bins for each doubling, one size a bin
 * below twice that many units. With s = size / alignment and k = bins_log2 the bin is (shift << k) + (s >> shift),
 * where shift is chosen so that s >> shift has k + 1 bits. */
static inline uint32_t moat_bin_for(uint32_t bins_log2, uintptr_t size) {
    uintptr_t units = size / MOAT_BLOCK_ALIGN;
    if (units >> bins_log2 == 0)
        return (uint32_t)units;
    uint32_t shift = moat_log2(units) - bins_log2;
    return (shift << bins_log2) + (uint32_t)(units >> shift);
}

static inline uint32_t moat_bin_of(const struct moat_heap *heap, uintptr_t size) {
    uint32_t geometry = heap->geometry;
    uint32_t bin = moat_bin_for(moat_geometry_bins_log2(geometry), size);
    uint32_t last = moat_geometry_last_bin(geometry);
    return bin < last ? bin : last; /* the last bin takes whatever is larger */
}

/* Whether all blocks of a bin have one size. */
static inline bool moat_bin_is_exact(const struct moat_heap *heap, uint32_t bin) {
    return bin >> moat_geometry_bins_log2(heap->geometry) < 2;
}

static inline void moat_bin_mark(struct moat_heap *heap, uint32_t bin) {
    moat_heap_map(heap)[bin / MOAT_MAP_WORD_BITS] |= (uintptr_t)1 << bin % MOAT_MAP_WORD_BITS;
    heap->filled_words |= (uintptr_t)1 << bin / MOAT_MAP_WORD_BITS;
}

static inline void moat_bin_unmark(struct moat_heap *heap, uint32_t bin) {
    uintptr_t *word = &moat_heap_map(heap)[bin / MOAT_MAP_WORD_BITS];
    *word &= ~((uintptr_t)1 << bin % MOAT_MAP_WORD_BITS);
    if (*word == 0)
        heap->filled_words &= ~((uintptr_t)1 << bin / MOAT_MAP_WORD_BITS);
}

#define MOAT_BIN_NONE UINT32_MAX

/* The first marked bin from `bin` on, or MOAT_BIN_NONE. A damaged map may name an empty bin, never one that does not
 * exist. */
static inline uint32_t moat_bin_next(const struct moat_heap *heap, uint32_t bin) {
    uint32_t last = moat_geometry_last_bin(heap->geometry);
    if (bin > last)
        return MOAT_BIN_NONE;
    const uintptr_t *map = moat_heap_map(heap);
    uint32_t word = bin / MOAT_MAP_WORD_BITS;
    uintptr_t bits = map[word] & UINTPTR_MAX << bin % MOAT_MAP_WORD_BITS;
    while (bits == 0) {
        uintptr_t behind_word = ~(((uintptr_t)2 << word) - 1); /* there are fewer words than bits in a word */
        uintptr_t later = heap->filled_words & behind_word;
        if (later == 0)
            return MOAT_BIN_NONE;
        word = (uint32_t)__builtin_ctzl((unsigned long)later);
        if (word * MOAT_MAP_WORD_BITS > last)
            return MOAT_BIN_NONE;
        bits = map[word];
    }
    uint32_t found = word * MOAT_MAP_WORD_BITS + (uint32_t)__builtin_ctzl((unsigned long)bits);
    return found <= last ? found : MOAT_BIN_NONE;
}

/* ---- regions ----------------------------------------------------------------------------------------------------- */

static inline uintptr_t moat_remembered_check(const struct moat_heap *heap, struct moat_extent extent) {
    return (heap->key ^ extent.low) * MOAT_MIX_FACTOR ^ extent.bytes;
}

static inline bool moat_extent_holds(struct moat_extent extent, uintptr_t address) {
    return address - extent.low < extent.bytes;
}

/* Looks the region of an address up among those remembered and in the list, and remembers it as the latest. All zero
 * when there is none. */
struct moat_extent moat_region_find_slowly(struct moat_heap *heap, uintptr_t address);

/* Finds the region whose blocks an address is among.
 * Takes:   *extent, a proved extent to try first, or all zero.
 * Gives:   true with *extent filled in; false when the address is in no region. */
MOAT_HEAP_INLINE bool moat_region_find(struct moat_heap *heap, uintptr_t address, struct moat_extent *extent) {
    if (moat_extent_holds(*extent, address))
        return true;
    struct moat_extent latest = heap->latest.extent;
    if (moat_extent_holds(latest, address) && heap->latest.check == moat_remembered_check(heap, latest)) {
        *extent = latest;
        return true;
    }
    struct moat_extent found = moat_region_find_slowly(heap, address); /* by value: *extent can stay in registers */
    if (found.bytes == 0)
        return false;
    *extent = found;
    return true;
}

/* The same from the list alone, changing nothing. */
bool moat_region_seek(const struct moat_heap *heap, uintptr_t address, struct moat_extent *extent);

static inline struct moat_region *moat_region_at(uintptr_t address) { return (struct moat_region *)address; }

static inline uintptr_t moat_region_end(const struct moat_region *region) { return region->end & ~MOAT_BLOCK_FLAGS; }

static inline struct moat_extent moat_region_extent(const struct moat_region *region) {
    uintptr_t low = (uintptr_t)region + MOAT_REGION_LEAD;
    return (struct moat_extent){low, moat_region_end(region) - low};
}

/* Whether a record is as it was signed; its address must come from a proved place. */
bool moat_region_proved(const struct moat_heap *heap, const struct moat_region *region);

/* Adds a region and joins it with those it touches. `from_source`: MOAT_REGION_FROM_SOURCE or 0. */
bool moat_region_add(struct moat_heap *heap, uintptr_t start, uintptr_t end, uintptr_t from_source);

/* Writes a record. */
void moat_region_sign(const struct moat_heap *heap, struct moat_region *region, uintptr_t end, uintptr_t next);

/* Makes `next` follow a record, or come first when `region` is NULL. */
void moat_region_link(struct moat_heap *heap, struct moat_region *region, uintptr_t next);

/* Forgets every remembered region: to be called when one changes. */
void moat_region_forget(struct moat_heap *heap);

/* From how much free memory on trimming by itself is tried next: when as much can be given back as is acquired at a
 * time. */
static inline void moat_heap_trim_again(struct moat_heap *heap) {
    size_t from = heap->keep_bytes + heap->grow_bytes;
    heap->trim_from = from >= heap->keep_bytes ? from : SIZE_MAX;
}

/* Trims the region that a free block has grown in, when it lies at one of its ends and the heap has more free memory
 * than it is to keep. `extent` is tried first. */
void moat_heap_trim_around(struct moat_heap *heap, uintptr_t p, uintptr_t size, struct moat_extent extent);

/* Acquires memory from the source for a block of `size` and adds it. */
bool moat_region_grow(struct moat_heap *heap, uintptr_t size);

/* Notes a broken rule; `block` is the address of the block that breaks it. */
__attribute__((cold)) void moat_heap_note(struct moat_heap *heap, enum moat_rule rule, uintptr_t block);

/* What a rule says, for humans. */
const char *moat_rule_text(unsigned rule);

#endif
