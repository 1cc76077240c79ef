/* Calls from a signal handler that interrupted the allocator in the same thread. May include: process.h and POSIX headers.
 *
 * POSIX forbids them, yet programs make them and mostly get away with it, so a hang would be Moat's fault in their eyes. The
 * interrupted call may hold one shard's lock. A handler is therefore served by a shard whose lock is free, and a block whose
 * shard is locked is freed later. A handler that leaves by longjmp leaves `inside` too high, which costs nothing but this care. */
#include "guard/engine/layout.h"
#include "guard/entry/process.h"

#include <errno.h>
#include <sched.h>

/* Other threads may hold all locks for a moment. */
#define MOAT_NESTED_TRIES 1000u

/* Enters a call; NULL for threads without a slot of their own, which cannot tell. */
static struct moat_thread *enter(void) {
    struct moat_thread *self = moat_thread_self();
    if (__builtin_expect(self == &moat_process.spare, 0)) {
        return NULL;
    }
    self->inside++;
    atomic_signal_fence(memory_order_seq_cst);
    return self;
}

static void leave(struct moat_thread *self) {
    atomic_signal_fence(memory_order_seq_cst);
    if (__builtin_expect(self != NULL, 1) && self->inside != 0) {
        self->inside--;
    }
}

static bool is_nested(const struct moat_thread *self) { return self != NULL && moat_nested_is(self); }

/* A shard that can be locked without waiting for the interrupted call; NULL when there is none. */
static struct moat_shard *free_shard(const struct moat_thread *self) {
    for (unsigned tries = 0; tries < MOAT_NESTED_TRIES; tries++) {
        if (!moat_nested_is_held(self, self->shard)) {
            return self->shard;
        }
        for (unsigned i = 0; i < moat_process.shard_count; i++) {
            if (!moat_nested_is_held(self, &moat_process.shards[i])) {
                return &moat_process.shards[i];
            }
        }
        sched_yield();
    }
    return NULL;
}

static __attribute__((noinline, cold)) void *allocate_nested(struct moat_thread *self,
                                                             const struct moat_request *request) {
    struct moat_shard *home = self->shard;
    struct moat_shard *shard = free_shard(self);
    if (shard == NULL) {
        errno = ENOMEM;
        return NULL;
    }
    self->shard = shard;
    void *user = moat_block_allocate_plainly(request);
    self->shard = home;
    return user;
}

static __attribute__((noinline, cold)) void defer(struct moat_thread *self, void *user, unsigned family,
                                                  uintptr_t caller) {
    if (self->deferred_count < MOAT_DEFERRED_MAX) {
        self->deferred[self->deferred_count++] = (struct moat_deferred){user, MOAT_CALLER_PC(caller), family};
    }
}

/* The size of a live block whose shard is locked; SIZE_MAX when its header is not whole. */
static size_t size_unlocked(const void *user) {
    uintptr_t address = (uintptr_t)user;
    const struct moat_span *span = moat_map_find(&moat_process.map, address);
    if (span == NULL || !moat_span_is_start(span, address) || !moat_bit(span->live, moat_span_index(span, address))) {
        return SIZE_MAX;
    }
    const struct moat_header *header = moat_header_of(address);
    return moat_header_whole(header, moat_process.config.secret, address) ? (size_t)moat_header_size(header) : SIZE_MAX;
}

void *moat_block_allocate(const struct moat_request *request) {
    struct moat_thread *self = enter();
    void *user =
        __builtin_expect(is_nested(self), 0) ? allocate_nested(self, request) : moat_block_allocate_plainly(request);
    leave(self);
    return user;
}

void moat_block_free(void *user, unsigned family, struct moat_claimed claimed, uintptr_t caller) {
    if (user == NULL) {
        return;
    }
    struct moat_thread *self = enter();
    if (__builtin_expect(is_nested(self), 0) && moat_nested_is_held(self, moat_shard_of((uintptr_t)user))) {
        defer(self, user, family, caller);
    } else {
        if (__builtin_expect(self != NULL && self->deferred_count != 0, 0)) {
            moat_nested_settle();
        }
        moat_block_free_plainly(user, family, claimed, caller);
    }
    leave(self);
}

/* Moves a block whose shard is locked. */
static __attribute__((noinline, cold)) void *resize_nested(struct moat_thread *self, void *user, size_t size_bytes,
                                                           uintptr_t caller) {
    struct moat_request request = {
        .size_bytes = size_bytes, .alignment = MOAT_ANY_ALIGNMENT, .family = MOAT_FAMILY_MALLOC, .caller = caller};
    size_t old_bytes = size_unlocked(user);
    void *moved = old_bytes == SIZE_MAX ? NULL : allocate_nested(self, &request);
    if (moved == NULL) {
        errno = ENOMEM;
        return NULL;
    }
    memcpy(moved, user, old_bytes < size_bytes ? old_bytes : size_bytes);
    defer(self, user, MOAT_FAMILY_MALLOC, caller);
    return moved;
}

void *moat_block_resize(void *user, size_t size_bytes, uintptr_t caller) {
    struct moat_thread *self = enter();
    void *resized;
    if (!__builtin_expect(is_nested(self), 0)) {
        resized = moat_block_resize_plainly(user, size_bytes, caller);
    } else if (moat_nested_is_held(self, moat_shard_of((uintptr_t)user))) {
        resized = resize_nested(self, user, size_bytes, caller);
    } else {
        struct moat_shard *home = self->shard;
        struct moat_shard *shard = free_shard(self);
        self->shard = shard == NULL ? moat_shard_of((uintptr_t)user) : shard;
        resized = moat_block_resize_plainly(user, size_bytes, caller);
        self->shard = home;
    }
    leave(self);
    return resized;
}

bool moat_block_resize_in_place(void *user, size_t size_bytes, uintptr_t caller) {
    struct moat_thread *self = enter();
    bool held = is_nested(self) && moat_nested_is_held(self, moat_shard_of((uintptr_t)user));
    bool resized = !held && moat_block_resize_in_place_plainly(user, size_bytes, caller);
    leave(self);
    return resized;
}

size_t moat_block_size(const void *user) {
    struct moat_thread *self = enter();
    size_t size_bytes;
    if (is_nested(self) && moat_nested_is_held(self, moat_shard_of((uintptr_t)user))) {
        size_bytes = size_unlocked(user);
        size_bytes = size_bytes == SIZE_MAX ? 0 : size_bytes;
    } else {
        size_bytes = moat_block_size_plainly(user);
    }
    leave(self);
    return size_bytes;
}

void moat_nested_settle(void) {
    struct moat_thread *self = moat_thread_self();
    while (self != &moat_process.spare && self->deferred_count != 0) {
        struct moat_deferred one = self->deferred[--self->deferred_count];
        if (moat_nested_is_held(self, moat_shard_of((uintptr_t)one.user))) {
            self->deferred_count++; /* a handler again */
            return;
        }
        moat_block_free_plainly(one.user, one.family, MOAT_CLAIMED_NOTHING, MOAT_CALLER_GONE(one.caller_pc));
    }
}
