/* The block map: which addresses are user pointers, which of those are live, and whose they are.
 * May include: moat/source.h and freestanding headers.
 *
 * A range is a piece of memory that one guard's backend takes blocks from, with one bit per granule that says "a user pointer
 * lies here" and a second one that says it is live. The bits lie outside the memory they describe, so the answers stay right
 * when headers are smashed. The map finds the range of an address: a two-level table over 4 MiB windows of the address space,
 * whose entries are lists of the ranges in that window, nearly always one. It needs no large reservation.
 *
 * Locking: a range's bits belong to its guard and are read and written under its lock. Adding and removing ranges happens under that
 * lock too, but guards share the table, so its links are changed by compare-and-swap and a record once linked is only ever reused for its own
 * window. Finding the guard of an address needs no lock; the answer must be confirmed under that guard's. */
#ifndef MOAT_ENGINE_MAP_H
#define MOAT_ENGINE_MAP_H

#include "moat/source.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct moat_guard;

#define MOAT_WORD_BITS (8 * sizeof(uintptr_t))
#define MOAT_GRANULE_SHIFT (sizeof(void *) == 8 ? 4u : 3u)
#define MOAT_WINDOW_SHIFT 22u
#define MOAT_WINDOW_BYTES ((uintptr_t)1 << MOAT_WINDOW_SHIFT)
#define MOAT_ADDRESS_BITS (sizeof(void *) == 8 ? 48u : 32u)
#define MOAT_MAP_LEAF_BITS (sizeof(void *) == 8 ? 13u : 5u)
#define MOAT_MAP_ROOT_BITS (MOAT_ADDRESS_BITS - MOAT_WINDOW_SHIFT - MOAT_MAP_LEAF_BITS)

struct moat_span {
    _Atomic(uintptr_t) start;
    _Atomic(size_t) size_bytes; /* 0: not in use */
    _Atomic(struct moat_guard *) guard;
    unsigned shift; /* a granule is 1 << shift bytes */
    size_t word_count;
    uintptr_t *starts; /* bit per granule: a user pointer lies here */
    uintptr_t *live;   /* bit per granule: and it was not freed */
    uintptr_t *marks;  /* leak scan only: reached */
    struct moat_span *next_in_window;
};

struct moat_block_map {
    _Atomic(void *) root[(size_t)1 << (48u - MOAT_WINDOW_SHIFT - 13u)];
    const struct moat_source *memory; /* zeroed memory for leaves, records and bits */
    _Atomic(size_t) memory_bytes;     /* taken from it */
};

/* Prepares a map. `memory` must give zeroed memory and stay valid. */
void moat_map_init(struct moat_block_map *map, const struct moat_source *memory);

/* How much memory the map itself takes. */
static inline size_t moat_map_bytes(const struct moat_block_map *map) {
    return atomic_load_explicit(&map->memory_bytes, memory_order_relaxed);
}

/* Adds memory that `guard` takes blocks from; splits it at window boundaries.
 * Fails:   false when there is no memory for the bits; nothing is added then.
 * Context: guard's lock held. */
bool moat_map_add(struct moat_block_map *map, struct moat_guard *guard, uintptr_t start, size_t size_bytes);

/* The same for a backend whose blocks are less aligned than Moat's heap's: granules of 1 << shift bytes, counted from `start`. */
bool moat_map_add_fine(struct moat_block_map *map, struct moat_guard *guard, uintptr_t start, size_t size_bytes,
                       unsigned shift);

/* Removes it again, or any part of it; every block in that part must be gone.
 * Fails:   false when what is left behind it needs a record of its own and there is no memory for that; nothing changes then.
 * Context: guard's lock held. */
bool moat_map_remove(struct moat_block_map *map, struct moat_guard *guard, uintptr_t start, size_t size_bytes);

/* The range an address lies in, or NULL. Lock-free; cost: two loads and, rarely, a step along the window's list. */
struct moat_span *moat_map_find(const struct moat_block_map *map, uintptr_t address);

/* The guard's range with the lowest addresses among those that end above `address`, or NULL: for visiting all of them in order. */
struct moat_span *moat_map_next(const struct moat_block_map *map, const struct moat_guard *guard, uintptr_t address);

/* A range, of any guard, that shares an address with [start, end); NULL: none does. */
struct moat_span *moat_map_overlapping(const struct moat_block_map *map, uintptr_t start, uintptr_t end);

static inline uintptr_t moat_span_start(const struct moat_span *range) {
    return atomic_load_explicit(&range->start, memory_order_relaxed);
}

static inline size_t moat_span_size(const struct moat_span *range) {
    return atomic_load_explicit(&range->size_bytes, memory_order_relaxed);
}

static inline uintptr_t moat_span_end(const struct moat_span *range) {
    return moat_span_start(range) + moat_span_size(range);
}

static inline size_t moat_span_index(const struct moat_span *range, uintptr_t address) {
    return (address - moat_span_start(range)) >> range->shift;
}

static inline bool moat_bit(const uintptr_t *bits, size_t index) {
    return (bits[index / MOAT_WORD_BITS] >> index % MOAT_WORD_BITS & 1) != 0;
}

static inline void moat_bit_set(uintptr_t *bits, size_t index) {
    bits[index / MOAT_WORD_BITS] |= (uintptr_t)1 << index % MOAT_WORD_BITS;
}

static inline void moat_bit_clear(uintptr_t *bits, size_t index) {
    bits[index / MOAT_WORD_BITS] &= ~((uintptr_t)1 << index % MOAT_WORD_BITS);
}

/* Whether a user pointer lies exactly at `address`, which must be inside the range. */
static inline bool moat_span_is_start(const struct moat_span *range, uintptr_t address) {
    uintptr_t offset = address - moat_span_start(range);
    return (offset & (((uintptr_t)1 << range->shift) - 1)) == 0 && moat_bit(range->starts, offset >> range->shift);
}

/* The nearest user pointer at or below `address` in this range; 0 when there is none within `most_bytes`. */
uintptr_t moat_span_start_below(const struct moat_span *range, uintptr_t address, size_t most_bytes);

/* The nearest user pointer at or above `address` in this range; 0 when there is none. */
uintptr_t moat_span_start_above(const struct moat_span *range, uintptr_t address);

/* The same below `end`, looking no further than it must. */
uintptr_t moat_span_start_between(const struct moat_span *range, uintptr_t address, uintptr_t end);

#endif
