/* Guards over allocators of the program's own: the public functions of moat/guard.h. May include: process.h, moat/guard.h. */
#include "guard/entry/process.h"
#include "guard/port/linux/pages.h"
#include "moat/guard.h"

#include <errno.h>

/* What the blocks of any allocator are aligned to at least. */
#define MOAT_GUARDED_SHIFT 3u

_Static_assert(sizeof(struct moat_shard) <= sizeof(struct moat_guarded), "a guarded allocator's state has room");
_Static_assert(MOAT_GUARD_LEAD_BYTES == MOAT_LEAD_BYTES, "what the public header says of a block's cost is true");

static struct moat_shard *shard_in(struct moat_guarded *guarded) { return (struct moat_shard *)(void *)guarded->contents; }

static struct moat_span *find(const void *context, uintptr_t address) { return moat_map_find(context, address); }

static struct moat_span *next(const void *context, const struct moat_guard *guard, uintptr_t address) {
    return moat_map_next(context, guard, address);
}

/* Memory that is handed out again: its freed blocks are proved a last time. The shard's lock is held. */
static void on_reuse(struct moat_guard *guard, uintptr_t user) {
    struct moat_shard *shard = (struct moat_shard *)(void *)((char *)guard - offsetof(struct moat_shard, guard));
    struct moat_victim victim = {.user = (void *)user};
    if (shard->reused.count == 0 && !moat_guard_victim_whole(guard, &victim)) {
        struct moat_thread *self = moat_thread_self();
        struct moat_call call = {.event = atomic_load(&moat_process.sequence), .thread = self->number, .when = MOAT_WHEN_QUARANTINE};
        moat_guard_diagnose_block(guard, user, &call, 0, &shard->reused);
    }
}

MOAT_EXPORT bool moat_guarded_add_memory(struct moat_guarded *guarded, void *memory, size_t memory_bytes) {
    struct moat_shard *shard = shard_in(guarded);
    const uintptr_t granule = (uintptr_t)1 << MOAT_GUARDED_SHIFT;
    uintptr_t start = (uintptr_t)memory & ~(granule - 1);
    memory_bytes += (uintptr_t)memory - start;
    if (memory_bytes == 0 || start + memory_bytes < start || moat_map_find(&moat_process.map, start) != NULL ||
        moat_map_find(&moat_process.map, start + memory_bytes - 1) != NULL) {
        return false;
    }
    moat_lock_take(&shard->lock);
    bool added = moat_map_add_fine(&moat_process.map, &shard->guard, start, memory_bytes, MOAT_GUARDED_SHIFT);
    moat_lock_give(&shard->lock);
    return added;
}

MOAT_EXPORT bool moat_guarded_init(struct moat_guarded *guarded, const struct moat_guarded_config *config) {
    struct moat_shard *shard = shard_in(guarded);
    const struct moat_backend *backend = config->backend;
    moat_thread_self(); /* starts Moat where nobody has allocated yet */
    if (config->name == NULL || backend == NULL || backend->alloc == NULL || backend->free == NULL || backend->usable == NULL ||
        config->memory == NULL || shard->ready) {
        return false;
    }
    struct moat_shard *listed = shard->guarded;
    struct moat_shard *next_listed = shard->next;
    *shard = (struct moat_shard){
        .rewinds = config->rewinds, .guarded = shard, .name = config->name, .next = next_listed, .config = moat_process.config};
    shard->config.near_bytes = config->rewinds ? 0 : config->quarantine_bytes;
    shard->config.far_bytes = 0;
    shard->config.scan_bytes = config->memory_bytes;
    struct moat_locator locator = {find, next, &moat_process.map};
    moat_guard_init(&shard->guard, &shard->config, backend, config->context, locator, moat_pages_source());
    shard->guard.reused = config->rewinds ? on_reuse : NULL;
    if (!moat_guarded_add_memory(guarded, config->memory, config->memory_bytes)) {
        return false;
    }
    shard->ready = true;
    if (listed == NULL) { /* one that was closed and is used anew is in the list already */
        shard->next = atomic_load(&moat_process.guarded);
        while (!atomic_compare_exchange_weak(&moat_process.guarded, &shard->next, shard)) {
        }
    }
    return true;
}

static void *allocate(struct moat_guarded *guarded, size_t size_bytes, size_t alignment, uintptr_t caller) {
    struct moat_shard *shard = shard_in(guarded);
    struct moat_request request = {.size_bytes = size_bytes,
                                   .alignment = alignment,
                                   .family = shard->rewinds ? MOAT_FAMILY_ARENA : MOAT_FAMILY_GUARDED,
                                   .caller = caller};
    return moat_block_allocate_from(shard, &request);
}

