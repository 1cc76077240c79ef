/* Free: claim, poison, quarantine, and what leaves it. May include: block.h and POSIX headers.
 *
 * Whatever goes wrong leaves the fast path for a function of its own. */
#include "guard/entry/block.h"

#include <errno.h>

void moat_block_report(const struct moat_findings *findings) {
    bool corrupt = false;
    for (size_t i = 0; i < findings->count; i++) {
        corrupt |= moat_finding_print(&findings->item[i]);
    }
    if (corrupt) {
        moat_finding_act();
    }
}

/* ---- victims of the quarantine ---------------------------------------------------------------------------------------- */

static MOAT_COLD void victim_report(struct moat_shard *shard, const struct moat_victim *victim,
                                    const struct moat_call *call) {
    struct moat_findings findings;
    moat_lock_take(&shard->lock);
    moat_guard_diagnose_block(&shard->guard, (uintptr_t)victim->user, call, victim->event, &findings);
    moat_lock_give(&shard->lock);
    moat_block_report(&findings);
}

/* Proves victims and gives them back. Context: shard's lock held, and released meanwhile for reports. */
void moat_block_victims_leave(struct moat_shard *shard, const struct moat_victim *victims, size_t count,
                              const struct moat_call *leaving) {
    for (size_t i = 0; i < count; i++) {
        struct moat_finding finding;
        if (!moat_guard_victim_whole(&shard->guard, &victims[i])) {
            moat_lock_give(&shard->lock);
            victim_report(shard, &victims[i], leaving);
            moat_lock_take(&shard->lock);
        } else if (!moat_guard_give_back(&shard->guard, &victims[i], leaving, &finding)) {
            moat_lock_give(&shard->lock);
            moat_finding_report(&finding);
            moat_lock_take(&shard->lock);
        }
    }
}

/* Takes one block or two out of a quarantine to make room. Context: as victims_leave. */
bool moat_block_drain_one(struct moat_shard *shard, const struct moat_call *call) {
    struct moat_victim victims[MOAT_VICTIMS_MAX];
    struct moat_call leaving = *call;
    leaving.when = MOAT_WHEN_QUARANTINE;
    size_t count = shard->ready ? moat_guard_pop(&shard->guard, 0, true, victims) : 0;
    moat_block_victims_leave(shard, victims, count, &leaving);
    return count != 0;
}

void moat_block_drain(struct moat_shard *shard, const struct moat_call *call) {
    moat_lock_take(&shard->lock);
    while (moat_block_drain_one(shard, call)) {
    }
    moat_lock_give(&shard->lock);
}

/* ---- the path ---- */

/* The unlocked middle and the locked end of a free: poison, prove the victims, enqueue, give back. */
static void release_claimed(struct moat_shard *shard, void *user, size_t size_bytes, const struct moat_call *call,
                            struct moat_victim *victims, size_t count) {
    struct moat_guard *guard = &shard->guard;
    struct moat_finding finding;
    struct moat_call leaving = *call;
    leaving.when = MOAT_WHEN_QUARANTINE;
    moat_guard_poison(guard, user, size_bytes);
    for (size_t i = 0; i < count; i++) {
        if (__builtin_expect(!moat_guard_victim_whole(guard, &victims[i]), 0)) {
            victim_report(shard, &victims[i], &leaving);
            victims[i].user = NULL;
        }
    }
    moat_lock_take(&shard->lock);
    bool refused = !moat_guard_enqueue(guard, user, call, &finding);
    for (size_t i = 0; i < count; i++) {
        if (victims[i].user != NULL && !moat_guard_give_back(guard, &victims[i], &leaving, &finding)) {
            refused = true;
        }
    }
    moat_lock_give(&shard->lock);
    if (__builtin_expect(refused, 0)) {
        moat_finding_report(&finding);
    }
}

/* What sized and aligned forms of free claim of the block is checked before it goes. */
static MOAT_COLD void check_claimed(const void *user, size_t size_bytes, struct moat_claimed claimed,
                                    const struct moat_call *call) {
    bool size_wrong = claimed.size_bytes != SIZE_MAX && claimed.size_bytes != size_bytes;
    bool alignment_wrong = claimed.alignment != 0 && ((uintptr_t)user & (claimed.alignment - 1)) != 0;
    if (!size_wrong && !alignment_wrong) {
        return;
    }
    struct moat_shard *shard = moat_shard_of((uintptr_t)user);
    bool lost;
    struct moat_finding finding = {.kind = MOAT_ALLOC_DEALLOC_MISMATCH,
                                   .when = MOAT_WHEN_FREE,
                                   .argument = size_wrong ? MOAT_ARGUMENT_SIZED_DELETE : MOAT_ARGUMENT_ALIGNED_DELETE,
                                   .caller_family = call->family,
                                   .thread = call->thread,
                                   .found_stack = call->stack,
                                   .address = (uintptr_t)user,
                                   .argument_value = {size_wrong ? claimed.size_bytes : claimed.alignment, size_bytes}};
    moat_lock_take(&shard->lock);
    finding.block = moat_guard_facts(&shard->guard, (uintptr_t)user, &lost);
    moat_lock_give(&shard->lock);
    moat_finding_report(&finding);
}

