/* Fatal signals: a fault on Moat's own guard pages is a finding; any other is preceded by a check of the heap, for a corrupt heap is the
 * likely cause. May include: process.h, the port and POSIX headers. */
#define _GNU_SOURCE 1 /* REG_ERR */
#include "guard/entry/process.h"
#include "guard/port/linux/unwind.h"

#include <errno.h>
#include <signal.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

/* How shells tell of a signal in a status. */
#define MOAT_SIGNAL_STATUS 128

static const int fatal_signals[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT};

static bool fault_is_write(const ucontext_t *context) {
#if defined(__x86_64__) || defined(__i386__)
    return (context->uc_mcontext.gregs[REG_ERR] & 2) != 0;
#else
    (void)context;
    return true; /* not told: the worse of the two */
#endif
}

/* What the address of a fault says: a finding, if it lies in the space of a large block. */
static bool fault_diagnose(uintptr_t address, struct moat_finding *finding) {
    struct moat_shard *shard = &moat_process.large;
    if (!shard->ready || !moat_lock_try(&shard->lock)) {
        return false;
    }
    const struct moat_large_block *record = moat_large_at(shard->large, address);
    if (record != NULL) {
        bool lost;
        uintptr_t user = record->block + MOAT_LEAD_BYTES;
        finding->block = moat_guard_facts(&shard->guard, user, &lost);
        finding->header_lost = lost;
        finding->first = finding->last = (int64_t)(address - user);
        finding->kind = record->detached ? MOAT_HEAP_USE_AFTER_FREE
                        : address < user ? MOAT_HEAP_BUFFER_UNDERFLOW
                                         : MOAT_HEAP_BUFFER_OVERFLOW;
    }
    moat_lock_give(&shard->lock);
    return record != NULL;
}

static bool fault_open(uintptr_t address) {
    bool opened = false;
    if (moat_lock_try(&moat_process.large.lock)) {
        opened = moat_large_open(moat_process.large.large, address);
        moat_lock_give(&moat_process.large.lock);
    }
    return opened;
}

/* True when the program may go on. */
static bool fault_report(const siginfo_t *info, void *context) {
    static uintptr_t frames[MOAT_STACK_FRAMES_MAX + MOAT_UNWIND_SLACK];
    struct moat_thread *self = moat_thread_current;
    uintptr_t address = (uintptr_t)info->si_addr;
    struct moat_finding finding = {.when = MOAT_WHEN_ACCESS, .address = address, .thread = self->number};
    if (!fault_diagnose(address, &finding)) {
        return false;
    }
    size_t count = moat_unwind_from_context(context, frames, MOAT_STACK_FRAMES_MAX);
    finding.found_stack = moat_stack_intern(frames, count, true);
    finding.is_write = fault_is_write(context);
    bool corruption = moat_finding_print(&finding);
    if (corruption && moat_process.options.on_error != MOAT_ON_ERROR_CONTINUE) {
        moat_finding_act();
    }
    return fault_open(address);
}

static void on_fatal_signal(int number, siginfo_t *info, void *context) {
    int error = errno;
    bool own = info->si_code > 0; /* raised by the kernel for this thread, not sent */
    if (moat_thread_current == NULL) {
        moat_thread_current = &moat_process.spare;
    }
    if (!atomic_load(&moat_process.dying)) {
        if ((number == SIGSEGV || number == SIGBUS) && own && fault_report(info, context)) {
            errno = error;
            return;
        }
        bool corrupt;
        atomic_store(&moat_process.dying, true);
        moat_block_sweep(MOAT_WHEN_CHECK, 0, true, &corrupt);
    }
    /* What would have happened without Moat: the instruction is tried again, abort raises again, a sent signal is sent again. */
    if (signal(number, SIG_DFL) == SIG_ERR) {
        syscall(SYS_exit_group, MOAT_SIGNAL_STATUS + number); /* in a sandbox that forbids it, it would come here for ever */
    }
    if (!own && number != SIGABRT) {
        raise(number);
    }
    errno = error;
}

void moat_fault_init(void) {
    for (size_t i = 0; i < sizeof fatal_signals / sizeof fatal_signals[0]; i++) {
        struct sigaction old;
        if (sigaction(fatal_signals[i], NULL, &old) == 0 && old.sa_handler == SIG_DFL) {
            struct sigaction action = {.sa_sigaction = on_fatal_signal, .sa_flags = SA_SIGINFO | SA_ONSTACK};
            sigemptyset(&action.sa_mask);
            sigaction(fatal_signals[i], &action, NULL);
        }
    }
}