MOAT_EXPORT void *moat_guarded_alloc(struct moat_guarded *guarded, size_t size_bytes) {
    return allocate(guarded, size_bytes, (size_t)1 << MOAT_GUARDED_SHIFT, MOAT_CALLER);
}

MOAT_EXPORT void *moat_guarded_alloc_aligned(struct moat_guarded *guarded, size_t size_bytes, size_t alignment) {
    if (alignment == 0 || (alignment & (alignment - 1)) != 0) {
        return moat_block_refuse(MOAT_ARGUMENT_ALIGNMENT, alignment, size_bytes, EINVAL, MOAT_CALLER);
    }
    return allocate(guarded, size_bytes, alignment, MOAT_CALLER);
}

MOAT_EXPORT void moat_guarded_free(struct moat_guarded *guarded, void *block) {
    moat_block_free_to(shard_in(guarded), block, MOAT_CALLER);
}

/* The next block at or above `from` and below `end` that the map knows. */
static uintptr_t block_next(const struct moat_shard *shard, uintptr_t from, uintptr_t end) {
    while (from < end) {
        const struct moat_span *span = moat_map_next(&moat_process.map, &shard->guard, from);
        if (span == NULL || moat_span_start(span) >= end) {
            return 0;
        }
        uintptr_t start = moat_span_start(span) > from ? moat_span_start(span) : from;
        uintptr_t user = moat_span_start_above(span, start);
        if (user != 0) {
            return user < end ? user : 0;
        }
        from = moat_span_end(span);
    }
    return 0;
}

/* Frees one block where it is: poisoned, and held as freed until its memory is handed out again. Blocks freed before stay as they are. */
static void release_block(struct moat_shard *shard, uintptr_t user, const struct moat_call *call, struct moat_findings *findings) {
    size_t size_bytes;
    const struct moat_span *span = moat_map_find(&moat_process.map, user);
    findings->count = 0;
    if (!moat_bit(span->live, moat_span_index(span, user))) {
        return;
    }
    if (!moat_guard_claim(&shard->guard, (void *)user, call, &size_bytes)) {
        moat_guard_diagnose_call(&shard->guard, (void *)user, call, findings);
        return;
    }
    moat_guard_poison(&shard->guard, (void *)user, size_bytes);
    struct moat_header *header = moat_guard_header(&shard->guard, user);
    moat_header_set_size(header, size_bytes, MOAT_BLOCK_QUARANTINED, moat_header_family(header));
    moat_header_seal(header, shard->config.secret, user);
}

static void release(struct moat_shard *shard, uintptr_t start, uintptr_t end, uintptr_t caller) {
    struct moat_call call = moat_block_call(MOAT_FAMILY_ARENA, MOAT_WHEN_FREE, caller);
    uintptr_t user = start;
    for (;;) {
        struct moat_findings findings;
        moat_lock_take(&shard->lock);
        user = block_next(shard, user, end);
        if (user != 0) {
            release_block(shard, user, &call, &findings);
        }
        moat_lock_give(&shard->lock);
        if (user == 0) {
            return;
        }
        moat_block_report(&findings);
        user++;
    }
}

MOAT_EXPORT void moat_guarded_release(struct moat_guarded *guarded, void *start, size_t size_bytes) {
    struct moat_shard *shard = shard_in(guarded);
    if (shard->rewinds) {
        release(shard, (uintptr_t)start, (uintptr_t)start + size_bytes, MOAT_CALLER);
    }
}

MOAT_EXPORT void moat_guarded_close(struct moat_guarded *guarded) {
    struct moat_shard *shard = shard_in(guarded);
    uintptr_t cursor = 0;
    struct moat_call call = moat_block_call(MOAT_FAMILY_GUARDED, MOAT_WHEN_CHECK, MOAT_CALLER);
    for (bool more = true; more;) {
        struct moat_findings findings;
        moat_lock_take(&shard->lock);
        more = moat_guard_sweep(&shard->guard, &cursor, &call, &findings);
        moat_lock_give(&shard->lock);
        moat_block_report(&findings);
    }
    moat_lock_take(&shard->lock);
    shard->ready = false;
    struct moat_span *span;
    while ((span = moat_map_next(&moat_process.map, &shard->guard, 0)) != NULL) {
        moat_map_remove(&moat_process.map, &shard->guard, moat_span_start(span), moat_span_size(span));
    }
    moat_lock_give(&shard->lock);
}
