/* A small lock on a futex, usable before the C library is ready and from inside malloc.
 * May include: the C library's freestanding headers only.
 *
 * Not recursive, and a signal handler may only try it. All zero is an unlocked lock. */
#ifndef MOAT_PORT_LOCK_H
#define MOAT_PORT_LOCK_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

enum { MOAT_LOCK_FREE, MOAT_LOCK_HELD, MOAT_LOCK_CONTENDED };

struct moat_lock {
    _Atomic uint32_t state;
};

#define MOAT_LOCK_INIT                                                                                                 \
    { MOAT_LOCK_FREE }

/* The slow halves, in lock.c: waiting in the kernel after a short spin, and waking one waiter. errno is kept. */
void moat_lock_wait(struct moat_lock *lock);
void moat_lock_wake(struct moat_lock *lock);

/* Makes the lock free whatever it was: after fork, in the child, where its holder may not exist. */
static inline void moat_lock_reset(struct moat_lock *lock) {
    atomic_store_explicit(&lock->state, MOAT_LOCK_FREE, memory_order_release);
}

static inline bool moat_lock_try(struct moat_lock *lock) {
    uint32_t expected = MOAT_LOCK_FREE;
    return atomic_compare_exchange_strong_explicit(&lock->state, &expected, MOAT_LOCK_HELD, memory_order_acquire,
                                                   memory_order_relaxed);
}

static inline void moat_lock_take(struct moat_lock *lock) {
    if (!moat_lock_try(lock))
        moat_lock_wait(lock);
}

static inline void moat_lock_give(struct moat_lock *lock) {
    if (atomic_exchange_explicit(&lock->state, MOAT_LOCK_FREE, memory_order_release) == MOAT_LOCK_CONTENDED)
        moat_lock_wake(lock);
}

#endif
