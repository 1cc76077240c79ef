/* The port's one object, and what the port needs around a fork.
 * May include: the port's headers. */
#include "guard/port/linux/state.h"

struct moat_port_state moat_port_state;

#pragma weak __libc_single_threaded
extern char __libc_single_threaded; /* glibc 2.32 and later: nonzero while there has been one thread only */

void moat_port_state_range(uintptr_t *start, size_t *bytes) {
    *start = (uintptr_t)&moat_port_state;
    *bytes = sizeof moat_port_state;
}

void moat_port_before_fork(void) {
    moat_lock_take(&moat_port_state.pages.lock);
    moat_port_state.forking_pid = moat_syscall(SYS_getpid, 0, 0, 0, 0, 0, 0);
}

void moat_port_after_fork(void) {
    bool child = moat_syscall(SYS_getpid, 0, 0, 0, 0, 0, 0) != moat_port_state.forking_pid;
    if (!child) {
        moat_lock_give(&moat_port_state.pages.lock); /* threads may be asleep on it */
        return;
    }
    moat_lock_reset(&moat_port_state.pages.lock);
    /* Another thread may have held one of libunwind's locks; in the child nobody would ever give it back. */
    if (!&__libc_single_threaded || !__libc_single_threaded)
        atomic_store(&moat_port_state.unwind.distrust, true);
}
