/* Renders a report as one line of JSON, schema 1.
 * May include: guard/report, string.h for mem* and str* only.
 *
 * A string is UTF-8 wherever the original was. A byte that is not comes out as the four characters \xNN in the string's
 * value, and a backslash that an x follows as \x5c, so that the original can always be restored. */
#include "guard/report/text.h"

#include <string.h>

#define LOCATIONS_MAX 24u
#define SCHEMA_VERSION 1u

/* ---- values ---- */

static void put_escaped(struct moat_out *out, const char *text, size_t length) {
    unsigned char byte = (unsigned char)*text;
    if (length == 0) {
        moat_out_text(out, "\\\\x");
        moat_out_hex(out, byte, 2);
    } else if (byte == '\\' && text[1] == 'x') {
        moat_out_text(out, "\\\\x5c");
    } else if (byte == '"' || byte == '\\') {
        moat_out_char(out, '\\');
        moat_out_char(out, (char)byte);
    } else if (byte < ' ' || byte == 0x7f) {
        moat_out_text(out, "\\u");
        moat_out_hex(out, byte, 4);
    } else {
        moat_out_bytes(out, text, length);
    }
}

static void put_string(struct moat_out *out, const char *text) {
    moat_out_char(out, '"');
    for (size_t left = strlen(text); left > 0;) {
        size_t length = moat_utf8_length(text, left);
        put_escaped(out, text, length);
        length = length > 0 ? length : 1;
        text += length;
        left -= length;
    }
    moat_out_char(out, '"');
}

/* A member's name. The first member of an object has no comma before it. */
static void put_name(struct moat_out *out, bool *first, const char *name) {
    moat_out_text(out, *first ? "\"" : ",\"");
    *first = false;
    moat_out_text(out, name);
    moat_out_text(out, "\":");
}

static void put_text(struct moat_out *out, bool *first, const char *name, const char *text) {
    put_name(out, first, name);
    put_string(out, text);
}

/* Left out when empty. */
static void put_known_text(struct moat_out *out, bool *first, const char *name, const char *text) {
    if (text != NULL && text[0] != '\0') {
        put_text(out, first, name, text);
    }
}

static void put_number(struct moat_out *out, bool *first, const char *name, uint64_t value) {
    put_name(out, first, name);
    moat_out_number(out, value);
}

/* Left out when 0, where 0 means unknown. */
static void put_known_number(struct moat_out *out, bool *first, const char *name, uint64_t value) {
    if (value != 0) {
        put_number(out, first, name, value);
    }
}

static void put_signed(struct moat_out *out, bool *first, const char *name, int64_t value) {
    put_name(out, first, name);
    moat_out_signed(out, value);
}

static void put_address(struct moat_out *out, bool *first, const char *name, uint64_t value) {
    put_name(out, first, name);
    moat_out_char(out, '"');
    moat_out_address(out, value);
    moat_out_char(out, '"');
}

static void put_true(struct moat_out *out, bool *first, const char *name, bool value) {
    if (value) {
        put_name(out, first, name);
        moat_out_text(out, "true");
    }
}

static void put_hex(struct moat_out *out, bool *first, const char *name, const unsigned char *bytes, size_t count) {
    put_name(out, first, name);
    moat_out_char(out, '"');
    for (size_t i = 0; i < count; i++) {
        moat_out_hex(out, bytes[i], 2);
    }
    moat_out_char(out, '"');
}

/* ---- frames and stacks ---- */

static void put_frame(struct moat_out *out, const struct moat_frame *frame, const struct moat_module *module,
                      const struct moat_location *location) {
    bool first = true;
    moat_out_char(out, '{');
    put_address(out, &first, "pc", frame->pc);
    if (location != NULL) {
        put_known_text(out, &first, "function", location->function);
        put_known_text(out, &first, "file", location->file);
        put_known_number(out, &first, "line", location->line);
        put_true(out, &first, "inlined", location->inlined);
    }
    if (module != NULL) {
        put_text(out, &first, "module", module->path);
        put_address(out, &first, "offset", frame->pc - module->bias);
        if (module->build_id_bytes > 0 && module->build_id_bytes <= MOAT_BUILD_ID_BYTES) {
            put_hex(out, &first, "build_id", module->build_id, module->build_id_bytes);
        }
    }
    put_true(out, &first, "exact", frame->exact != 0);
    moat_out_char(out, '}');
}

