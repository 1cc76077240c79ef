/* The end of a process: last check, leak report, summary, status. May include: process.h and POSIX headers. */
#include "guard/entry/process.h"
#include "guard/port/linux/unwind.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

static void count_shard(void *context, struct moat_shard *shard) {
    struct moat_summary *summary = context;
    summary->live_blocks += shard->guard.counts.live_blocks;
    summary->live_bytes += shard->guard.counts.live_bytes;
    summary->allocations += shard->guard.counts.allocations;
}

static void summary_send(struct moat_summary *summary, const char *note) {
    const struct moat_options *options = &moat_process.options;
    summary->findings = atomic_load(&moat_process.findings);
    summary->repeats = atomic_load(&moat_process.repeats);
    summary->suppressed = atomic_load(&moat_process.suppressed);
    moat_shards_each(count_shard, summary);
    /* `moat run` wants every summary, for the exit status; a person only one that says something. */
    bool worth_saying = options->summary || summary->findings != 0 || summary->leak_outcome == MOAT_LEAKS_FOUND ||
                        (summary->leak_outcome == MOAT_LEAKS_COULD_NOT_RUN && note[0] != '\0');
    struct moat_report *report =
        worth_saying || options->spool[0] != '\0' ? moat_report_begin(MOAT_REPORT_SUMMARY) : NULL;
    if (report != NULL) {
        report->summary = *summary;
        memcpy(report->note, note, strlen(note) + 1);
        if (worth_saying) {
            moat_report_send(report, true);
        } else {
            (void)moat_report_offer(report, true);
        }
        moat_report_end();
    }
}

/* Gives the status the process should end with. `whole`: all that belongs to an ordinary exit, not to _exit. */
static int last_check(int status, bool whole) {
    const struct moat_options *options = &moat_process.options;
    struct moat_summary summary = {0};
    char note[MOAT_NOTE_BYTES] = "";
    bool corrupt = false;
    if (atomic_load(&moat_process.dying) || moat_process.pid != getpid()) {
        return status; /* reported already, or a vfork child in its parent's memory */
    }
    atomic_store(&moat_process.stage, MOAT_STAGE_ENDING);
    moat_nested_settle();
    if (options->exit_check) {
        moat_block_sweep(MOAT_WHEN_EXIT, MOAT_CALLER, !whole, &corrupt);
    }
    if (whole && options->leak_check) {
        moat_leak_check(&summary, note, sizeof note);
    }
    if (atomic_load(&moat_process.budget_met)) {
        moat_note("the memory budget was met: stacks were left out or freed blocks held back for less long");
    }
    if (options->stats) {
        moat_stats_note();
    }
    summary_send(&summary, note);
    if (corrupt) {
        if (whole && options->on_error != MOAT_ON_ERROR_CONTINUE) {
            fflush(NULL); /* what the program wrote is not Moat's to lose */
        }
        moat_finding_act();
    }
    bool leaks = summary.leak_outcome == MOAT_LEAKS_FOUND && options->leak_exitcode != 0;
    bool asked = options->spool[0] == '\0' && moat_option_is_set(options, MOAT_OPTION_ID_leak_exitcode);
    return status == 0 && leaks && asked ? (int)options->leak_exitcode : status;
}

static void at_exit(int status, void *unused) {
    (void)unused;
    int wanted = last_check(status, true);
    moat_unwind_end();
    if (wanted != status) {
        exit(wanted); /* nested: what is left to be done, flushing stdio above all, is still done */
    }
}

static void at_quick_end(void) { last_check(0, false); }

/* on_exit is atexit with the status and without a module handle: first registered, it comes after all destructors. */
void moat_exit_init(void) {
    on_exit(at_exit, NULL);
    at_quick_exit(at_quick_end);
}

static _Noreturn void leave(int status) {
    if (atomic_load(&moat_process.stage) == MOAT_STAGE_RUNNING) {
        int error = errno;
        last_check(status, false);
        errno = error;
    }
    for (;;) {
        syscall(SYS_exit_group, status);
    }
}

MOAT_EXPORT _Noreturn void _exit(int status) { leave(status); }

MOAT_EXPORT _Noreturn void _Exit(int status) { leave(status); }