/* A pointer that could not be claimed: says why, and lets go of it all the same where only the caller's family is wrong. */
static MOAT_COLD void free_refused(struct moat_shard *shard, void *user, const struct moat_call *call) {
    struct moat_findings findings;
    struct moat_victim victims[MOAT_VICTIMS_MAX];
    size_t size_bytes = 0;
    bool claimed = false;
    moat_lock_take(&shard->lock);
    if (moat_guard_diagnose_call(&shard->guard, user, call, &findings)) {
        struct moat_call fitting = *call;
        fitting.family = findings.item[0].block.family;
        claimed = moat_guard_claim(&shard->guard, user, &fitting, &size_bytes);
    }
    moat_lock_give(&shard->lock);
    moat_block_report(&findings);
    if (claimed) {
        release_claimed(shard, user, size_bytes, call, victims, 0);
    }
}

/* A block given to another allocator than its own, or one that its own does not take back singly: says so. Then it goes back where it
 * belongs, if it can. Anything but a live block is left to the ordinary diagnosis. */
static MOAT_COLD void free_mixed(struct moat_shard *owner, const struct moat_shard *asked, void *user,
                                 const struct moat_call *call) {
    struct moat_finding finding = {.kind = MOAT_ALLOC_DEALLOC_MISMATCH,
                                   .when = call->when,
                                   .argument =
                                       owner->guarded == asked ? MOAT_ARGUMENT_NOT_SINGLY : MOAT_ARGUMENT_OTHER_OWNER,
                                   .caller_family = call->family,
                                   .thread = call->thread,
                                   .found_stack = call->stack,
                                   .address = (uintptr_t)user};
    moat_lock_take(&owner->lock);
    bool live = moat_guard_live_and_whole(&owner->guard, (uintptr_t)user);
    if (live) {
        bool lost;
        finding.block = moat_guard_facts(&owner->guard, (uintptr_t)user, &lost);
    }
    moat_lock_give(&owner->lock);
    if (!live) {
        free_refused(owner, user, call);
        return;
    }
    moat_block_name_copy(finding.owner, owner->guarded != NULL ? owner->name : MOAT_HEAP_NAME);
    moat_block_name_copy(finding.asked, asked != NULL ? asked->name : MOAT_HEAP_NAME);
    moat_finding_report(&finding);
    if (!owner->rewinds) {
        struct moat_victim victims[MOAT_VICTIMS_MAX];
        struct moat_call fitting = *call;
        size_t size_bytes;
        fitting.family = finding.block.family;
        moat_lock_take(&owner->lock);
        bool claimed = moat_guard_claim(&owner->guard, user, &fitting, &size_bytes);
        moat_lock_give(&owner->lock);
        if (claimed) {
            release_claimed(owner, user, size_bytes, &fitting, victims, 0);
        }
    }
}

/* A free takes two blocks out of the quarantine. When it put a large one in, and small ones fill it, that is too few: the
 * quarantine would grow far beyond its budget. So a free goes on in proportion to the bytes it had to poison anyway. */
#define MOAT_SETTLE_BYTES 4096u

static void settle(struct moat_shard *shard, size_t size_bytes, const struct moat_call *call) {
    struct moat_call leaving = *call;
    leaving.when = MOAT_WHEN_QUARANTINE;
    for (size_t steps = size_bytes / MOAT_SETTLE_BYTES; steps != 0; steps--) {
        struct moat_victim victims[MOAT_VICTIMS_MAX];
        moat_lock_take(&shard->lock);
        size_t count = moat_guard_pop(&shard->guard, 0, false, victims);
        moat_block_victims_leave(shard, victims, count, &leaving);
        moat_lock_give(&shard->lock);
        if (count == 0) {
            return;
        }
    }
}

void moat_block_free_as(void *user, struct moat_thread *self, uint32_t stack, unsigned family, unsigned when,
                        struct moat_claimed claimed, struct moat_shard *asked) {
    struct moat_call call = moat_block_call_make(self, moat_block_event(self), stack, family, when);
    struct moat_shard *shard = moat_shard_of((uintptr_t)user);
    struct moat_victim victims[MOAT_VICTIMS_MAX];
    size_t size_bytes;
    size_t count = 0;
    if (__builtin_expect(shard->guarded != asked || shard->rewinds, 0)) {
        free_mixed(shard, asked, user, &call);
        return;
    }
    moat_lock_take(&shard->lock);
    bool is_claimed = moat_guard_claim(&shard->guard, user, &call, &size_bytes);
    if (is_claimed) {
        count = moat_guard_pop(&shard->guard, size_bytes, false, victims);
    }
    moat_lock_give(&shard->lock);
    if (__builtin_expect(!is_claimed, 0)) {
        free_refused(shard, user, &call);
        return;
    }
    if (claimed.size_bytes != SIZE_MAX || claimed.alignment != 0) {
        check_claimed(user, size_bytes, claimed, &call);
    }
    release_claimed(shard, user, size_bytes, &call, victims, count);
    if (__builtin_expect(size_bytes >= MOAT_SETTLE_BYTES, 0)) {
        settle(shard, size_bytes, &call);
    }
}

void moat_block_free_plainly(void *user, unsigned family, struct moat_claimed claimed, uintptr_t caller) {
    if (user == NULL) {
        return;
    }
    int error = errno;
    struct moat_thread *self = moat_thread_self();
    moat_block_free_as(user, self, moat_stack_capture(self, caller), family, MOAT_WHEN_FREE, claimed, NULL);
    errno = error;
}

void moat_block_free_to(struct moat_shard *shard, void *user, uintptr_t caller) {
    if (user == NULL) {
        return;
    }
    int error = errno;
    struct moat_thread *self = moat_thread_self();
    uint32_t stack = moat_stack_capture(self, caller);
    moat_block_free_as(user, self, stack, shard->rewinds ? MOAT_FAMILY_ARENA : MOAT_FAMILY_GUARDED, MOAT_WHEN_FREE,
                       MOAT_CLAIMED_NOTHING, shard);
    errno = error;
}