static void put_stack(struct moat_out *out, const struct moat_report *report, const struct moat_symboliser *symboliser,
                      const struct moat_stack *stack) {
    struct moat_location locations[LOCATIONS_MAX];
    bool first = true;
    moat_out_char(out, '[');
    for (uint16_t i = 0; i < stack->frame_count && i < MOAT_STACK_FRAMES_MAX; i++) {
        const struct moat_frame *frame = &stack->frames[i];
        if (frame->own) {
            continue;
        }
        bool known = frame->module < report->module_count && frame->module < MOAT_REPORT_MODULES_MAX;
        const struct moat_module *module = known ? &report->modules[frame->module] : NULL;
        memset(locations, 0, sizeof locations);
        size_t count = symboliser != NULL && symboliser->locate != NULL
                           ? symboliser->locate(symboliser->context, frame, module, locations, LOCATIONS_MAX)
                           : 0;
        size_t k = 0;
        do {
            moat_out_text(out, first ? "" : ",");
            first = false;
            put_frame(out, frame, module, k < count ? &locations[k] : NULL);
        } while (++k < count && k < LOCATIONS_MAX);
    }
    moat_out_char(out, ']');
}

static void put_stacks(struct moat_out *out, bool *first_member, const struct moat_report *report,
                       const struct moat_symboliser *symboliser) {
    static const char *const names[] = {
        [MOAT_STACK_FOUND] = "found", [MOAT_STACK_ALLOCATED] = "allocated", [MOAT_STACK_FREED] = "freed"};
    bool first = true;
    bool any_incomplete = false;
    put_name(out, first_member, "stacks");
    moat_out_char(out, '{');
    for (unsigned which = 0; which <= MOAT_STACK_FREED; which++) {
        const struct moat_stack *stack = &report->stacks[which];
        any_incomplete = any_incomplete || stack->incomplete;
        if (stack->frame_count > 0) {
            put_name(out, &first, names[which]);
            put_stack(out, report, symboliser, stack);
        }
    }
    moat_out_char(out, '}');
    if (any_incomplete) {
        bool first_name = true;
        put_name(out, first_member, "incomplete_stacks");
        moat_out_char(out, '[');
        for (unsigned which = 0; which <= MOAT_STACK_FREED; which++) {
            if (report->stacks[which].incomplete) {
                moat_out_text(out, first_name ? "" : ",");
                first_name = false;
                put_string(out, names[which]);
            }
        }
        moat_out_char(out, ']');
    }
}

/* ---- blocks ---- */

static void put_block_members(struct moat_out *out, bool *first, const struct moat_block_facts *block) {
    put_address(out, first, "address", block->address);
    put_number(out, first, "size", block->size_bytes);
    put_known_number(out, first, "sequence", block->sequence);
    put_text(out, first, "state", moat_block_was_freed(block) ? "freed" : "live");
    put_text(out, first, "family", moat_family_name(block->family));
    put_known_number(out, first, "allocated_by", block->allocation_thread);
    put_known_number(out, first, "freed_by", block->free_thread);
}

static void put_block(struct moat_out *out, bool *first_member, const char *name,
                      const struct moat_block_facts *block) {
    if (block->address != 0) {
        bool first = true;
        put_name(out, first_member, name);
        moat_out_char(out, '{');
        put_block_members(out, &first, block);
        moat_out_char(out, '}');
    }
}

static void put_neighbours(struct moat_out *out, bool *first_member, const struct moat_report *report,
                           const struct moat_symboliser *symboliser) {
    static const char *const names[] = {"before", "after"};
    const struct moat_block_facts *neighbours = report->finding.neighbour;
    if (neighbours[0].address == 0 && neighbours[1].address == 0) {
        return;
    }
    bool first = true;
    put_name(out, first_member, "neighbours");
    moat_out_char(out, '{');
    for (unsigned i = 0; i < 2; i++) {
        if (neighbours[i].address == 0) {
            continue;
        }
        bool inner = true;
        put_name(out, &first, names[i]);
        moat_out_char(out, '{');
        put_block_members(out, &inner, &neighbours[i]);
        const struct moat_stack *stack = &report->stacks[i == 0 ? MOAT_STACK_BEFORE : MOAT_STACK_AFTER];
        if (stack->frame_count > 0) {
            put_name(out, &inner, "allocated");
            put_stack(out, report, symboliser, stack);
        }
        moat_out_char(out, '}');
    }
    moat_out_char(out, '}');
}

