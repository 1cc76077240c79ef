/* Renders a report for a human: heading, sentence, stacks, bytes, neighbours, window, bug id.
 * May include: guard/report, string.h for mem* and str* only. */
#include "guard/report/text.h"

#include <string.h>

/* One pc gives this many lines at the most: the function and what was inlined into it. */
#define LOCATIONS_MAX 24u
/* Functions' names are padded to a common width, but one long name must not push all files to the right. */
#define NAME_COLUMNS_MAX 44u
#define NAME_GAP 3u

/* ---- frames ---- */

static const struct moat_module *module_of(const struct moat_report *report, const struct moat_frame *frame) {
    bool known = frame->module < report->module_count && frame->module < MOAT_REPORT_MODULES_MAX;
    return known ? &report->modules[frame->module] : NULL;
}

static size_t locate(const struct moat_report *report, const struct moat_symboliser *symboliser,
                     const struct moat_frame *frame, struct moat_location *locations) {
    memset(locations, 0, LOCATIONS_MAX * sizeof *locations);
    if (symboliser == NULL || symboliser->locate == NULL) {
        return 0;
    }
    size_t count = symboliser->locate(symboliser->context, frame, module_of(report, frame), locations, LOCATIONS_MAX);
    return count < LOCATIONS_MAX ? count : LOCATIONS_MAX;
}

static uint16_t frame_count_of(const struct moat_stack *stack) {
    return stack->frame_count < MOAT_STACK_FRAMES_MAX ? stack->frame_count : MOAT_STACK_FRAMES_MAX;
}

/* The width of the names in front of files, over all stacks of the report that are shown. */
static size_t name_columns(const struct moat_report *report, const struct moat_symboliser *symboliser) {
    struct moat_location locations[LOCATIONS_MAX];
    size_t widest = 0;
    for (size_t which = 0; which <= MOAT_STACK_FREED; which++) {
        const struct moat_stack *stack = &report->stacks[which];
        for (uint16_t i = 0; i < frame_count_of(stack); i++) {
            size_t count = stack->frames[i].own ? 0 : locate(report, symboliser, &stack->frames[i], locations);
            for (size_t k = 0; k < count; k++) {
                bool shown = locations[k].function != NULL && locations[k].file != NULL;
                size_t width = shown ? moat_clean_width(locations[k].function) : 0;
                widest = width > widest && width <= NAME_COLUMNS_MAX ? width : widest;
            }
        }
    }
    return widest;
}

static void say_module(struct moat_out *out, const struct moat_module *module) {
    if (module != NULL) {
        moat_out_text(out, " (");
        moat_out_clean_text(out, moat_path_base(module->path));
        moat_out_char(out, ')');
    }
}

static void say_plus(struct moat_out *out, uint64_t offset) {
    moat_out_text(out, "+0x");
    moat_out_hex(out, offset, 1);
}

static void say_location(struct moat_out *out, const struct moat_location *location, const struct moat_module *module,
                         size_t columns) {
    const char *function = location->function != NULL ? location->function : "??";
    size_t start = out->column;
    moat_out_clean_text(out, function);
    if (location->file == NULL) {
        if (location->function_offset > 0) {
            say_plus(out, location->function_offset);
        }
        say_module(out, module);
    } else {
        size_t width = out->column - start;
        moat_out_repeat(out, ' ', width <= columns ? columns - width + NAME_GAP : NAME_GAP);
        moat_out_clean_text(out, location->file);
        if (location->line > 0) {
            moat_out_char(out, ':');
            moat_out_number(out, location->line);
        }
    }
    moat_out_text(out, location->inlined ? " (inlined)\n" : "\n");
}

