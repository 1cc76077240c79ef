/* Realloc and the size of a block. May include: block.h and POSIX headers. */
#include "guard/entry/block.h"

#include <errno.h>

/* What can be saved of a block that realloc was given but must not trust: as many bytes as are there. */
static MOAT_COLD void *resize_refused(struct moat_shard *shard, void *user, size_t size_bytes,
                                      const struct moat_call *call, uintptr_t caller) {
    struct moat_findings findings;
    bool lost = true;
    struct moat_block_facts facts = {.size_bytes = 0};
    struct moat_request request = {
        .size_bytes = size_bytes, .alignment = MOAT_ANY_ALIGNMENT, .family = MOAT_FAMILY_MALLOC, .caller = caller};
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
    void *moved = moat_block_allocate_now(&request);
    if (moved != NULL) {
        memcpy(moved, user, facts.size_bytes < size_bytes ? (size_t)facts.size_bytes : size_bytes);
    }
    if (moved != NULL && mismatch) {
        struct moat_thread *self = moat_thread_self();
        moat_block_free_as(user, self, call->stack, facts.family, MOAT_WHEN_REALLOC, MOAT_CLAIMED_NOTHING, NULL);
    }
    return moved;
}

/* A guarded allocator's block given to realloc: it moves to the heap, and freeing it says what is wrong. */
static MOAT_COLD void *resize_mixed(void *user, size_t size_bytes, struct moat_thread *self,
                                    const struct moat_call *call, uintptr_t caller) {
    struct moat_request request = {
        .size_bytes = size_bytes, .alignment = MOAT_ANY_ALIGNMENT, .family = MOAT_FAMILY_MALLOC, .caller = caller};
    size_t old_bytes = moat_block_size_plainly(user);
    void *moved = moat_block_allocate_now(&request);
    if (moved != NULL) {
        memcpy(moved, user, old_bytes < size_bytes ? old_bytes : size_bytes);
        moat_block_free_as(user, self, call->stack, MOAT_FAMILY_MALLOC, MOAT_WHEN_REALLOC, MOAT_CLAIMED_NOTHING, NULL);
    }
    return moved;
}

void *moat_block_resize_plainly(void *user, size_t size_bytes, uintptr_t caller) {
    struct moat_thread *self = moat_thread_self();
    if (size_bytes > PTRDIFF_MAX) {
        return moat_block_refuse(MOAT_ARGUMENT_SIZE, size_bytes, 0, ENOMEM, caller);
    }
    if (moat_block_is_injected(self)) {
        return moat_block_injected(size_bytes, 1, MOAT_FAMILY_MALLOC, MOAT_WHEN_REALLOC, NULL, caller);
    }
    uint32_t stack = moat_stack_capture(self, caller);
    struct moat_call call =
        moat_block_call_make(self, moat_block_event(self), stack, MOAT_FAMILY_MALLOC, MOAT_WHEN_REALLOC);
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
        .size_bytes = size_bytes, .alignment = MOAT_ANY_ALIGNMENT, .family = MOAT_FAMILY_MALLOC, .caller = caller};
    void *moved = moat_block_allocate_now(&request);
    if (moved == NULL) {
        return NULL;
    }
    memcpy(moved, user, old_bytes < size_bytes ? old_bytes : size_bytes);
    int error = errno;
    moat_block_free_as(user, self, stack, MOAT_FAMILY_MALLOC, MOAT_WHEN_REALLOC, MOAT_CLAIMED_NOTHING, NULL);
    errno = error;
    return moved;
}

bool moat_block_resize_in_place_plainly(void *user, size_t size_bytes, uintptr_t caller) {
    struct moat_thread *self = moat_thread_self();
    struct moat_call call = moat_block_call_make(self, moat_block_event(self), moat_stack_capture(self, caller),
                                                 MOAT_FAMILY_MALLOC, MOAT_WHEN_REALLOC);
    struct moat_shard *shard = moat_shard_of((uintptr_t)user);
    size_t old_bytes;
    moat_lock_take(&shard->lock);
    bool resized = moat_guard_prove(&shard->guard, user, &call, &old_bytes) &&
                   (old_bytes == size_bytes || moat_guard_resize(&shard->guard, user, size_bytes, &call));
    moat_lock_give(&shard->lock);
    return resized;
}

size_t moat_block_size_plainly(const void *user) {
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
