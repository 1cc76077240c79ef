/* From a finding to a printed report: stacks, bug id, repeats, suppressions, output, and what on_error says.
 * May include: process.h, the port and POSIX headers. Nothing here allocates. */
#include "guard/entry/process.h"
#include "guard/port/linux/maps.h"
#include "guard/port/linux/module.h"
#include "guard/port/linux/output.h"
#include "guard/port/linux/symtab.h"
#include "guard/report/spool_file.h"
#include "moat.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Frames that make a bug id, and those shown of a neighbour's allocation stack. */
#define MOAT_BUG_FRAMES 3u
#define MOAT_NEIGHBOUR_FRAMES 8u

/* The place for a debugger's breakpoint; a program that defines it is told of every finding. */
MOAT_EXPORT __attribute__((weak, noinline)) void moat_on_finding(const struct moat_finding *finding) {
    __asm__ volatile("" : : "r"(finding) : "memory");
}

/* ---- the shared report -------------------------------------------------------------------------------------------------- */

struct moat_report *moat_report_begin(unsigned type) {
    struct moat_reporting *reporting = &moat_process.reporting;
    pid_t tid = (pid_t)syscall(SYS_gettid);
    if (atomic_load(&reporting->holder) == tid) {
        return NULL;
    }
    moat_lock_take(&reporting->lock);
    atomic_store(&reporting->holder, tid);
    struct moat_report *report = &reporting->report;
    report->type = (uint8_t)type;
    report->word_bits = 8 * sizeof(void *);
    report->module_count = 0;
    report->bug_id = 0;
    report->repeats = 0;
    report->pid = getpid();
    report->value[0] = report->value[1] = 0;
    report->note[0] = report->place_name[0] = '\0';
    memset(&report->finding, 0, sizeof report->finding);
    memset(&report->summary, 0, sizeof report->summary);
    for (unsigned i = 0; i < MOAT_STACK_COUNT; i++) {
        report->stacks[i].frame_count = 0;
        report->stacks[i].incomplete = 0;
    }
    if (report->program[0] == '\0') {
        moat_program_path(report->program, sizeof report->program);
        moat_program_command(report->command, sizeof report->command);
    }
    return report;
}

void moat_report_end(void) {
    struct moat_reporting *reporting = &moat_process.reporting;
    atomic_store(&reporting->holder, 0);
    moat_lock_give(&reporting->lock);
}

void moat_finding_after_fork(void) {
    moat_lock_reset(&moat_process.reporting.lock);
    atomic_store(&moat_process.reporting.holder, 0);
}

static void text_flush(void) {
    struct moat_reporting *reporting = &moat_process.reporting;
    moat_output_write(reporting->text, reporting->text_bytes);
    reporting->text_bytes = 0;
}

/* Collects a report, so that it comes out in one piece. */
static void text_collect(void *context, const char *text, size_t length_bytes) {
    struct moat_reporting *reporting = context;
    while (length_bytes != 0) {
        size_t room_bytes = sizeof reporting->text - reporting->text_bytes;
        size_t part_bytes = length_bytes < room_bytes ? length_bytes : room_bytes;
        memcpy(reporting->text + reporting->text_bytes, text, part_bytes);
        reporting->text_bytes += part_bytes;
        text += part_bytes;
        length_bytes -= part_bytes;
        if (reporting->text_bytes == sizeof reporting->text) {
            text_flush();
        }
    }
}

bool moat_report_offer(struct moat_report *report, bool wait_until_taken) {
    struct moat_reporting *reporting = &moat_process.reporting;
    const char *spool = moat_process.options.spool;
    if (spool[0] == '\0') {
        return false;
    }
    size_t length_bytes = moat_report_encode(report, reporting->record, sizeof reporting->record);
    return length_bytes != 0 && moat_spool_append(spool, reporting->record, length_bytes, wait_until_taken);
}

void moat_report_send(struct moat_report *report, bool wait_until_taken) {
    struct moat_reporting *reporting = &moat_process.reporting;
    const struct moat_options *options = &moat_process.options;
    if (moat_report_offer(report, wait_until_taken)) {
        return;
    }
    struct moat_sink sink = {text_collect, reporting};
    if (options->format == MOAT_FORMAT_JSON) {
        moat_report_json(report, moat_symtab_symboliser(), sink);
    } else {
        bool colour =
            options->colour == MOAT_COLOUR_ALWAYS || (options->colour == MOAT_COLOUR_AUTO && moat_output_is_terminal());
        moat_report_text(report, moat_symtab_symboliser(), colour, sink);
    }
    text_flush();
}

static void text_copy(char *to, size_t most, const char *from) {
    size_t length = 0;
    for (; length + 1 < most && from[length] != '\0'; length++) {
        to[length] = from[length];
    }
    to[length] = '\0';
}