/* "#7 ", padded as the stack's highest number needs it. */
static void say_number(struct moat_out *out, size_t number, uint16_t frame_count) {
    moat_out_to_column(out, 2 * MOAT_TEXT_INDENT);
    moat_out_paint(out, MOAT_PAINT_DIM);
    moat_out_char(out, '#');
    moat_out_number(out, number);
    moat_out_paint(out, MOAT_PAINT_NONE);
    moat_out_text(out, frame_count > 10 && number < 10 ? "  " : " ");
    moat_out_text(out, frame_count > 100 && number < 100 ? " " : "");
}

static void say_nameless(struct moat_out *out, const struct moat_frame *frame, const struct moat_module *module) {
    if (module != NULL) {
        moat_out_clean_text(out, moat_path_base(module->path));
        say_plus(out, frame->pc - module->bias);
    } else {
        moat_out_address(out, frame->pc);
        moat_out_text(out, " (in no known module)");
    }
    moat_out_char(out, '\n');
}

static void say_stack(struct moat_out *out, const struct moat_report *report, const struct moat_symboliser *symboliser,
                      enum moat_report_stack which, size_t columns) {
    const struct moat_stack *stack = &report->stacks[which];
    struct moat_location locations[LOCATIONS_MAX];
    size_t number = 0;
    uint16_t frame_count = frame_count_of(stack);
    for (uint16_t i = 0; i < frame_count; i++) {
        const struct moat_frame *frame = &stack->frames[i];
        if (frame->own) {
            continue;
        }
        const struct moat_module *module = module_of(report, frame);
        size_t count = locate(report, symboliser, frame, locations);
        if (count == 0) {
            say_number(out, number++, frame_count);
            say_nameless(out, frame, module);
        }
        for (size_t k = 0; k < count; k++) {
            say_number(out, number++, frame_count);
            say_location(out, &locations[k], module, columns);
        }
    }
    if (stack->incomplete) {
        moat_out_to_column(out, 2 * MOAT_TEXT_INDENT);
        moat_out_text(out, "(the stack could not be followed further)\n");
    } else if (number == 0) {
        moat_out_to_column(out, 2 * MOAT_TEXT_INDENT);
        moat_out_text(out, "(no stack was recorded)\n");
    }
}

/* ---- the headings of the stacks ---- */

static void say_by_thread(struct moat_out *out, const char *before, uint16_t thread) {
    if (thread != 0) {
        moat_out_text(out, before);
        moat_out_text(out, "thread ");
        moat_out_number(out, thread);
    }
}

static void say_found_by(struct moat_out *out, const struct moat_finding *finding) {
    bool again = finding->kind == MOAT_DOUBLE_FREE;
    switch (finding->when) {
    case MOAT_WHEN_FREE:
    case MOAT_WHEN_REALLOC:
        if (again || finding->kind == MOAT_INVALID_FREE || finding->kind == MOAT_ALLOC_DEALLOC_MISMATCH) {
            moat_out_text(out, finding->when == MOAT_WHEN_REALLOC ? "reallocated" : again ? "freed again" : "freed");
            say_by_thread(out, " by ", finding->thread);
            return;
        }
        moat_out_text(out, "found when ");
        say_by_thread(out, "", finding->thread);
        moat_out_text(out, finding->thread == 0 ? "the program " : " ");
        moat_out_text(out, finding->when == MOAT_WHEN_FREE ? "freed the block" : "reallocated the block");
        return;
    case MOAT_WHEN_QUARANTINE:
        moat_out_text(out, "found when the block left the quarantine, during an unrelated call");
        say_by_thread(out, " of ", finding->thread);
        return;
    case MOAT_WHEN_CHECK:
        moat_out_text(out, "found by a check of the whole heap");
        say_by_thread(out, ", in ", finding->thread);
        return;
    case MOAT_WHEN_EXIT:
        moat_out_text(out, "found by the check at exit");
        return;
    case MOAT_WHEN_ACCESS:
        moat_out_text(out, finding->is_write ? "written" : "read");
        say_by_thread(out, " by ", finding->thread);
        return;
    default:
        moat_out_text(out, "called");
        say_by_thread(out, " by ", finding->thread);
    }
}

