/* The leak check at exit, first form: of a process with one thread. May include: process.h, the leak scan, the port. */
#include "guard/entry/process.h"
#include "guard/engine/leak.h"
#include "guard/port/linux/pages.h"
#include "guard/port/linux/roots.h"

#include <setjmp.h>
#include <stdio.h>

static void guard_add(void *context, struct moat_shard *shard) {
    struct moat_leak_scan *scan = context;
    if (scan->guard_count < MOAT_LEAK_GUARDS_MAX) {
        scan->guards[scan->guard_count++] = &shard->guard;
    }
}

static void root_add(void *context, uintptr_t start, size_t size_bytes) { moat_leak_root(context, start, size_bytes); }

/* Moat's own memory: its pages and the process object, in address order. */
static bool exclusions(struct moat_range_list *list, const struct moat_source *memory) {
    struct moat_range_list own = moat_pages_own();
    size_t got_bytes;
    struct moat_range *ranges = memory->acquire(memory->context, (own.count + 8) * sizeof *ranges, &got_bytes);
    if (ranges == NULL) {
        return false;
    }
    own = moat_pages_own(); /* with the piece just mapped */
    const struct moat_range process = {(uintptr_t)&moat_process, sizeof moat_process};
    size_t count = 0;
    bool placed = false;
    for (size_t i = 0; i < own.count; i++) {
        if (!placed && own.ranges[i].start > process.start) {
            ranges[count++] = process;
            placed = true;
        }
        ranges[count++] = own.ranges[i];
    }
    if (!placed) {
        ranges[count++] = process;
    }
    *list = (struct moat_range_list){.ranges = ranges, .count = count};
    return true;
}

/* Scans from all roots; false when the check cannot be run. noinline: its frame is where the program's stack begins. */
static __attribute__((noinline)) const char *scan_run(struct moat_leak_scan *scan) {
    struct moat_range_list excluded;
    __builtin_unwind_init(); /* callee-saved registers onto the stack, above the scan's start */
    if (!moat_leak_begin(scan)) {
        return "no memory for it";
    }
    if (!exclusions(&excluded, scan->memory)) {
        return "no memory for it";
    }
    if (!moat_roots_each(root_add, scan, &excluded, (uintptr_t)__builtin_frame_address(0))) {
        return "/proc/self/maps cannot be read";
    }
    return moat_leak_finish(scan) ? NULL : "no memory for its report";
}

/* Prints one group and adds it to the summary, unless a suppression takes it out. */
static void group_report(const struct moat_leak_group *group, struct moat_thread *self, struct moat_summary *summary) {
    struct moat_finding finding = {.kind = MOAT_MEMORY_LEAK,
                                   .when = MOAT_WHEN_EXIT,
                                   .leak_class = MOAT_LEAK_DEFINITE,
                                   .thread = self->number,
                                   .block = group->example,
                                   .leak_blocks = group->blocks,
                                   .leak_bytes = group->bytes,
                                   .leak_indirect_blocks = group->indirect_blocks,
                                   .leak_indirect_bytes = group->indirect_bytes};
    uint64_t suppressed = atomic_load(&moat_process.suppressed);
    moat_finding_report(&finding);
    if (atomic_load(&moat_process.suppressed) != suppressed) {
        return;
    }
    summary->leak_outcome = MOAT_LEAKS_FOUND;
    summary->leak_groups++;
    summary->leak_definite_blocks += group->blocks;
    summary->leak_definite_bytes += group->bytes;
    summary->leak_indirect_blocks += group->indirect_blocks;
    summary->leak_indirect_bytes += group->indirect_bytes;
}

void moat_leak_check(struct moat_summary *summary, char *note, size_t note_bytes) {
    static struct moat_leak_scan scan;
    struct moat_thread *self = moat_thread_self();
    size_t threads = moat_thread_count();
    if (threads != 1) {
        summary->leak_outcome = MOAT_LEAKS_COULD_NOT_RUN;
        snprintf(note, note_bytes, threads == 0 ? "threads cannot be counted" : "%zu other threads are running", threads - 1);
        return;
    }
    scan = (struct moat_leak_scan){.memory = moat_pages_source(), .since = moat_process.fork_sequence};
    moat_shards_each(guard_add, &scan);
    const char *trouble = scan_run(&scan);
    if (trouble != NULL) {
        summary->leak_outcome = MOAT_LEAKS_COULD_NOT_RUN;
        snprintf(note, note_bytes, "%s", trouble);
    } else {
        summary->leak_outcome = MOAT_LEAKS_CLEAN;
        for (size_t i = 0; i < scan.group_count; i++) {
            group_report(&scan.groups[i], self, summary);
        }
    }
    moat_leak_end(&scan);
}