void moat_note(const char *text) {
    struct moat_report *report = moat_report_begin(MOAT_REPORT_NOTE);
    if (report != NULL) {
        text_copy(report->note, sizeof report->note, text);
        moat_report_send(report, true);
        moat_report_end();
    }
}

/* ---- stacks ------------------------------------------------------------------------------------------------------------- */

/* The report's own index of a module, which it is given when new. */
static uint16_t report_module(struct moat_report *report, uint16_t module) {
    uint16_t *known = moat_process.reporting.module_of;
    if (module == MOAT_NO_MODULE) {
        return MOAT_NO_MODULE;
    }
    for (uint16_t i = 0; i < report->module_count; i++) {
        if (known[i] == module) {
            return i;
        }
    }
    if (report->module_count == MOAT_REPORT_MODULES_MAX) {
        return MOAT_NO_MODULE;
    }
    known[report->module_count] = module;
    moat_module_get(module, &report->modules[report->module_count]);
    return report->module_count++;
}

static void stack_resolve(struct moat_report *report, unsigned which, uint32_t id, size_t most) {
    struct moat_stack *stack = &report->stacks[which];
    struct moat_depot_node node;
    for (; moat_depot_frame(&moat_process.depot, id, &node); id = node.parent) {
        if (stack->frame_count == most) {
            stack->incomplete = 1;
            return;
        }
        struct moat_frame *frame = &stack->frames[stack->frame_count++];
        frame->pc = node.pc;
        frame->module = report_module(report, node.module);
        frame->exact = 0;
        frame->own = moat_module_is_own((uintptr_t)node.pc);
        stack->incomplete |= node.incomplete != 0;
    }
}

/* ---- bug id -------------------------------------------------------------------------------------------------------------- */

static uint64_t hash_bytes(uint64_t hash, const void *bytes, size_t count) {
    const unsigned char *byte = bytes;
    for (size_t i = 0; i < count; i++) {
        hash = (hash ^ byte[i]) * UINT64_C(0x100000001b3);
    }
    return hash;
}

/* Which stack stays the same from run to run: who made the block for damage to it, who freed it for writes after that
 * (they are found wherever the quarantine happens to let go), who made the call otherwise. */
static enum moat_report_stack telling_stack(const struct moat_finding *finding) {
    switch (finding->kind) {
    case MOAT_HEAP_BUFFER_OVERFLOW:
    case MOAT_HEAP_BUFFER_UNDERFLOW:
    case MOAT_MEMORY_LEAK:
    case MOAT_CORRUPTED_METADATA:
        return finding->block.allocation_stack != 0 ? MOAT_STACK_ALLOCATED : MOAT_STACK_FOUND;
    case MOAT_HEAP_USE_AFTER_FREE:
        return finding->when != MOAT_WHEN_ACCESS && finding->block.free_stack != 0 ? MOAT_STACK_FREED
                                                                                   : MOAT_STACK_FOUND;
    default:
        return MOAT_STACK_FOUND;
    }
}

/* Hashes the kind and the three innermost frames outside Moat and libc as (build id, offset): the same in every run of a build. */
static uint32_t bug_id(const struct moat_report *report) {
    const struct moat_stack *stack = &report->stacks[telling_stack(&report->finding)];
    uint64_t hash = hash_bytes(UINT64_C(0xcbf29ce484222325), &report->finding.kind, 1);
    unsigned hashed = 0;
    for (unsigned i = 0; i < stack->frame_count && hashed < MOAT_BUG_FRAMES; i++) {
        const struct moat_frame *frame = &stack->frames[i];
        if (frame->own || frame->module == MOAT_NO_MODULE ||
            moat_module_is_libc(moat_process.reporting.module_of[frame->module])) {
            continue;
        }
        const struct moat_module *module = &report->modules[frame->module];
        uint64_t offset = frame->pc - module->bias;
        if (module->build_id_bytes != 0) {
            hash = hash_bytes(hash, module->build_id, module->build_id_bytes);
        } else {
            const char *base = strrchr(module->path, '/');
            base = base == NULL ? module->path : base + 1;
            hash = hash_bytes(hash, base, strlen(base));
        }
        hash = hash_bytes(hash, &offset, sizeof offset);
        hashed++;
    }
    uint32_t id = (uint32_t)(hash >> 32 ^ hash);
    return id != 0 ? id : 1;
}

/* How often this id was seen before; counts it. */
static uint64_t bug_seen(uint32_t id) {
    struct moat_bug *bugs = moat_process.reporting.bugs;
    for (uint32_t probe = 0; probe < MOAT_BUGS_MAX; probe++) {
        struct moat_bug *bug = &bugs[(id + probe) % MOAT_BUGS_MAX];
        if (bug->id == id) {
            return bug->count++;
        }
        if (bug->id == 0) {
            *bug = (struct moat_bug){.id = id, .count = 1};
            return 0;
        }
    }
    return 0;
}

