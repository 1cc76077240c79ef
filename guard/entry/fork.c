/* fork: all locks are held across it, so that the child finds everything whole. May include: process.h, the port's header. */
#include "guard/entry/process.h"
#include "guard/port/linux/port.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Between the handlers this thread holds every lock, so a signal whose handler allocates has to wait. Raw: the C library may be
 * interposed, and its own mask leaves some signals out. Under the report lock, and so one fork at a time. */
static uint64_t signals;

static void signals_set(int how, const uint64_t *set, uint64_t *old) {
    int error = errno;
    syscall(SYS_rt_sigprocmask, how, set, old, sizeof *set);
    errno = error;
}

static void before_fork(void) {
    const uint64_t all = ~UINT64_C(0);
    uint64_t before = 0;
    signals_set(SIG_BLOCK, &all, &before);
    moat_lock_take(&moat_process.reporting.lock);
    signals = before;
    moat_lock_take(&moat_process.thread_lock);
    moat_shards_lock_all();
    moat_port_before_fork();
}

static void after_fork_in_parent(void) {
    const uint64_t before = signals;
    moat_port_after_fork();
    moat_shards_unlock_all();
    moat_lock_give(&moat_process.thread_lock);
    moat_lock_give(&moat_process.reporting.lock);
    signals_set(SIG_SETMASK, &before, NULL);
}

static void after_fork_in_child(void) {
    moat_port_after_fork();
    for (unsigned i = 0; i < moat_process.shard_count; i++) {
        moat_lock_reset(&moat_process.shards[i].lock);
    }
    moat_lock_reset(&moat_process.large.lock);
    struct moat_shard *guarded = atomic_load(&moat_process.guarded);
    for (; guarded != NULL; guarded = guarded->next) {
        moat_lock_reset(&guarded->lock);
    }
    moat_process.pid = getpid();
    moat_process.fork_sequence = atomic_load(&moat_process.sequence);
    moat_thread_after_fork();
    moat_finding_after_fork();
    signals_set(SIG_SETMASK, &signals, NULL);
}

void moat_fork_init(void) { pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child); }
