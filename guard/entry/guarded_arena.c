/* Guarded arenas: the public functions of moat/guard_arena.h. May include: guarded.h, moat/guard_arena.h. */
#include "guard/entry/guarded.h"
#include "moat/guard_arena.h"

MOAT_EXPORT bool moat_guarded_arena_init(struct moat_guarded *guarded, const char *name, struct moat_arena *arena,
                                         void *buffer, size_t buffer_bytes) {
    const struct moat_guarded_config config = {.name = name,
                                               .backend = moat_arena_backend(),
                                               .context = arena,
                                               .memory = buffer,
                                               .memory_bytes = buffer_bytes,
                                               .rewinds = true};
    return moat_guarded_init(guarded, &config);
}

/* The arena below; NULL when it is none. */
static struct moat_arena *arena_of(const struct moat_shard *shard) {
    bool is_arena = shard->ready && shard->guard.backend == moat_arena_backend();
    return is_arena ? shard->guard.backend_context : NULL;
}

struct releasing {
    struct moat_shard *shard;
    uintptr_t caller;
};

/* The range ends where the arena goes on, and no block starts in the bytes of its lead before that. */
static bool release_range(void *argument, void *start, size_t size_bytes) {
    const struct releasing *releasing = argument;
    moat_guarded_release_blocks(releasing->shard, (uintptr_t)start, (uintptr_t)start + size_bytes, releasing->caller);
    return true;
}

/* What the arena found wrong with a mark or a record. */
static void report_fault(struct moat_shard *shard, uintptr_t caller) {
    struct moat_call call = moat_block_call(MOAT_FAMILY_ARENA, MOAT_WHEN_CALL, caller);
    struct moat_findings findings = {.count = 1};
    moat_lock_take(&shard->lock);
    moat_guard_fault_finding(&shard->guard, NULL, &call, &findings.item[0]);
    moat_lock_give(&shard->lock);
    moat_block_report(&findings);
}

static bool rewind_to(struct moat_shard *shard, struct moat_arena_mark mark, uintptr_t caller) {
    struct moat_arena *arena = arena_of(shard);
    struct releasing releasing = {shard, caller};
    if (arena == NULL) {
        return false;
    }
    moat_arena_each_range_after(arena, mark, release_range, &releasing);
    moat_lock_take(&shard->lock);
    bool done = moat_arena_rewind(arena, mark);
    moat_lock_give(&shard->lock);
    if (!done) {
        report_fault(shard, caller);
    }
    moat_guarded_sweep_refused(shard, caller);
    return done;
}

MOAT_EXPORT struct moat_arena_mark moat_guarded_arena_mark(struct moat_guarded *guarded) {
    struct moat_shard *shard = moat_guarded_shard(guarded);
    moat_lock_take(&shard->lock);
    struct moat_arena *arena = arena_of(shard);
    struct moat_arena_mark mark = arena != NULL ? moat_arena_mark(arena) : moat_arena_mark_start();
    moat_lock_give(&shard->lock);
    return mark;
}

MOAT_EXPORT bool moat_guarded_arena_rewind(struct moat_guarded *guarded, struct moat_arena_mark mark) {
    return rewind_to(moat_guarded_shard(guarded), mark, MOAT_CALLER);
}

MOAT_EXPORT bool moat_guarded_arena_reset(struct moat_guarded *guarded) {
    return rewind_to(moat_guarded_shard(guarded), moat_arena_mark_start(), MOAT_CALLER);
}

MOAT_EXPORT bool moat_guarded_arena_close(struct moat_guarded *guarded) {
    struct moat_shard *shard = moat_guarded_shard(guarded);
    if (!rewind_to(shard, moat_arena_mark_start(), MOAT_CALLER)) {
        return false;
    }
    struct moat_arena *arena = arena_of(shard);
    shard->refused_memory = true; /* a last look at all, while the chunks are still there */
    moat_guarded_sweep_refused(shard, MOAT_CALLER);
    moat_lock_take(&shard->lock);
    bool done = moat_arena_close(arena);
    moat_lock_give(&shard->lock);
    if (!done) {
        report_fault(shard, MOAT_CALLER);
        return false;
    }
    moat_guarded_end(guarded, MOAT_CALLER);
    return true;
}