static void put_dump(struct moat_out *out, bool *first_member, const struct moat_dump *dump) {
    if (dump->length == 0) {
        return;
    }
    uint32_t length = dump->length < MOAT_DUMP_BYTES ? dump->length : MOAT_DUMP_BYTES;
    bool first = true;
    bool first_index = true;
    put_name(out, first_member, "dump");
    moat_out_char(out, '{');
    put_signed(out, &first, "offset", dump->offset);
    put_hex(out, &first, "found", dump->bytes, length);
    put_hex(out, &first, "expected", dump->expected, length);
    put_name(out, &first, "bad");
    moat_out_char(out, '[');
    for (uint32_t i = 0; i < length; i++) {
        if (dump->bad >> i & 1) {
            moat_out_text(out, first_index ? "" : ",");
            first_index = false;
            moat_out_signed(out, dump->offset + (int64_t)i);
        }
    }
    moat_out_text(out, "]}");
}

/* ---- the kinds of report ---- */

static void put_call(struct moat_out *out, bool *first, const struct moat_report *report) {
    static const char *const places[] = {"unknown", "block", "stack", "global", "code", "mapped", "unmapped", "free"};
    static const char *const arguments[] = {"none",         "size",           "product",     "alignment",  "overlap",
                                            "sized-delete", "aligned-delete", "other-owner", "not-singly", "injected"};
    _Static_assert(sizeof places / sizeof *places == MOAT_PLACE_COUNT, "a name for each place");
    _Static_assert(sizeof arguments / sizeof *arguments >= MOAT_ARGUMENT_COUNT, "a name for each argument");
    const struct moat_finding *finding = &report->finding;
    if (finding->address != 0 || finding->kind == MOAT_INVALID_FREE) {
        put_address(out, first, "address", finding->address);
    }
    if (finding->kind == MOAT_INVALID_FREE && finding->place < MOAT_PLACE_COUNT) {
        put_text(out, first, "place", places[finding->place]);
        put_known_text(out, first, "place_name", report->place_name);
    }
    if (finding->kind == MOAT_INVALID_FREE || finding->kind == MOAT_ALLOC_DEALLOC_MISMATCH ||
        finding->kind == MOAT_DOUBLE_FREE) {
        put_text(out, first, "caller_family", moat_family_name(finding->caller_family));
    }
    bool has_values = finding->kind == MOAT_OUT_OF_MEMORY || finding->argument != MOAT_ARGUMENT_NONE;
    if (finding->argument != MOAT_ARGUMENT_NONE && finding->argument < MOAT_ARGUMENT_COUNT) {
        put_text(out, first, "argument", arguments[finding->argument]);
    }
    if (has_values) {
        put_name(out, first, "values");
        moat_out_char(out, '[');
        moat_out_number(out, finding->argument_value[0]);
        moat_out_char(out, ',');
        moat_out_number(out, finding->argument_value[1]);
        moat_out_char(out, ']');
    }
    if (finding->when == MOAT_WHEN_ACCESS) {
        put_text(out, first, "access", finding->is_write ? "write" : "read");
    }
}

static bool has_offsets(const struct moat_finding *finding) {
    return finding->kind == MOAT_HEAP_BUFFER_OVERFLOW || finding->kind == MOAT_HEAP_BUFFER_UNDERFLOW ||
           finding->kind == MOAT_HEAP_USE_AFTER_FREE;
}

static void put_leak(struct moat_out *out, bool *first, const struct moat_finding *finding) {
    put_text(out, first, "class", moat_leak_class_name(finding->leak_class));
    put_number(out, first, "blocks", finding->leak_blocks);
    put_number(out, first, "bytes", finding->leak_bytes);
    put_known_number(out, first, "indirect_blocks", finding->leak_indirect_blocks);
    put_known_number(out, first, "indirect_bytes", finding->leak_indirect_bytes);
}