static void say_found(struct moat_out *out, const struct moat_report *report, const struct moat_symboliser *symboliser,
                      size_t columns) {
    const struct moat_finding *finding = &report->finding;
    if (finding->kind == MOAT_MEMORY_LEAK ||
        (finding->when == MOAT_WHEN_EXIT && frame_count_of(&report->stacks[MOAT_STACK_FOUND]) == 0)) {
        if (finding->kind != MOAT_MEMORY_LEAK) {
            moat_out_to_column(out, MOAT_TEXT_INDENT);
            moat_out_text(out, "found by the check at exit\n");
        }
        return;
    }
    moat_out_to_column(out, MOAT_TEXT_INDENT);
    say_found_by(out, finding);
    moat_out_text(out, ":\n");
    say_stack(out, report, symboliser, MOAT_STACK_FOUND, columns);
}

static void say_allocated(struct moat_out *out, const struct moat_report *report,
                          const struct moat_symboliser *symboliser, size_t columns) {
    const struct moat_finding *finding = &report->finding;
    const struct moat_block_facts *block = &finding->block;
    bool leak = finding->kind == MOAT_MEMORY_LEAK;
    if (!leak && block->address == 0 && frame_count_of(&report->stacks[MOAT_STACK_ALLOCATED]) == 0) {
        return;
    }
    moat_out_to_column(out, MOAT_TEXT_INDENT);
    moat_out_text(out, "allocated");
    if (finding->owner[0] != '\0' && finding->kind != MOAT_ALLOC_DEALLOC_MISMATCH) { /* whose sentence names it */
        moat_out_text(out, " from ");
        moat_out_clean_text(out, finding->owner);
    }
    say_by_thread(out, " by ", block->allocation_thread);
    if (block->sequence != 0) {
        moat_out_text(out, leak && finding->leak_blocks > 1 ? ", the first one as allocation " : " as allocation ");
        moat_out_number(out, block->sequence);
    }
    moat_out_text(out, ":\n");
    say_stack(out, report, symboliser, MOAT_STACK_ALLOCATED, columns);
}

static void say_freed(struct moat_out *out, const struct moat_report *report, const struct moat_symboliser *symboliser,
                      size_t columns) {
    const struct moat_finding *finding = &report->finding;
    if (!moat_block_was_freed(&finding->block) && frame_count_of(&report->stacks[MOAT_STACK_FREED]) == 0) {
        return;
    }
    moat_out_to_column(out, MOAT_TEXT_INDENT);
    moat_out_text(out, finding->kind == MOAT_DOUBLE_FREE ? "freed the first time" : "freed");
    say_by_thread(out, " by ", finding->block.free_thread);
    moat_out_text(out, ":\n");
    say_stack(out, report, symboliser, MOAT_STACK_FREED, columns);
}

/* ---- neighbours, window ---- */

/* Writes the innermost frame of a stack, or with `need_line` the innermost one that has a line. False when there is
 * none. */
static bool say_innermost(struct moat_out *out, const struct moat_report *report,
                          const struct moat_symboliser *symboliser, enum moat_report_stack which, bool need_line) {
    const struct moat_stack *stack = &report->stacks[which];
    struct moat_location locations[LOCATIONS_MAX];
    for (uint16_t i = 0; i < frame_count_of(stack); i++) {
        const struct moat_frame *frame = &stack->frames[i];
        size_t count = frame->own ? 0 : locate(report, symboliser, frame, locations);
        if (count == 0 || (need_line && locations[0].file == NULL)) {
            continue;
        }
        moat_out_text(out, " from ");
        if (locations[0].file == NULL) {
            moat_out_clean_text(out, locations[0].function != NULL ? locations[0].function : "??");
            return true;
        }
        moat_out_clean_text(out, locations[0].file);
        moat_out_char(out, ':');
        moat_out_number(out, locations[0].line);
        return true;
    }
    return false;
}

