/* The block map's table and its scans. May include: map.h only. */
#include "guard/engine/map.h"

#include <string.h>

struct moat_map_leaf {
    _Atomic(struct moat_span *) window[(size_t)1 << 13];
};
_Static_assert(MOAT_MAP_LEAF_BITS <= 13 && MOAT_MAP_ROOT_BITS <= 48u - MOAT_WINDOW_SHIFT - 13u,
               "the arrays hold every window");

void moat_map_init(struct moat_block_map *map, const struct moat_source *memory) {
    for (size_t i = 0; i < sizeof map->root / sizeof map->root[0]; i++) {
        atomic_init(&map->root[i], NULL);
    }
    map->memory = memory;
    atomic_init(&map->memory_bytes, 0);
}

static size_t root_index(uintptr_t address) { return address >> MOAT_WINDOW_SHIFT >> MOAT_MAP_LEAF_BITS; }

static size_t leaf_index(uintptr_t address) {
    return address >> MOAT_WINDOW_SHIFT & (((uintptr_t)1 << MOAT_MAP_LEAF_BITS) - 1);
}

struct moat_span *moat_map_find(const struct moat_block_map *map, uintptr_t address) {
    if (root_index(address) >= (size_t)1 << MOAT_MAP_ROOT_BITS) {
        return NULL; /* no user-space address */
    }
    struct moat_map_leaf *leaf = atomic_load_explicit(&map->root[root_index(address)], memory_order_acquire);
    if (leaf == NULL) {
        return NULL;
    }
    struct moat_span *range = atomic_load_explicit(&leaf->window[leaf_index(address)], memory_order_acquire);
    while (range != NULL && address - moat_span_start(range) >= moat_span_size(range)) {
        range = range->next_in_window;
    }
    return range;
}

struct moat_span *moat_map_overlapping(const struct moat_block_map *map, uintptr_t start, uintptr_t end) {
    for (uintptr_t at = start; at < end; at = (at | (MOAT_WINDOW_BYTES - 1)) + 1) {
        struct moat_map_leaf *leaf = root_index(at) >= (size_t)1 << MOAT_MAP_ROOT_BITS
                                         ? NULL
                                         : atomic_load_explicit(&map->root[root_index(at)], memory_order_acquire);
        struct moat_span *range =
            leaf == NULL ? NULL : atomic_load_explicit(&leaf->window[leaf_index(at)], memory_order_acquire);
        for (; range != NULL; range = range->next_in_window) {
            if (moat_span_size(range) != 0 && moat_span_start(range) < end && moat_span_end(range) > start) {
                return range;
            }
        }
        if ((at | (MOAT_WINDOW_BYTES - 1)) == UINTPTR_MAX) {
            break;
        }
    }
    return NULL;
}

static void *memory_get(struct moat_block_map *map, size_t size_bytes) {
    size_t got_bytes = 0;
    void *memory = map->memory->acquire(map->memory->context, size_bytes, &got_bytes);
    atomic_fetch_add_explicit(&map->memory_bytes, memory == NULL ? 0 : got_bytes, memory_order_relaxed);
    return memory;
}

static struct moat_map_leaf *leaf_get(struct moat_block_map *map, uintptr_t address) {
    if (root_index(address) >= (size_t)1 << MOAT_MAP_ROOT_BITS) {
        return NULL;
    }
    _Atomic(void *) *slot = &map->root[root_index(address)];
    void *leaf = atomic_load_explicit(slot, memory_order_acquire);
    if (leaf == NULL) {
        void *fresh = memory_get(map, sizeof(_Atomic(struct moat_span *)) << MOAT_MAP_LEAF_BITS);
        if (fresh == NULL) {
            return NULL;
        }
        /* Another guard may have been first; its leaf then serves both and ours stays unused, once per leaf. */
        if (atomic_compare_exchange_strong(slot, &leaf, fresh)) {
            leaf = fresh;
        }
    }
    return leaf;
}

/* A record of this window that is not in use and whose bits are large enough: memory that went and came back. */
static struct moat_span *record_reuse(struct moat_map_leaf *leaf, uintptr_t start, size_t word_count,
                                      struct moat_guard *guard) {
    struct moat_span *range = atomic_load_explicit(&leaf->window[leaf_index(start)], memory_order_acquire);
    for (; range != NULL; range = range->next_in_window) {
        if (range->word_count >= word_count && atomic_load(&range->guard) == NULL) {
            struct moat_guard *none = NULL;
            if (atomic_compare_exchange_strong(&range->guard, &none, guard)) {
                return range;
            }
        }
    }
    return NULL;
}