static void put_finding(struct moat_out *out, bool *first, const struct moat_report *report,
                        const struct moat_symboliser *symboliser) {
    const struct moat_finding *finding = &report->finding;
    put_text(out, first, "kind", moat_kind_name(finding->kind));
    put_text(out, first, "when", moat_when_name(finding->when));
    put_name(out, first, "id");
    moat_out_char(out, '"');
    moat_out_hex(out, report->bug_id, 8);
    moat_out_char(out, '"');
    put_known_number(out, first, "thread", finding->thread);
    put_number(out, first, "repeats", report->repeats);
    put_block(out, first, "block", &finding->block);
    if (has_offsets(finding)) {
        put_signed(out, first, "first", finding->first);
        put_signed(out, first, "last", finding->last);
        put_number(out, first, "bad_bytes", finding->bad_count);
    } else if (finding->kind == MOAT_INVALID_FREE && finding->block.address != 0) {
        put_signed(out, first, "first", finding->first);
    }
    put_call(out, first, report);
    put_known_text(out, first, "owner", finding->owner);
    put_known_text(out, first, "asked", finding->asked);
    put_known_text(out, first, "rule", finding->rule);
    put_true(out, first, "header_lost", finding->header_lost != 0);
    if (finding->kind == MOAT_MEMORY_LEAK) {
        put_leak(out, first, finding);
    }
    put_dump(out, first, &finding->dump);
    put_neighbours(out, first, report, symboliser);
    if (finding->whole_at != 0 || finding->bad_by != 0) {
        bool inner = true;
        put_name(out, first, "window");
        moat_out_char(out, '{');
        put_known_number(out, &inner, "whole_at", finding->whole_at);
        put_known_number(out, &inner, "bad_by", finding->bad_by);
        moat_out_char(out, '}');
    }
    put_stacks(out, first, report, symboliser);
}

static void put_summary(struct moat_out *out, bool *first, const struct moat_report *report) {
    static const char *const outcomes[] = {"not-asked", "clean", "found", "could-not-run"};
    const struct moat_summary *summary = &report->summary;
    put_number(out, first, "findings", summary->findings);
    put_number(out, first, "repeats", summary->repeats);
    put_number(out, first, "suppressed", summary->suppressed);
    put_number(out, first, "allocations", summary->allocations);
    put_number(out, first, "live_blocks", summary->live_blocks);
    put_number(out, first, "live_bytes", summary->live_bytes);
    put_text(out, first, "leak_check",
             summary->leak_outcome < sizeof outcomes / sizeof *outcomes ? outcomes[summary->leak_outcome] : "?");
    put_known_text(out, first, "reason", report->note);
    put_number(out, first, "leak_groups", summary->leak_groups);
    put_number(out, first, "definite_blocks", summary->leak_definite_blocks);
    put_number(out, first, "definite_bytes", summary->leak_definite_bytes);
    put_number(out, first, "indirect_blocks", summary->leak_indirect_blocks);
    put_number(out, first, "indirect_bytes", summary->leak_indirect_bytes);
}

void moat_report_json(const struct moat_report *report, const struct moat_symboliser *symboliser,
                      struct moat_sink sink) {
    static const char *const events[] = {
        [MOAT_REPORT_SUMMARY] = "summary", [MOAT_REPORT_NOTE] = "note", [MOAT_REPORT_NOT_COVERED] = "not-covered"};
    bool finding = report->type == MOAT_REPORT_FINDING;
    if (!finding && (report->type >= sizeof events / sizeof *events || events[report->type] == NULL)) {
        return;
    }
    struct moat_out out;
    bool first = true;
    moat_out_start(&out, sink, false);
    moat_out_char(&out, '{');
    put_number(&out, &first, "schema", SCHEMA_VERSION);
    if (!finding) {
        put_text(&out, &first, "event", events[report->type]);
    }
    put_signed(&out, &first, "pid", report->pid);
    put_known_text(&out, &first, "program", report->program);
    put_known_text(&out, &first, "command", report->command);
    if (finding) {
        put_finding(&out, &first, report, symboliser);
    } else if (report->type == MOAT_REPORT_SUMMARY) {
        put_summary(&out, &first, report);
    } else {
        put_text(&out, &first, "note", report->note);
    }
    moat_out_text(&out, "}\n");
    moat_out_finish(&out);
}