/* ---- findings -------------------------------------------------------------------------------------------------------------- */

static bool is_corruption(const struct moat_finding *finding) {
    switch (finding->kind) {
    case MOAT_MEMORY_LEAK:
    case MOAT_OUT_OF_MEMORY:
    case MOAT_CALL_FROM_INTERRUPT:
        return false;
    case MOAT_INVALID_ARGUMENT:
        return finding->argument == MOAT_ARGUMENT_OVERLAP;
    default:
        return true;
    }
}

/* Whose the block is, where it is a guarded allocator's. */
static void name_owner(struct moat_finding *finding) {
    const struct moat_shard *owner =
        finding->block.address == 0 ? NULL : moat_shard_of((uintptr_t)finding->block.address);
    if (owner != NULL && owner->guarded != NULL && finding->owner[0] == '\0') {
        text_copy(finding->owner, sizeof finding->owner, owner->name);
    }
}

static void report_fill(struct moat_report *report, const struct moat_finding *finding) {
    report->finding = *finding;
    name_owner(&report->finding);
    stack_resolve(report, MOAT_STACK_FOUND, finding->found_stack, MOAT_STACK_FRAMES_MAX);
    stack_resolve(report, MOAT_STACK_ALLOCATED, finding->block.allocation_stack, MOAT_STACK_FRAMES_MAX);
    stack_resolve(report, MOAT_STACK_FREED, finding->block.free_stack, MOAT_STACK_FRAMES_MAX);
    stack_resolve(report, MOAT_STACK_BEFORE, finding->neighbour[0].allocation_stack, MOAT_NEIGHBOUR_FRAMES);
    stack_resolve(report, MOAT_STACK_AFTER, finding->neighbour[1].allocation_stack, MOAT_NEIGHBOUR_FRAMES);
    if (finding->when == MOAT_WHEN_ACCESS && report->stacks[MOAT_STACK_FOUND].frame_count != 0) {
        report->stacks[MOAT_STACK_FOUND].frames[0].exact = 1;
    }
    if (finding->address != 0 && finding->block.address == 0 && finding->place == MOAT_PLACE_UNKNOWN) {
        report->finding.place =
            (uint8_t)moat_maps_classify((uintptr_t)finding->address, report->place_name, sizeof report->place_name);
    }
    report->bug_id = bug_id(report);
}

bool moat_finding_print(const struct moat_finding *finding) {
    int error = errno;
    struct moat_thread *self = moat_thread_self();
    bool corruption = is_corruption(finding);
    struct moat_report *report = moat_report_begin(MOAT_REPORT_FINDING);
    if (report == NULL) {
        return false; /* found while this very thread reports */
    }
    self->shielded++;
    if (moat_operators_fit(finding)) {
        moat_report_end();
        self->shielded--;
        errno = error;
        return false;
    }
    report_fill(report, finding);
    if (moat_process.has_suppressions && moat_suppress_matches(report, moat_symtab_symboliser())) {
        atomic_fetch_add(&moat_process.suppressed, 1);
        corruption = false;
    } else {
        /* Leaks come grouped already; everything else is printed once for each bug. */
        report->repeats = finding->kind == MOAT_MEMORY_LEAK ? 0 : bug_seen(report->bug_id);
        if (report->repeats != 0) {
            atomic_fetch_add(&moat_process.repeats, 1);
        } else {
            /* A failure that was asked for is news, but nothing that is wrong with the program. */
            if (finding->kind != MOAT_MEMORY_LEAK && finding->argument != MOAT_ARGUMENT_INJECTED) {
                atomic_fetch_add(&moat_process.findings, 1);
            }
            moat_report_send(report, finding->kind != MOAT_MEMORY_LEAK);
        }
    }
    struct moat_finding told = report->finding;
    moat_report_end();
    self->shielded--;
    unsigned inside = moat_nested_leave(self);
    moat_on_finding(&told);
    moat_nested_return(self, inside);
    errno = error;
    return corruption;
}

void moat_finding_act(void) {
    switch (moat_process.options.on_error) {
    case MOAT_ON_ERROR_ABORT:
        atomic_store(&moat_process.dying, true);
        moat_nested_leave(moat_thread_self()); /* the program may have a handler for it */
        abort();
    case MOAT_ON_ERROR_EXIT:
        atomic_store(&moat_process.dying, true);
        syscall(SYS_exit_group, (int)moat_process.options.exitcode);
        break;
    default:
        break;
    }
}

void moat_finding_report(const struct moat_finding *finding) {
    if (moat_finding_print(finding)) {
        moat_finding_act();
    }
}