/* A new range inside one window; NULL when there is no memory for it. */
static struct moat_span *add_piece(struct moat_block_map *map, struct moat_guard *guard, uintptr_t start,
                                   size_t size_bytes, unsigned shift) {
    struct moat_map_leaf *leaf = leaf_get(map, start);
    if (leaf == NULL) {
        return NULL;
    }
    size_t granules = (size_bytes + ((size_t)1 << shift) - 1) >> shift;
    size_t word_count = (granules + MOAT_WORD_BITS - 1) / MOAT_WORD_BITS;
    struct moat_span *range = record_reuse(leaf, start, word_count, guard);
    if (range != NULL) {
        memset(range->starts, 0, 2 * range->word_count * sizeof(uintptr_t));
        range->shift = shift;
        atomic_store(&range->start, start);
        atomic_store(&range->size_bytes, size_bytes);
        return range;
    }
    range = memory_get(map, sizeof *range + 2 * word_count * sizeof(uintptr_t));
    if (range == NULL) {
        return NULL;
    }
    range->starts = (uintptr_t *)(range + 1);
    range->live = range->starts + word_count;
    range->word_count = word_count;
    range->shift = shift;
    atomic_store(&range->guard, guard);
    atomic_store(&range->start, start);
    atomic_store(&range->size_bytes, size_bytes);
    _Atomic(struct moat_span *) *window = &leaf->window[leaf_index(start)];
    range->next_in_window = atomic_load(window);
    while (!atomic_compare_exchange_weak(window, &range->next_in_window, range)) {
    }
    return range;
}

/* The end of the piece of [start, end) that lies in start's window. */
static uintptr_t piece_end(uintptr_t start, uintptr_t end) {
    uintptr_t window_end = (start | (MOAT_WINDOW_BYTES - 1)) + 1;
    return window_end - 1 < end - 1 ? window_end : end;
}

bool moat_map_add_fine(struct moat_block_map *map, struct moat_guard *guard, uintptr_t start, size_t size_bytes,
                       unsigned shift) {
    uintptr_t end = start + size_bytes;
    for (uintptr_t at = start; at != end; at = piece_end(at, end)) {
        if (add_piece(map, guard, at, piece_end(at, end) - at, shift) == NULL) {
            moat_map_remove(map, guard, start, at - start);
            return false;
        }
    }
    return true;
}

bool moat_map_add(struct moat_block_map *map, struct moat_guard *guard, uintptr_t start, size_t size_bytes) {
    return moat_map_add_fine(map, guard, start, size_bytes, MOAT_GRANULE_SHIFT);
}

/* Takes [start, end) out of a range. What is left behind it becomes a range of its own first, so that whoever looks for an
 * address in it finds its guard at every moment. */
static bool cut(struct moat_block_map *map, struct moat_span *range, uintptr_t start, uintptr_t end) {
    uintptr_t range_end = moat_span_end(range);
    if (end != range_end) {
        struct moat_span *rest = add_piece(map, atomic_load(&range->guard), end, range_end - end, range->shift);
        if (rest == NULL) {
            return false;
        }
        uintptr_t user = moat_span_start_above(range, end);
        for (; user != 0; user = moat_span_start_above(range, user + 1)) {
            moat_bit_set(rest->starts, moat_span_index(rest, user));
            if (moat_bit(range->live, moat_span_index(range, user))) {
                moat_bit_set(rest->live, moat_span_index(rest, user));
            }
        }
    }
    if (start == moat_span_start(range)) {
        atomic_store(&range->size_bytes, 0);
        atomic_store(&range->guard, NULL);
    } else {
        size_t granules = (start - moat_span_start(range)) >> range->shift;
        for (size_t i = granules; i < range->word_count * MOAT_WORD_BITS; i++) {
            moat_bit_clear(range->starts, i);
            moat_bit_clear(range->live, i);
        }
        atomic_store(&range->size_bytes, start - moat_span_start(range));
    }
    return true;
}

