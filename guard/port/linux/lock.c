/* The slow halves of the futex lock: waiting and waking.
 * May include: the port's system calls. */
#include "guard/port/linux/lock.h"
#include "guard/port/linux/syscall.h"

#include <linux/futex.h>

/* Holders keep a lock for tens of nanoseconds, so a short spin mostly saves the system call. On a machine with one
 * processor it costs a microsecond at most. */
enum { MOAT_LOCK_SPINS = 64 };

#ifdef SYS_futex
#define MOAT_SYS_FUTEX SYS_futex
#else
#define MOAT_SYS_FUTEX SYS_futex_time64
#endif

static inline void moat_lock_pause(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

void moat_lock_wait(struct moat_lock *lock) {
    for (int spin = 0; spin < MOAT_LOCK_SPINS; spin++) {
        if (atomic_load_explicit(&lock->state, memory_order_relaxed) == MOAT_LOCK_FREE && moat_lock_try(lock))
            return;
        moat_lock_pause();
    }
    /* From here on this thread takes the lock as contended, since others may be asleep on it as well: the one wake too
     * many that this costs is cheaper than counting sleepers. */
    while (atomic_exchange_explicit(&lock->state, MOAT_LOCK_CONTENDED, memory_order_acquire) != MOAT_LOCK_FREE)
        (void)moat_syscall(MOAT_SYS_FUTEX, (long)(uintptr_t)&lock->state, FUTEX_WAIT_PRIVATE, MOAT_LOCK_CONTENDED, 0, 0,
                           0);
}

void moat_lock_wake(struct moat_lock *lock) {
    (void)moat_syscall(MOAT_SYS_FUTEX, (long)(uintptr_t)&lock->state, FUTEX_WAKE_PRIVATE, 1, 0, 0, 0);
}