static void say_neighbours(struct moat_out *out, const struct moat_report *report,
                           const struct moat_symboliser *symboliser) {
    const struct moat_block_facts *block = &report->finding.block;
    for (unsigned i = 0; i < 2; i++) {
        const struct moat_block_facts *neighbour = &report->finding.neighbour[i];
        if (neighbour->address == 0) {
            continue;
        }
        uint64_t distance = i == 0 ? block->address - (neighbour->address + neighbour->size_bytes)
                                   : neighbour->address - (block->address + block->size_bytes);
        moat_out_to_column(out, MOAT_TEXT_INDENT);
        moat_out_text(out, "neighbour: ");
        if (distance <= INT64_MAX) {
            moat_text_count(out, distance, "byte");
            moat_out_text(out, i == 0 ? " before it, " : " further on, ");
        }
        moat_out_text(out, moat_block_was_freed(neighbour) ? "a freed " : "a live ");
        moat_out_grouped(out, neighbour->size_bytes);
        moat_out_text(out, "-byte block");
        if (neighbour->sequence != 0) {
            moat_out_text(out, ", #");
            moat_out_number(out, neighbour->sequence);
            moat_out_char(out, ',');
        }
        enum moat_report_stack which = i == 0 ? MOAT_STACK_BEFORE : MOAT_STACK_AFTER;
        if (!say_innermost(out, report, symboliser, which, true)) {
            say_innermost(out, report, symboliser, which, false);
        }
        moat_out_char(out, '\n');
    }
}

static void say_window(struct moat_out *out, const struct moat_finding *finding) {
    if (finding->whole_at == 0 && finding->bad_by == 0) {
        return;
    }
    moat_out_to_column(out, MOAT_TEXT_INDENT);
    moat_out_text(out, "window: ");
    if (finding->whole_at != 0) {
        bool is_new = finding->whole_at == finding->block.sequence;
        moat_out_text(out, is_new ? "whole when it was allocated as event " : "whole when it was last checked at event ");
        moat_out_number(out, finding->whole_at);
        moat_out_text(out, finding->bad_by != 0 ? ", " : "");
    }
    if (finding->bad_by != 0 && finding->bad_by == finding->whole_at) {
        moat_out_text(out, "damaged before the next allocation");
    } else if (finding->bad_by != 0) {
        moat_out_text(out, "damaged by event ");
        moat_out_number(out, finding->bad_by);
    }
    moat_out_char(out, '\n');
}

/* ---- whole reports ---- */

static void say_prefix(struct moat_out *out, const struct moat_report *report) {
    moat_out_paint(out, MOAT_PAINT_DIM);
    moat_out_text(out, "==");
    moat_out_signed(out, report->pid);
    moat_out_text(out, "==");
    moat_out_paint(out, MOAT_PAINT_NONE);
    moat_out_text(out, " moat: ");
}

static void say_finding(struct moat_out *out, const struct moat_report *report,
                        const struct moat_symboliser *symboliser) {
    size_t columns = name_columns(report, symboliser);
    say_prefix(out, report);
    moat_out_paint(out, MOAT_PAINT_KIND);
    moat_out_text(out, moat_kind_name(report->finding.kind));
    moat_out_paint(out, MOAT_PAINT_NONE);
    if (report->program[0] != '\0') {
        moat_out_text(out, " in ");
        moat_out_clean_text(out, moat_path_base(report->program));
    }
    moat_out_char(out, '\n');
    moat_text_says(out, report);
    moat_out_char(out, '\n');
    say_found(out, report, symboliser, columns);
    say_allocated(out, report, symboliser, columns);
    say_freed(out, report, symboliser, columns);
    moat_out_char(out, '\n');
    moat_text_bytes(out, report);
    say_neighbours(out, report, symboliser);
    say_window(out, &report->finding);
    moat_out_to_column(out, MOAT_TEXT_INDENT);
    moat_out_paint(out, MOAT_PAINT_DIM);
    moat_out_text(out, "bug id ");
    moat_out_hex(out, report->bug_id, 8);
    moat_out_paint(out, MOAT_PAINT_NONE);
    if (report->repeats > 0) {
        moat_out_text(out, ", found ");
        moat_text_count(out, report->repeats, "time");
        moat_out_text(out, " before");
    }
    moat_out_text(out, "\n\n");
}