bool moat_map_remove(struct moat_block_map *map, struct moat_guard *guard, uintptr_t start, size_t size_bytes) {
    uintptr_t end = start + size_bytes;
    /* First the only step that can fail, so that nothing has changed when it does. */
    struct moat_span *last = size_bytes == 0 ? NULL : moat_map_find(map, end - 1);
    if (last != NULL && atomic_load(&last->guard) == guard && moat_span_end(last) != end) {
        uintptr_t from = moat_span_start(last) > start ? moat_span_start(last) : start;
        if (!cut(map, last, from, end)) {
            return false;
        }
        end = from;
    }
    while (start != end) {
        uintptr_t next = piece_end(start, end);
        struct moat_span *range = moat_map_find(map, start);
        if (range != NULL && atomic_load(&range->guard) == guard) {
            uintptr_t range_end = moat_span_end(range);
            next = range_end - 1 < next - 1 ? range_end : next;
            cut(map, range, start, next);
        }
        start = next;
    }
    return true;
}

uintptr_t moat_span_start_below(const struct moat_span *range, uintptr_t address, size_t most_bytes) {
    size_t index = moat_span_index(range, address);
    size_t word = index / MOAT_WORD_BITS;
    size_t words_left = (most_bytes >> range->shift) / MOAT_WORD_BITS + 2;
    uintptr_t bits = range->starts[word] & (~(uintptr_t)0 >> (MOAT_WORD_BITS - 1 - index % MOAT_WORD_BITS));
    while (bits == 0) {
        if (word == 0 || --words_left == 0) {
            return 0;
        }
        bits = range->starts[--word];
    }
    size_t top = MOAT_WORD_BITS - 1 -
                 (size_t)(sizeof bits == 8 ? __builtin_clzll((unsigned long long)bits) : __builtin_clz((unsigned)bits));
    uintptr_t found = moat_span_start(range) + ((word * MOAT_WORD_BITS + top) << range->shift);
    return address - found <= most_bytes ? found : 0; /* the words went a little further */
}

uintptr_t moat_span_start_between(const struct moat_span *range, uintptr_t address, uintptr_t end) {
    uintptr_t start = moat_span_start(range);
    size_t size_bytes = moat_span_size(range);
    size_bytes = end - start < size_bytes ? end - start : size_bytes;
    size_t granules = (size_bytes + ((size_t)1 << range->shift) - 1) >> range->shift;
    size_t index = (address - start + ((size_t)1 << range->shift) - 1) >> range->shift;
    if (index >= granules) {
        return 0;
    }
    size_t word = index / MOAT_WORD_BITS;
    uintptr_t bits = range->starts[word] & ~(uintptr_t)0 << index % MOAT_WORD_BITS;
    while (bits == 0) {
        if (++word * MOAT_WORD_BITS >= granules) {
            return 0;
        }
        bits = range->starts[word];
    }
    size_t low = (size_t)__builtin_ctzll((unsigned long long)bits);
    uintptr_t found = start + ((word * MOAT_WORD_BITS + low) << range->shift);
    return found < end ? found : 0; /* the last word went a little further */
}

uintptr_t moat_span_start_above(const struct moat_span *range, uintptr_t address) {
    return moat_span_start_between(range, address, UINTPTR_MAX);
}

static struct moat_span *window_next(const struct moat_map_leaf *leaf, size_t window, const struct moat_guard *guard,
                                     uintptr_t address) {
    struct moat_span *lowest = NULL;
    struct moat_span *range = atomic_load_explicit(&leaf->window[window], memory_order_acquire);
    for (; range != NULL; range = range->next_in_window) {
        bool candidate =
            atomic_load(&range->guard) == guard && moat_span_size(range) != 0 && moat_span_end(range) - 1 >= address;
        if (candidate && (lowest == NULL || moat_span_start(range) < moat_span_start(lowest))) {
            lowest = range;
        }
    }
    return lowest;
}

struct moat_span *moat_map_next(const struct moat_block_map *map, const struct moat_guard *guard, uintptr_t address) {
    size_t window = leaf_index(address);
    for (size_t root = root_index(address); root < (size_t)1 << MOAT_MAP_ROOT_BITS; root++, window = 0) {
        const struct moat_map_leaf *leaf = atomic_load_explicit(&map->root[root], memory_order_acquire);
        for (; leaf != NULL && window < (size_t)1 << MOAT_MAP_LEAF_BITS; window++) {
            struct moat_span *range = window_next(leaf, window, guard, address);
            if (range != NULL) {
                return range;
            }
        }
    }
    return NULL;
}
