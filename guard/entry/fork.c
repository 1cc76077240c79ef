/* fork: all locks are held across it, so that the child finds everything whole. May include: process.h, the port's header. */
#include "guard/entry/process.h"
#include "guard/port/linux/port.h"

#include <pthread.h>
#include <unistd.h>

static void before_fork(void) {
    moat_lock_take(&moat_process.reporting.lock);
    moat_lock_take(&moat_process.thread_lock);
    moat_shards_lock_all();
    moat_port_before_fork();
}

static void after_fork_in_parent(void) {
    moat_port_after_fork();
    moat_shards_unlock_all();
    moat_lock_give(&moat_process.thread_lock);
    moat_lock_give(&moat_process.reporting.lock);
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
}

void moat_fork_init(void) { pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child); }
