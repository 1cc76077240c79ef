/* Shards: which there are, whose a pointer is, and where their heaps grow. May include: process.h and the port's pages. */
#include "guard/entry/process.h"
#include "guard/port/linux/pages.h"

/* No block of the address space is larger; it sizes the heaps' control blocks. */
#define MOAT_LARGEST_BLOCK_BYTES (sizeof(void *) == 8 ? (uint64_t)1 << 40 : (uint64_t)1 << 31)
/* Address space that freed large blocks may hold: it costs no memory. */
#define MOAT_LARGE_QUARANTINE_BYTES (sizeof(void *) == 8 ? (size_t)1 << 30 : (size_t)64 << 20)

/* A heap's source: pages in chunks, announced to the block map before the heap sees them. */
static void *chunk_acquire(void *context, size_t size_bytes, size_t *got_bytes) {
    struct moat_shard *shard = context;
    size_t chunk_bytes = (size_bytes + MOAT_HEAP_CHUNK_BYTES - 1) & ~(MOAT_HEAP_CHUNK_BYTES - 1);
    if (chunk_bytes < size_bytes) {
        return NULL;
    }
    void *start = moat_pages_map(chunk_bytes, MOAT_HEAP_CHUNK_BYTES);
    if (start == NULL) {
        size_t page = moat_pages_size();
        chunk_bytes = (size_bytes + page - 1) & ~(page - 1); /* little address space is left: just what is needed */
        start = moat_pages_map(chunk_bytes, 0);
    }
    if (start == NULL) {
        return NULL;
    }
    if (!moat_map_add(&moat_process.map, &shard->guard, (uintptr_t)start, chunk_bytes)) {
        moat_pages_unmap(start, chunk_bytes);
        return NULL;
    }
    moat_tune_limit_quarantine(&shard->guard);
    *got_bytes = chunk_bytes;
    return start;
}

static bool chunk_release(void *context, void *start, size_t size_bytes) {
    struct moat_shard *shard = context;
    /* First the map: once unmapped, the addresses may be another shard's at once. */
    if (!moat_map_remove(&moat_process.map, &shard->guard, (uintptr_t)start, size_bytes)) {
        return false;
    }
    if (moat_pages_unmap(start, size_bytes)) {
        return true;
    }
    moat_map_add(&moat_process.map, &shard->guard, (uintptr_t)start, size_bytes);
    return false;
}

static struct moat_span *map_find(const void *context, uintptr_t address) { return moat_map_find(context, address); }

static struct moat_span *map_next(const void *context, const struct moat_guard *guard, uintptr_t address) {
    return moat_map_next(context, guard, address);
}

static void *page_reserve(size_t size_bytes, size_t alignment) { return moat_pages_reserve(size_bytes, alignment); }

static struct moat_page_operations page_operations = {
    .reserve = page_reserve, .commit = moat_pages_commit, .conceal = moat_pages_conceal, .release = moat_pages_unmap};

void moat_shards_init(void) {
    struct moat_shard *large = &moat_process.large;
    page_operations.page_bytes = moat_pages_size();
    moat_process.large_config = moat_process.config;
    moat_process.large_config.near_bytes = MOAT_LARGE_QUARANTINE_BYTES;
    moat_process.large_config.far_bytes = 0;
    moat_process.large_config.least_bytes = (size_t)moat_process.options.large;
    moat_process.large_config.scan_bytes = SIZE_MAX / 4;
    struct moat_locator locator = {moat_large_find, moat_large_next, &moat_process.large_table};
    moat_guard_init(&large->guard, &moat_process.large_config, moat_large_backend(), &moat_process.large_table, locator,
                    moat_tune_needed_memory());
    large->guard.rear_optional = true;
    large->guard.fresh_is_zero = true;
    large->large = &moat_process.large_table;
    large->ready = moat_large_init(&moat_process.large_table, &large->guard, &page_operations,
                                   (uint32_t)moat_process.options.large_blocks,
                                   moat_pages_source()); /* mostly never touched: not counted against the budget */
}

bool moat_shard_open(struct moat_shard *shard) {
    shard->source = (struct moat_source){.acquire = chunk_acquire, .release = chunk_release, .context = shard};
    struct moat_heap_config config = {.largest_block_bytes = (size_t)MOAT_LARGEST_BLOCK_BYTES,
                                      .source = &shard->source,
                                      .grow_bytes = MOAT_HEAP_CHUNK_BYTES,
                                      .keep_bytes = moat_tune_keep_bytes(),
                                      .key = (uintptr_t)(moat_process.config.secret >> 7)};
    size_t control_bytes = moat_heap_control_bytes(0, &config);
    void *control = moat_pages_map(control_bytes, 0);
    shard->heap = control == NULL ? NULL : moat_heap_create_apart(control, control_bytes, NULL, 0, &config);
    if (shard->heap == NULL) {
        return false;
    }
    struct moat_locator locator = {map_find, map_next, &moat_process.map};
    moat_guard_init(&shard->guard, &moat_process.config, moat_heap_backend(), shard->heap, locator,
                    moat_tune_spare_memory());
    moat_tune_limit_quarantine(&shard->guard);
    shard->ready = true;
    return true;
}

struct moat_shard *moat_shard_of(uintptr_t address) {
    const struct moat_span *span = moat_map_find(&moat_process.map, address);
    struct moat_guard *guard = span == NULL ? NULL : atomic_load_explicit(&span->guard, memory_order_relaxed);
    if (guard == NULL) {
        return &moat_process.large;
    }
    return (struct moat_shard *)((char *)guard - offsetof(struct moat_shard, guard));
}

void moat_shards_lock_all(void) {
    for (unsigned i = 0; i < moat_process.shard_count; i++) {
        moat_lock_take(&moat_process.shards[i].lock);
    }
    moat_lock_take(&moat_process.large.lock);
    struct moat_shard *guarded = atomic_load_explicit(&moat_process.guarded, memory_order_acquire);
    for (; guarded != NULL; guarded = guarded->next) {
        moat_lock_take(&guarded->lock);
    }
}

void moat_shards_unlock_all(void) {
    struct moat_shard *guarded = atomic_load_explicit(&moat_process.guarded, memory_order_acquire);
    for (; guarded != NULL; guarded = guarded->next) {
        moat_lock_give(&guarded->lock);
    }
    moat_lock_give(&moat_process.large.lock);
    for (unsigned i = moat_process.shard_count; i-- > 0;) {
        moat_lock_give(&moat_process.shards[i].lock);
    }
}

void moat_shards_each(void (*each)(void *context, struct moat_shard *shard), void *context) {
    for (unsigned i = 0; i < moat_process.shard_count; i++) {
        if (moat_process.shards[i].ready) {
            each(context, &moat_process.shards[i]);
        }
    }
    if (moat_process.large.ready) {
        each(context, &moat_process.large);
    }
    struct moat_shard *guarded = atomic_load_explicit(&moat_process.guarded, memory_order_acquire);
    for (; guarded != NULL; guarded = guarded->next) {
        if (guarded->ready) {
            each(context, guarded);
        }
    }
}
