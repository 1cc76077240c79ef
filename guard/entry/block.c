/* What every allocating and freeing call comes down to. May include: process.h and POSIX headers.
 *
 * The fast paths are at the top; whatever goes wrong leaves them for a function of its own. */
#include "guard/entry/process.h"

#include <errno.h>
#include <sched.h>

#define MOAT_COLD __attribute__((noinline, cold))

static uint64_t sequence_next(struct moat_thread *self) {
    if (self->sequence_next == self->sequence_end) {
        self->sequence_next = atomic_fetch_add_explicit(&moat_process.sequence, MOAT_SEQUENCE_BATCH, memory_order_relaxed);
        self->sequence_end = self->sequence_next + MOAT_SEQUENCE_BATCH;
    }
    return self->sequence_next++;
}

/* The latest allocation number, for events that are not allocations. */
static uint64_t event_now(const struct moat_thread *self) {
    return self->sequence_next != self->sequence_end ? self->sequence_next - 1
                                                     : atomic_load_explicit(&moat_process.sequence, memory_order_relaxed) - 1;
}

static struct moat_call call_make(const struct moat_thread *self, uint64_t event, uint32_t stack, unsigned family, unsigned when) {
    return (struct moat_call){
        .event = event, .stack = stack, .thread = self->number, .family = (uint8_t)family, .when = (uint8_t)when};
}

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

static MOAT_COLD void victim_report(struct moat_shard *shard, const struct moat_victim *victim, const struct moat_call *call) {
    struct moat_findings findings;
    moat_lock_take(&shard->lock);
    moat_guard_diagnose_block(&shard->guard, (uintptr_t)victim->user, call, victim->event, &findings);
    moat_lock_give(&shard->lock);
    moat_block_report(&findings);
}

