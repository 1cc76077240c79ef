/* Thread slots. May include: process.h and POSIX headers. */
#include "guard/entry/process.h"
#include "guard/port/linux/pages.h"

#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <unistd.h>

_Thread_local struct moat_thread *moat_thread_current;

/* Slots mapped at a time. */
#define MOAT_THREAD_SLOTS 8u

static pthread_key_t exit_key;
static bool exit_key_made;

/* Rounds of destructors that this thread has seen; after the last one it has no slot any more. */
static _Thread_local unsigned leaving_rounds;

/* The last round of destructors gives a thread's slot back. Not the first: destructors free, and each would get another slot. What
 * the C library itself frees after all of them is served without one, for nobody would tell us when to take that back. */
static void thread_leave(void *slot) {
    struct moat_thread *self = slot;
    if (self != moat_thread_current || self == &moat_process.spare) {
        return;
    }
    if (++leaving_rounds < PTHREAD_DESTRUCTOR_ITERATIONS && pthread_setspecific(exit_key, self) == 0) {
        return;
    }
    leaving_rounds = PTHREAD_DESTRUCTOR_ITERATIONS;
    moat_thread_current = NULL;
    moat_lock_take(&moat_process.thread_lock);
    self->next_free = moat_process.free_threads;
    moat_process.free_threads = self;
    moat_lock_give(&moat_process.thread_lock);
}

void moat_thread_watch_exits(void) {
    if (pthread_key_create(&exit_key, thread_leave) == 0) {
        exit_key_made = true;
        if (moat_thread_current != NULL) {
            pthread_setspecific(exit_key, moat_thread_current);
        }
    }
}

/* A slot from the free list, which is refilled from new pages. Context: thread_lock held. */
static struct moat_thread *slot_take(void) {
    if (moat_process.free_threads == NULL) {
        struct moat_thread *slots = moat_pages_map(MOAT_THREAD_SLOTS * sizeof *slots, 0);
        for (size_t i = 0; slots != NULL && i < MOAT_THREAD_SLOTS; i++) {
            slots[i].next_free = moat_process.free_threads;
            moat_process.free_threads = &slots[i];
        }
    }
    struct moat_thread *slot = moat_process.free_threads;
    if (slot != NULL) {
        moat_process.free_threads = slot->next_free;
    }
    return slot;
}

struct moat_thread *moat_thread_enter(void) {
    if (!moat_is_started()) {
        moat_start(NULL);
    }
    if (leaving_rounds >= PTHREAD_DESTRUCTOR_ITERATIONS) {
        return &moat_process.spare;
    }
    moat_lock_take(&moat_process.thread_lock);
    struct moat_thread *self = slot_take();
    moat_lock_give(&moat_process.thread_lock);
    if (self == NULL) {
        return &moat_process.spare;
    }
    uint32_t number = atomic_fetch_add(&moat_process.thread_count, 1) + 1;
    /* A slot is large and mostly never touched: only what its last thread may have left is cleared. */
    self->number = (uint16_t)((number - 1) % UINT16_MAX + 1);
    self->next_free = NULL;
    self->shielded = 0;
    self->inside = 0;
    self->sequence_next = self->sequence_end = 0;
    self->ids_end = 0;
    moat_walk_forget(&self->walk);
    self->tid = (pid_t)syscall(SYS_gettid);
    self->shard = &moat_process.shards[(number - 1) % moat_process.shard_count];
    moat_thread_current = self;
    if (exit_key_made) {
        int error = errno;
        pthread_setspecific(exit_key, self); /* may allocate, which finds the slot in place */
        errno = error;
    }
    return self;
}

void moat_thread_after_fork(void) {
    moat_lock_reset(&moat_process.thread_lock);
    struct moat_thread *self = moat_thread_current;
    if (self != NULL) {
        self->tid = (pid_t)syscall(SYS_gettid);
        self->sequence_next = self->sequence_end; /* numbers from here on are the child's own */
    }
}
