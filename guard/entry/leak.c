/* The leak check at exit, first form: of a process with one thread. May include: process.h, the leak scan, the port. */
#include "guard/engine/leak.h"
#include "guard/entry/process.h"
#include "guard/port/linux/pages.h"
#include "guard/port/linux/roots.h"

#include <setjmp.h>
#include <stdio.h>

/* Blocks that are not freed singly are not leaked singly: their memory is a root like any other instead. */
static void guard_add(void *context, struct moat_shard *shard) {
    struct moat_leak_scan *scan = context;
    if (scan->guard_count < MOAT_LEAK_GUARDS_MAX && !shard->rewinds) {
        scan->guards[scan->guard_count++] = &shard->guard;
    }
}

static void root_add(void *context, uintptr_t start, size_t size_bytes) { moat_leak_root(context, start, size_bytes); }

/* Pieces of memory a list has room for beyond Moat's own pages. */
#define MOAT_EXCLUDED_EXTRA 1024u

/* Puts a range where it belongs in address order; mostly near the end. */
static void range_insert(struct moat_range *ranges, size_t *count, size_t most, struct moat_range range) {
    size_t at = *count;
    if (at == most) {
        return; /* then it stays a root, and may hide a leak, but makes no false one */
    }
    for (; at > 0 && ranges[at - 1].start > range.start; at--) {
        ranges[at] = ranges[at - 1];
    }
    ranges[at] = range;
    (*count)++;
}

/* What is no root, in address order: Moat's own pages, the process object, and memory of guarded allocators, whose blocks are
 * looked at one by one instead. */
static bool exclusions(struct moat_range_list *list, const struct moat_source *memory) {
    size_t got_bytes;
    size_t most = moat_pages_own().count + MOAT_EXCLUDED_EXTRA;
    struct moat_range *ranges = memory->acquire(memory->context, most * sizeof *ranges, &got_bytes);
    if (ranges == NULL) {
        return false;
    }
    struct moat_range_list own = moat_pages_own(); /* with the piece just mapped */
    size_t count = 0;
    for (size_t i = 0; i < own.count; i++) {
        range_insert(ranges, &count, most, own.ranges[i]);
    }
    range_insert(ranges, &count, most, (struct moat_range){(uintptr_t)&moat_process, sizeof moat_process});
    const struct moat_shard *guarded = atomic_load(&moat_process.guarded);
    for (; guarded != NULL; guarded = guarded->next) {
        const struct moat_span *span =
            guarded->ready && !guarded->rewinds ? moat_map_next(&moat_process.map, &guarded->guard, 0) : NULL;
        for (; span != NULL; span = moat_map_next(&moat_process.map, &guarded->guard, moat_span_end(span))) {
            range_insert(ranges, &count, most, (struct moat_range){moat_span_start(span), moat_span_size(span)});
        }
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
        snprintf(note, note_bytes, threads == 0 ? "threads cannot be counted" : "%zu other threads are running",
                 threads - 1);
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
