/* The full check of all blocks. May include: block.h and POSIX headers. */
#include "guard/entry/block.h"

#include <sched.h>

struct sweep {
    struct moat_call call;
    uint64_t finding_count;
    bool corrupt;
    bool try_locks;
    bool skipped;
};

/* Tries for a lock that its holder may never give back. */
#define MOAT_SWEEP_TRIES 1000u

static bool sweep_lock(const struct sweep *sweep, struct moat_shard *shard) {
    if (!sweep->try_locks) {
        moat_lock_take(&shard->lock);
        return true;
    }
    for (unsigned i = 0; i < MOAT_SWEEP_TRIES; i++) {
        if (moat_lock_try(&shard->lock)) {
            return true;
        }
        sched_yield();
    }
    return false;
}

static void sweep_shard(void *context, struct moat_shard *shard) {
    struct sweep *sweep = context;
    uintptr_t cursor = 0;
    for (bool more = true; more;) {
        struct moat_findings findings;
        if (!sweep_lock(sweep, shard)) {
            sweep->skipped = true;
            return;
        }
        more = moat_guard_sweep(&shard->guard, &cursor, &sweep->call, &findings);
        if (!more) {
            shard->guard.last_check_event = sweep->call.event;
        }
        moat_lock_give(&shard->lock);
        sweep->finding_count += findings.count;
        for (size_t i = 0; i < findings.count; i++) {
            sweep->corrupt |= moat_finding_print(&findings.item[i]);
        }
    }
}

uint64_t moat_block_sweep(unsigned when, uintptr_t caller, bool try_locks, bool *corrupt) {
    struct moat_thread *self = moat_thread_self();
    uint32_t stack = try_locks ? 0 : moat_stack_capture(self, caller);
    struct sweep sweep = {.call = moat_block_call_make(self, moat_block_event(self), stack, MOAT_FAMILY_MALLOC, when),
                          .try_locks = try_locks};
    moat_shards_each(sweep_shard, &sweep);
    *corrupt = sweep.corrupt;
    return sweep.finding_count;
}
