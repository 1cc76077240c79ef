/* Allocation: the fast path, and what is tried before one may fail. May include: block.h and POSIX headers. */
#include "guard/entry/block.h"

#include <errno.h>

static uint64_t sequence_next(struct moat_thread *self) {
    if (self->sequence_next == self->sequence_end) {
        self->sequence_next =
            atomic_fetch_add_explicit(&moat_process.sequence, MOAT_SEQUENCE_BATCH, memory_order_relaxed);
        self->sequence_end = self->sequence_next + MOAT_SEQUENCE_BATCH;
    }
    return self->sequence_next++;
}

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
static MOAT_COLD void *take_hard(struct moat_shard *own, const struct moat_request *request,
                                 const struct moat_call *call) {
    void *user = NULL;
    for (unsigned i = 0; i <= moat_process.shard_count + 1 && user == NULL; i++) {
        struct moat_shard *shard = i == 0 ? &moat_process.large : i == 1 ? own : &moat_process.shards[i - 2];
        moat_lock_take(&shard->lock);
        do {
            if (shard != &moat_process.large) {
                user = take_locked(shard, request, call);
            }
        } while (user == NULL && moat_block_drain_one(shard, call));
        if (user == NULL && shard->ready && shard != &moat_process.large) {
            moat_heap_trim(shard->heap, 0); /* so that others can have it */
        }
        moat_lock_give(&shard->lock);
    }
    return user != NULL ? user : take_from(own, request, call);
}

void moat_block_name_copy(char to[MOAT_OWNER_BYTES], const char *name) {
    for (size_t i = 0; i + 1 < MOAT_OWNER_BYTES && name[i] != '\0'; i++) {
        to[i] = name[i];
    }
}

/* `owner`: the guarded allocator's name; NULL: malloc's. */
static MOAT_COLD void *out_of_memory(const struct moat_request *request, const struct moat_call *call,
                                     const char *owner) {
    if (moat_process.options.report_failures) {
        struct moat_finding finding = {.kind = MOAT_OUT_OF_MEMORY,
                                       .when = MOAT_WHEN_CALL,
                                       .caller_family = request->family,
                                       .thread = call->thread,
                                       .found_stack = call->stack,
                                       .argument_value = {request->size_bytes, request->alignment}};
        moat_block_name_copy(finding.owner, owner != NULL ? owner : "");
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
    return moat_block_call_make(self, moat_block_event(self), stack, family, when);
}

/* The failure that the options asked for. */
MOAT_COLD void *moat_block_injected(size_t size_bytes, size_t alignment, unsigned family, unsigned when,
                                    const char *owner, uintptr_t caller) {
    struct moat_thread *self = moat_thread_self();
    struct moat_finding finding = {.kind = MOAT_OUT_OF_MEMORY,
                                   .when = (uint8_t)when,
                                   .argument = MOAT_ARGUMENT_INJECTED,
                                   .caller_family = (uint8_t)family,
                                   .thread = self->number,
                                   .found_stack = moat_stack_capture(self, caller),
                                   .argument_value = {size_bytes, alignment}};
    moat_block_name_copy(finding.owner, owner != NULL ? owner : "");
    moat_finding_report(&finding);
    errno = ENOMEM;
    return NULL;
}

/* Whether this allocation of the program's own is one that is to fail. */
bool moat_block_is_injected(const struct moat_thread *self) {
    return __builtin_expect(moat_process.failing, 0) && moat_process.started && self->shielded == 0 &&
           moat_tune_fails();
}

void *moat_block_allocate_from(struct moat_shard *shard, const struct moat_request *request) {
    struct moat_thread *self = moat_thread_self();
    if (moat_block_is_injected(self)) {
        return moat_block_injected(request->size_bytes, request->alignment, request->family, MOAT_WHEN_CALL,
                                   shard->name, request->caller);
    }
    uint32_t stack = moat_stack_capture(self, request->caller);
    struct moat_call call = moat_block_call_make(self, sequence_next(self), stack, request->family, MOAT_WHEN_CALL);
    void *user = NULL;
    moat_lock_take(&shard->lock);
    do {
        user = shard->ready ? moat_guard_take(&shard->guard, request->size_bytes, request->alignment, &call) : NULL;
    } while (user == NULL && moat_block_drain_one(shard, &call));
    moat_lock_give(&shard->lock);
    if (user == NULL) {
        return out_of_memory(request, &call, shard->name);
    }
    moat_guard_fill(&shard->guard, user, request->size_bytes);
    return user;
}

void *moat_block_allocate_plainly(const struct moat_request *request) {
    if (moat_block_is_injected(moat_thread_self())) {
        return moat_block_injected(request->size_bytes, request->alignment, request->family, MOAT_WHEN_CALL, NULL,
                                   request->caller);
    }
    return moat_block_allocate_now(request);
}

void *moat_block_allocate_now(const struct moat_request *request) {
    struct moat_thread *self = moat_thread_self();
    if (__builtin_expect(request->size_bytes > PTRDIFF_MAX, 0)) {
        return moat_block_refuse(MOAT_ARGUMENT_SIZE, request->size_bytes, 0, ENOMEM, request->caller);
    }
    uint32_t stack = moat_stack_capture(self, request->caller);
    struct moat_call call = moat_block_call_make(self, sequence_next(self), stack, request->family, MOAT_WHEN_CALL);
    struct moat_shard *shard = self->shard;
    void *user = NULL;
    bool large = request->size_bytes + request->alignment >= moat_process.options.large &&
                 !moat_nested_is_held(self, &moat_process.large);
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
        user = moat_nested_is(self) ? NULL : take_hard(shard, request, &call);
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