static void say_leaked(struct moat_out *out, uint64_t blocks, uint64_t bytes, const char *how) {
    if (blocks > 0) {
        moat_out_text(out, ", ");
        moat_text_count(out, blocks, "block");
        moat_out_text(out, " (");
        moat_text_count(out, bytes, "byte");
        moat_out_text(out, ") leaked ");
        moat_out_text(out, how);
    }
}

static void say_findings(struct moat_out *out, const struct moat_summary *summary) {
    if (summary->findings == 0) {
        moat_out_text(out, "no findings");
    } else {
        moat_text_count(out, summary->findings, "finding");
    }
    if (summary->repeats > 0) {
        moat_out_text(out, " (");
        moat_text_count(out, summary->repeats, "repeat");
        moat_out_char(out, ')');
    }
}

static void say_summary(struct moat_out *out, const struct moat_report *report) {
    const struct moat_summary *summary = &report->summary;
    say_prefix(out, report);
    bool leaks_clean = summary->leak_outcome == MOAT_LEAKS_CLEAN || summary->leak_outcome == MOAT_LEAKS_NOT_ASKED;
    if (summary->findings == 0 && summary->repeats == 0 && leaks_clean) {
        moat_out_text(out, "clean: ");
        moat_text_count(out, summary->allocations, "allocation");
        moat_out_text(out, ", no findings");
        moat_out_text(out, summary->leak_outcome == MOAT_LEAKS_CLEAN ? ", no leaks" : "");
    } else {
        say_findings(out, summary);
        say_leaked(out, summary->leak_definite_blocks, summary->leak_definite_bytes, "definitely");
        say_leaked(out, summary->leak_indirect_blocks, summary->leak_indirect_bytes, "indirectly");
        moat_out_text(out, summary->leak_outcome == MOAT_LEAKS_CLEAN ? ", no leaks" : "");
        moat_out_text(out, ", ");
        moat_text_count(out, summary->allocations, "allocation");
    }
    if (summary->suppressed > 0) {
        moat_out_text(out, ", ");
        moat_out_grouped(out, summary->suppressed);
        moat_out_text(out, " suppressed");
    }
    if (summary->leak_outcome == MOAT_LEAKS_COULD_NOT_RUN) {
        moat_out_text(out, "; leak check did not run");
        moat_out_text(out, report->note[0] != '\0' ? ": " : "");
        moat_out_clean_text(out, report->note);
    }
    moat_out_char(out, '\n');
}

void moat_report_text(const struct moat_report *report, const struct moat_symboliser *symboliser, bool colour,
                      struct moat_sink sink) {
    struct moat_out out;
    moat_out_start(&out, sink, colour);
    switch (report->type) {
    case MOAT_REPORT_FINDING:
        say_finding(&out, report, symboliser);
        break;
    case MOAT_REPORT_SUMMARY:
        say_summary(&out, report);
        break;
    case MOAT_REPORT_NOTE:
        say_prefix(&out, report);
        moat_out_clean_text(&out, report->note);
        moat_out_char(&out, '\n');
        break;
    case MOAT_REPORT_NOT_COVERED:
        moat_out_text(&out, "moat: not checked: ");
        moat_out_clean_text(&out, report->program);
        moat_out_text(&out, report->note[0] != '\0' ? " (" : "");
        moat_out_clean_text(&out, report->note);
        moat_out_text(&out, report->note[0] != '\0' ? ")\n" : "\n");
        break;
    default:
        break;
    }
    moat_out_finish(&out);
}