/* Proves victims and gives them back. Context: shard's lock held, and released meanwhile for reports. */
static void victims_leave(struct moat_shard *shard, const struct moat_victim *victims, size_t count, const struct moat_call *leaving) {
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
static bool drain_one(struct moat_shard *shard, const struct moat_call *call) {
    struct moat_victim victims[MOAT_VICTIMS_MAX];
    struct moat_call leaving = *call;
    leaving.when = MOAT_WHEN_QUARANTINE;
    size_t count = shard->ready ? moat_guard_pop(&shard->guard, 0, true, victims) : 0;
    victims_leave(shard, victims, count, &leaving);
    return count != 0;
}

void moat_block_drain(struct moat_shard *shard, const struct moat_call *call) {
    moat_lock_take(&shard->lock);
    while (drain_one(shard, call)) {
    }
    moat_lock_give(&shard->lock);
}

/* ---- allocation ----------------------------------------------------------------------------------------------------------- */

static void *take_locked(struct moat_shard *shard, const struct moat_request *request, const struct moat_call *call) {
    if (__builtin_expect(!shard->ready, 0) && (shard == &moat_process.large || !moat_shard_open(shard))) {
        return NULL;
    }
    return moat_guard_take(&shard->guard, request->size_bytes, request->alignment, call);
}

static void *take_from(struct moat_shard *shard, const struct moat_request *request, const struct moat_call *call) {
    moat_lock_take(&shard->lock);
    void *user = take_locked(shard, request, call);
    moat_lock_give(&shard->lock);
    return user;
}

/* Every quarantine is emptied, and every shard asked, before an allocation may fail. */
static MOAT_COLD void *take_hard(struct moat_shard *own, const struct moat_request *request, const struct moat_call *call) {
    void *user = NULL;
    for (unsigned i = 0; i <= moat_process.shard_count + 1 && user == NULL; i++) {
        struct moat_shard *shard = i == 0 ? &moat_process.large : i == 1 ? own : &moat_process.shards[i - 2];
        moat_lock_take(&shard->lock);
        do {
            if (shard != &moat_process.large) {
                user = take_locked(shard, request, call);
            }
        } while (user == NULL && drain_one(shard, call));
        if (user == NULL && shard->ready && shard != &moat_process.large) {
            moat_heap_trim(shard->heap, 0); /* so that others can have it */
        }
        moat_lock_give(&shard->lock);
    }
    return user != NULL ? user : take_from(own, request, call);
}

static void name_copy(char to[MOAT_OWNER_BYTES], const char *name) {
    for (size_t i = 0; i + 1 < MOAT_OWNER_BYTES && name[i] != '\0'; i++) {
        to[i] = name[i];
    }
}

/* `owner`: the guarded allocator's name; NULL: malloc's. */
static MOAT_COLD void *out_of_memory(const struct moat_request *request, const struct moat_call *call, const char *owner) {
    if (moat_process.options.report_failures) {
        struct moat_finding finding = {.kind = MOAT_OUT_OF_MEMORY,
                                       .when = MOAT_WHEN_CALL,
                                       .caller_family = request->family,
                                       .thread = call->thread,
                                       .found_stack = call->stack,
                                       .argument_value = {request->size_bytes, request->alignment}};
        name_copy(finding.owner, owner != NULL ? owner : "");
        moat_finding_report(&finding);
    }
    errno = ENOMEM;
    return NULL;
}

void *moat_block_refuse(unsigned argument, uint64_t value0, uint64_t value1, int error, uintptr_t caller) {
    if (moat_process.options.report_failures) {
        struct moat_thread *self = moat_thread_self();
        struct moat_finding finding = {.kind = MOAT_INVALID_ARGUMENT,
                                       .when = MOAT_WHEN_CALL,
                                       .argument = (uint8_t)argument,
                                       .thread = self->number,
                                       .found_stack = moat_stack_capture(self, caller),
                                       .argument_value = {value0, value1}};
        moat_finding_report(&finding);
    }
    errno = error;
    return NULL;
}

struct moat_call moat_block_call(unsigned family, unsigned when, uintptr_t caller) {
    struct moat_thread *self = moat_thread_self();
    uint32_t stack = moat_stack_capture(self, caller);
    return call_make(self, event_now(self), stack, family, when);
}

/* The failure that the options asked for. */
static MOAT_COLD void *injected(size_t size_bytes, size_t alignment, unsigned family, unsigned when, const char *owner,
                                 uintptr_t caller) {
    struct moat_thread *self = moat_thread_self();
    struct moat_finding finding = {.kind = MOAT_OUT_OF_MEMORY,
                                   .when = (uint8_t)when,
                                   .argument = MOAT_ARGUMENT_INJECTED,
                                   .caller_family = (uint8_t)family,
                                   .thread = self->number,
                                   .found_stack = moat_stack_capture(self, caller),
                                   .argument_value = {size_bytes, alignment}};
    name_copy(finding.owner, owner != NULL ? owner : "");
    moat_finding_report(&finding);
    errno = ENOMEM;
    return NULL;
}

/* Whether this allocation of the program's own is one that is to fail. */
static bool is_injected(const struct moat_thread *self) {
    return __builtin_expect(moat_process.failing, 0) && moat_process.started && self->shielded == 0 && moat_tune_fails();
}

void *moat_block_allocate_from(struct moat_shard *shard, const struct moat_request *request) {
    struct moat_thread *self = moat_thread_self();
    if (is_injected(self)) {
        return injected(request->size_bytes, request->alignment, request->family, MOAT_WHEN_CALL, shard->name, request->caller);
    }
    uint32_t stack = moat_stack_capture(self, request->caller);
    struct moat_call call = call_make(self, sequence_next(self), stack, request->family, MOAT_WHEN_CALL);
    void *user = NULL;
    moat_lock_take(&shard->lock);
    do {
        user = shard->ready ? moat_guard_take(&shard->guard, request->size_bytes, request->alignment, &call) : NULL;
    } while (user == NULL && drain_one(shard, &call));
    moat_lock_give(&shard->lock);
    if (user == NULL) {
        return out_of_memory(request, &call, shard->name);
    }
    moat_guard_fill(&shard->guard, user, request->size_bytes);
    return user;
}

static void *allocate_now(const struct moat_request *request);

void *moat_block_allocate(const struct moat_request *request) {
    if (is_injected(moat_thread_self())) {
        return injected(request->size_bytes, request->alignment, request->family, MOAT_WHEN_CALL, NULL, request->caller);
    }
    return allocate_now(request);
}

static void *allocate_now(const struct moat_request *request) {
    struct moat_thread *self = moat_thread_self();
    if (__builtin_expect(request->size_bytes > PTRDIFF_MAX, 0)) {
        return moat_block_refuse(MOAT_ARGUMENT_SIZE, request->size_bytes, 0, ENOMEM, request->caller);
    }
    uint32_t stack = moat_stack_capture(self, request->caller);
    struct moat_call call = call_make(self, sequence_next(self), stack, request->family, MOAT_WHEN_CALL);
    struct moat_shard *shard = self->shard;
    void *user = NULL;
    bool large = request->size_bytes + request->alignment >= moat_process.options.large;
    if (__builtin_expect(large, 0)) {
        shard = &moat_process.large;
        user = take_from(shard, request, &call);
        large = user != NULL; /* when there are too many of them, the heap serves */
    }
    if (user == NULL) {
        shard = self->shard;
        user = take_from(shard, request, &call);
    }
    if (__builtin_expect(user == NULL, 0)) {
        int error = errno;
        user = take_hard(shard, request, &call);
        if (user == NULL) {
            return out_of_memory(request, &call, NULL);
        }
        errno = error;
    }
    if (request->zero) {
        if (!large) {
            memset(user, 0, request->size_bytes);
        }
    } else if (!large) {
        moat_guard_fill(&shard->guard, user, request->size_bytes);
    }
    return user;
}

/* ---- free ------------------------------------------------------------------------------------------------------------------- */

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
static MOAT_COLD void check_claimed(const void *user, size_t size_bytes, struct moat_claimed claimed, const struct moat_call *call) {
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
static MOAT_COLD void free_mixed(struct moat_shard *owner, const struct moat_shard *asked, void *user, const struct moat_call *call) {
    struct moat_finding finding = {.kind = MOAT_ALLOC_DEALLOC_MISMATCH,
                                   .when = call->when,
                                   .argument = owner->guarded == asked ? MOAT_ARGUMENT_NOT_SINGLY : MOAT_ARGUMENT_OTHER_OWNER,
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
    name_copy(finding.owner, owner->guarded != NULL ? owner->name : MOAT_HEAP_NAME);
    name_copy(finding.asked, asked != NULL ? asked->name : MOAT_HEAP_NAME);
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
        victims_leave(shard, victims, count, &leaving);
        moat_lock_give(&shard->lock);
        if (count == 0) {
            return;
        }
    }
}

static void free_as(void *user, struct moat_thread *self, uint32_t stack, unsigned family, unsigned when, struct moat_claimed claimed,
                    struct moat_shard *asked) {
    struct moat_call call = call_make(self, event_now(self), stack, family, when);
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

void moat_block_free(void *user, unsigned family, struct moat_claimed claimed, uintptr_t caller) {
    if (user == NULL) {
        return;
    }
    int error = errno;
    struct moat_thread *self = moat_thread_self();
    free_as(user, self, moat_stack_capture(self, caller), family, MOAT_WHEN_FREE, claimed, NULL);
    errno = error;
}

void moat_block_free_to(struct moat_shard *shard, void *user, uintptr_t caller) {
    if (user == NULL) {
        return;
    }
    int error = errno;
    struct moat_thread *self = moat_thread_self();
    uint32_t stack = moat_stack_capture(self, caller);
    free_as(user, self, stack, shard->rewinds ? MOAT_FAMILY_ARENA : MOAT_FAMILY_GUARDED, MOAT_WHEN_FREE, MOAT_CLAIMED_NOTHING, shard);
    errno = error;
}

/* ---- realloc ------------------------------------------------------------------------------------------------------------------ */

/* What can be saved of a block that realloc was given but must not trust: as many bytes as are there. */
static MOAT_COLD void *resize_refused(struct moat_shard *shard, void *user, size_t size_bytes, const struct moat_call *call,
                                      uintptr_t caller) {
    struct moat_findings findings;
    bool lost = true;
    struct moat_block_facts facts = {.size_bytes = 0};
    struct moat_request request = {
        .size_bytes = size_bytes, .alignment = 1, .family = MOAT_FAMILY_MALLOC, .caller = caller};
    moat_lock_take(&shard->lock);
    bool mismatch = moat_guard_diagnose_call(&shard->guard, user, call, &findings);
    bool stranger = !mismatch && findings.count != 0 &&
                    (findings.item[0].kind == MOAT_DOUBLE_FREE || findings.item[0].kind == MOAT_INVALID_FREE);
    if (!stranger) {
        facts = moat_guard_facts(&shard->guard, (uintptr_t)user, &lost);
    }
    moat_lock_give(&shard->lock);
    moat_block_report(&findings);
    if (stranger) {
        errno = ENOMEM;
        return NULL;
    }
    void *moved = allocate_now(&request);
    if (moved != NULL) {
        memcpy(moved, user, facts.size_bytes < size_bytes ? (size_t)facts.size_bytes : size_bytes);
    }
    if (moved != NULL && mismatch) {
        struct moat_thread *self = moat_thread_self();
        free_as(user, self, call->stack, facts.family, MOAT_WHEN_REALLOC, MOAT_CLAIMED_NOTHING, NULL);
    }
    return moved;
}

/* A guarded allocator's block given to realloc: it moves to the heap, and freeing it says what is wrong. */
static MOAT_COLD void *resize_mixed(void *user, size_t size_bytes, struct moat_thread *self, const struct moat_call *call,
                                    uintptr_t caller) {
    struct moat_request request = {.size_bytes = size_bytes, .alignment = 1, .family = MOAT_FAMILY_MALLOC, .caller = caller};
    size_t old_bytes = moat_block_size(user);
    void *moved = allocate_now(&request);
    if (moved != NULL) {
        memcpy(moved, user, old_bytes < size_bytes ? old_bytes : size_bytes);
        free_as(user, self, call->stack, MOAT_FAMILY_MALLOC, MOAT_WHEN_REALLOC, MOAT_CLAIMED_NOTHING, NULL);
    }
    return moved;
}

void *moat_block_resize(void *user, size_t size_bytes, uintptr_t caller) {
    struct moat_thread *self = moat_thread_self();
    if (size_bytes > PTRDIFF_MAX) {
        return moat_block_refuse(MOAT_ARGUMENT_SIZE, size_bytes, 0, ENOMEM, caller);
    }
    if (is_injected(self)) {
        return injected(size_bytes, 1, MOAT_FAMILY_MALLOC, MOAT_WHEN_REALLOC, NULL, caller);
    }
    uint32_t stack = moat_stack_capture(self, caller);
    struct moat_call call = call_make(self, event_now(self), stack, MOAT_FAMILY_MALLOC, MOAT_WHEN_REALLOC);
    struct moat_shard *shard = moat_shard_of((uintptr_t)user);
    size_t old_bytes;
    if (__builtin_expect(shard->guarded != NULL, 0)) {
        return resize_mixed(user, size_bytes, self, &call, caller);
    }
    moat_lock_take(&shard->lock);
    bool proved = moat_guard_prove(&shard->guard, user, &call, &old_bytes);
    bool resized = proved && moat_guard_resize(&shard->guard, user, size_bytes, &call);
    moat_lock_give(&shard->lock);
    if (resized) {
        return user;
    }
    if (__builtin_expect(!proved, 0)) {
        return resize_refused(shard, user, size_bytes, &call, caller);
    }
    struct moat_request request = {
        .size_bytes = size_bytes, .alignment = 1, .family = MOAT_FAMILY_MALLOC, .caller = caller};
    void *moved = allocate_now(&request);
    if (moved == NULL) {
        return NULL;
    }
    memcpy(moved, user, old_bytes < size_bytes ? old_bytes : size_bytes);
    int error = errno;
    free_as(user, self, stack, MOAT_FAMILY_MALLOC, MOAT_WHEN_REALLOC, MOAT_CLAIMED_NOTHING, NULL);
    errno = error;
    return moved;
}

bool moat_block_resize_in_place(void *user, size_t size_bytes, uintptr_t caller) {
    struct moat_thread *self = moat_thread_self();
    struct moat_call call = call_make(self, event_now(self), moat_stack_capture(self, caller), MOAT_FAMILY_MALLOC, MOAT_WHEN_REALLOC);
    struct moat_shard *shard = moat_shard_of((uintptr_t)user);
    size_t old_bytes;
    moat_lock_take(&shard->lock);
    bool resized = moat_guard_prove(&shard->guard, user, &call, &old_bytes) &&
                   (old_bytes == size_bytes || moat_guard_resize(&shard->guard, user, size_bytes, &call));
    moat_lock_give(&shard->lock);
    return resized;
}

size_t moat_block_size(const void *user) {
    if (user == NULL || !moat_is_started()) {
        return 0;
    }
    struct moat_shard *shard = moat_shard_of((uintptr_t)user);
    size_t size_bytes = 0;
    moat_lock_take(&shard->lock);
    struct moat_span *span = shard->guard.locator.find == NULL
                                 ? NULL
                                 : shard->guard.locator.find(shard->guard.locator.context, (uintptr_t)user);
    if (span != NULL && moat_span_is_start(span, (uintptr_t)user) &&
        moat_bit(span->live, moat_span_index(span, (uintptr_t)user))) {
        bool lost;
        size_bytes = (size_t)moat_guard_facts(&shard->guard, (uintptr_t)user, &lost).size_bytes;
    }
    moat_lock_give(&shard->lock);
    return size_bytes;
}

/* ---- full check ------------------------------------------------------------------------------------------------------------------ */

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
    struct sweep sweep = {.call = call_make(self, event_now(self), stack, MOAT_FAMILY_MALLOC, when), .try_locks = try_locks};
    moat_shards_each(sweep_shard, &sweep);
    *corrupt = sweep.corrupt;
    return sweep.finding_count;
}
