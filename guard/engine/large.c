/* The page backend's table and placement. May include: large.h only. */
#include "guard/engine/large.h"

#define MOAT_NATURAL_ALIGNMENT 16u
/* Room to grow in place: an eighth, after which a realloc moves the block anyway. */
#define MOAT_GROWTH_SHIFT 3u

bool moat_large_init(struct moat_large *large, struct moat_guard *guard, const struct moat_page_operations *pages,
                     uint32_t most, const struct moat_source *memory) {
    size_t got_bytes;
    *large = (struct moat_large){.pages = pages, .guard = guard};
    if (most == 0) {
        return true;
    }
    large->blocks = memory->acquire(memory->context, most * sizeof *large->blocks, &got_bytes);
    large->order = memory->acquire(memory->context, most * sizeof *large->order, &got_bytes);
    if (large->blocks == NULL || large->order == NULL) {
        return false;
    }
    large->most = most;
    return true;
}

/* How many blocks in use start at or below `address`. */
static uint32_t position_of(const struct moat_large *large, uintptr_t address) {
    uint32_t low = 0;
    uint32_t high = large->count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (large->blocks[large->order[middle]].reserved_start <= address) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

struct moat_large_block *moat_large_at(const struct moat_large *large, uintptr_t address) {
    uint32_t position = position_of(large, address);
    if (position == 0) {
        return NULL;
    }
    struct moat_large_block *record = &large->blocks[large->order[position - 1]];
    return address < record->reserved_end ? record : NULL;
}

struct moat_span *moat_large_find(const void *context, uintptr_t address) {
    struct moat_large_block *record = moat_large_at(context, address);
    return record != NULL && address >= moat_span_start(&record->span) ? &record->span : NULL;
}

struct moat_span *moat_large_next(const void *context, const struct moat_guard *guard, uintptr_t address) {
    const struct moat_large *large = context;
    (void)guard; /* the table holds one guard's blocks only */
    uint32_t position = position_of(large, address);
    if (position != 0 && large->blocks[large->order[position - 1]].reserved_end > address) {
        position--;
    }
    return position < large->count ? &large->blocks[large->order[position]].span : NULL;
}

static uintptr_t round_up(uintptr_t value, uintptr_t multiple) { return (value + multiple - 1) & ~(multiple - 1); }

static uintptr_t round_down(uintptr_t value, uintptr_t multiple) { return value & ~(multiple - 1); }

/* A record from behind the used part of the order, moved to its sorted place. */
static struct moat_large_block *record_insert(struct moat_large *large, uintptr_t reserved_start) {
    uint32_t index = large->order[large->count];
    if (index == 0) {
        index = large->count; /* never used so far: the order's tail is still zero */
    } else {
        index--;
    }
    uint32_t position = position_of(large, reserved_start);
    memmove(&large->order[position + 1], &large->order[position], (large->count - position) * sizeof *large->order);
    large->order[position] = index;
    large->count++;
    return &large->blocks[index];
}

static void record_remove(struct moat_large *large, struct moat_large_block *record) {
    uint32_t position = position_of(large, record->reserved_start) - 1;
    uint32_t index = large->order[position];
    memmove(&large->order[position], &large->order[position + 1], (large->count - position - 1) * sizeof *large->order);
    large->count--;
    large->order[large->count] = index + 1; /* so that 0 means never used */
}

static void *large_alloc(void *context, size_t size_bytes, size_t alignment, size_t lead_bytes) {
    struct moat_large *large = context;
    const size_t page = large->pages->page_bytes;
    alignment = alignment < MOAT_NATURAL_ALIGNMENT ? MOAT_NATURAL_ALIGNMENT : alignment;
    size_t growth = round_up(size_bytes >> MOAT_GROWTH_SHIFT, page) + page;
    if (large->count == large->most || size_bytes > PTRDIFF_MAX - alignment - growth - 2 * page) {
        return NULL;
    }
    /* Room to slide the block so that it ends at a page's end and lead_bytes into it is aligned. */
    size_t data = round_up(size_bytes + alignment - 1, page) + (alignment > page ? page : 0);
    uintptr_t start = (uintptr_t)large->pages->reserve(data + growth, page);
    if (start == 0) {
        return NULL;
    }
    uintptr_t block = round_down(start + data - size_bytes + lead_bytes, alignment) - lead_bytes;
    uintptr_t committed_start = round_down(block, page);
    uintptr_t committed_end = round_up(block + size_bytes, page);
    if (!large->pages->commit((void *)committed_start, committed_end - committed_start)) {
        large->pages->release((void *)start, data + growth);
        return NULL;
    }
    struct moat_large_block *record = record_insert(large, start);
    *record = (struct moat_large_block){.reserved_start = start,
                                        .reserved_end = start + data + growth,
                                        .committed_start = committed_start,
                                        .committed_end = committed_end,
                                        .block = block};
    record->span.shift = MOAT_WORD_BITS - 1;
    record->span.word_count = 1;
    record->span.starts = &record->bits[0];
    record->span.live = &record->bits[1];
    atomic_store(&record->span.start, block + lead_bytes);
    atomic_store(&record->span.size_bytes, record->reserved_end - block - lead_bytes);
    atomic_store(&record->span.guard, large->guard);
    return (void *)block;
}

static bool large_free(void *context, void *block) {
    struct moat_large *large = context;
    struct moat_large_block *record = moat_large_at(large, (uintptr_t)block);
    if (record == NULL || record->block != (uintptr_t)block) {
        return false;
    }
    void *start = (void *)record->reserved_start;
    size_t size_bytes = record->reserved_end - record->reserved_start;
    if (!large->pages->release(start, size_bytes)) {
        return false;
    }
    record_remove(large, record);
    return true;
}

static bool large_resize(void *context, void *block, size_t size_bytes) {
    struct moat_large *large = context;
    const size_t page = large->pages->page_bytes;
    struct moat_large_block *record = moat_large_at(large, (uintptr_t)block);
    if (record == NULL || record->block != (uintptr_t)block ||
        size_bytes > record->reserved_end - page - record->block) {
        return false; /* not ours, or the guard page would go */
    }
    uintptr_t end = round_up(record->block + size_bytes, page);
    if (end > record->committed_end &&
        !large->pages->commit((void *)record->committed_end, end - record->committed_end)) {
        return false;
    }
    if (end < record->committed_end && !large->pages->conceal((void *)end, record->committed_end - end)) {
        return false;
    }
    record->committed_end = end;
    return true;
}

static size_t large_usable(void *context, void *block) {
    const struct moat_large_block *record = moat_large_at(context, (uintptr_t)block);
    return record != NULL && record->block == (uintptr_t)block ? record->committed_end - record->block : 0;
}

static bool large_walk(void *context, bool (*visit)(void *argument, const struct moat_backend_block *block),
                       void *argument) {
    const struct moat_large *large = context;
    for (uint32_t i = 0; i < large->count; i++) {
        const struct moat_large_block *record = &large->blocks[large->order[i]];
        struct moat_backend_block block = {
            .start = (void *)record->block, .size_bytes = record->committed_end - record->block, .used = true};
        if (!visit(argument, &block)) {
            break;
        }
    }
    return true;
}

static void large_detach(void *context, void *block, size_t dress_bytes) {
    struct moat_large_block *record = moat_large_at(context, (uintptr_t)block);
    memcpy(record->dress.bytes, block, dress_bytes < sizeof record->dress ? dress_bytes : sizeof record->dress);
    record->detached = true;
}

static void *large_dress(void *context, void *block) {
    struct moat_large_block *record = moat_large_at(context, (uintptr_t)block);
    return record != NULL && record->detached ? &record->dress : NULL;
}

static void large_conceal(void *context, void *block) {
    const struct moat_large *large = context;
    const struct moat_large_block *record = moat_large_at(large, (uintptr_t)block);
    if (record != NULL) {
        large->pages->conceal((void *)record->committed_start, record->committed_end - record->committed_start);
    }
}

const struct moat_backend *moat_large_backend(void) {
    static const struct moat_backend table = {
        .alloc = large_alloc,
        .free = large_free,
        .resize = large_resize,
        .usable = large_usable,
        .walk = large_walk,
        .detach = large_detach,
        .dress = large_dress,
        .conceal = large_conceal,
    };
    return &table;
}

bool moat_large_open(struct moat_large *large, uintptr_t address) {
    struct moat_large_block *record = moat_large_at(large, address);
    if (record == NULL) {
        return false;
    }
    const size_t page = large->pages->page_bytes;
    uintptr_t start = round_down(address, page);
    return large->pages->commit((void *)start, page);
}
