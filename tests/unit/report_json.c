/* Portable tests of the JSON renderer: a whole object to the letter, strings of any bytes, and a reader of JSON's
 * grammar over random reports. May include: tests/test.h, tests/unit/report_sample.h, guard/report, string.h. */
#include "guard/report/report.h"
#include "tests/test.h"
#include "tests/unit/report_sample.h"

#define RANDOM_ROUNDS 400

static struct moat_report report;
static struct sample_text text;

static size_t locate(void *context, const struct moat_frame *frame, const struct moat_module *module,
                     struct moat_location *locations, size_t most) {
    (void)context;
    (void)module;
    if (frame->pc != 0x1010 || most < 2) {
        return 0;
    }
    locations[0] = (struct moat_location){.function = "f", .file = "a\"b.c", .line = 3, .inlined = true};
    locations[1] = (struct moat_location){.function = "g", .file = "a.c"};
    return 2;
}

static const struct moat_symboliser symboliser = {.locate = locate, .context = NULL};

static const char *rendered(void) {
    moat_report_json(&report, &symboliser, sample_sink(&text));
    return text.bytes;
}

static void start(unsigned type) {
    memset(&report, 0, sizeof report);
    report.type = (uint8_t)type;
    report.word_bits = 64;
    report.pid = 42;
}

MOAT_TEST(json, a_finding_to_the_letter) {
    start(MOAT_REPORT_FINDING);
    struct moat_finding *finding = &report.finding;
    strcpy(report.program, "/bin/p");
    strcpy(report.command, "p -x");
    report.bug_id = 0xa1;
    report.repeats = 2;
    finding->kind = MOAT_HEAP_BUFFER_OVERFLOW;
    finding->when = MOAT_WHEN_FREE;
    finding->thread = 1;
    finding->block = (struct moat_block_facts){.address = 0x1000,
                                               .size_bytes = 24,
                                               .sequence = 7,
                                               .allocation_thread = 2,
                                               .state = MOAT_BLOCK_LIVE,
                                               .family = MOAT_FAMILY_NEW_ARRAY};
    finding->first = 24;
    finding->last = 25;
    finding->bad_count = 2;
    finding->dump.offset = 24;
    finding->dump.length = 3;
    finding->dump.bad = 3;
    memcpy(finding->dump.bytes, "\x41\x00\xfe", 3);
    memcpy(finding->dump.expected, "\x91\x92\xfe", 3);
    finding->neighbour[1] = (struct moat_block_facts){
        .address = 0x2000, .size_bytes = 8, .state = MOAT_BLOCK_QUARANTINED, .free_thread = 3};
    finding->whole_at = 5;
    finding->bad_by = 9;
    report.module_count = 1;
    strcpy(report.modules[0].path, "/bin/p");
    report.modules[0].bias = 0x1000;
    report.modules[0].build_id_bytes = 2;
    report.modules[0].build_id[0] = 0xab;
    report.stacks[MOAT_STACK_FOUND].frame_count = 2;
    report.stacks[MOAT_STACK_FOUND].frames[0].pc = 0x1010;
    report.stacks[MOAT_STACK_FOUND].frames[1].pc = 0x99;
    report.stacks[MOAT_STACK_FOUND].frames[1].module = MOAT_NO_MODULE;
    report.stacks[MOAT_STACK_ALLOCATED].incomplete = 1;
    CHECK_TEXT(
        rendered(),
        "{\"schema\":1,\"pid\":42,\"program\":\"/bin/p\",\"command\":\"p -x\",\"kind\":\"heap-buffer-overflow\","
        "\"when\":\"free\",\"id\":\"000000a1\",\"thread\":1,\"repeats\":2,\"block\":{\"address\":\"0x1000\",\"size\":"
        "24,"
        "\"sequence\":7,\"state\":\"live\",\"family\":\"new[]\",\"allocated_by\":2},\"first\":24,\"last\":25,"
        "\"bad_bytes\":2,\"dump\":{\"offset\":24,\"found\":\"4100fe\",\"expected\":\"9192fe\",\"bad\":[24,25]},"
        "\"neighbours\":{\"after\":{\"address\":\"0x2000\",\"size\":8,\"state\":\"freed\",\"family\":\"malloc\","
        "\"freed_by\":3}},\"window\":{\"whole_at\":5,\"bad_by\":9},\"stacks\":{\"found\":[{\"pc\":\"0x1010\","
        "\"function\":\"f\",\"file\":\"a\\\"b.c\",\"line\":3,\"inlined\":true,\"module\":\"/bin/"
        "p\",\"offset\":\"0x10\","
        "\"build_id\":\"ab00\"},{\"pc\":\"0x1010\",\"function\":\"g\",\"file\":\"a.c\",\"module\":\"/bin/p\","
        "\"offset\":\"0x10\",\"build_id\":\"ab00\"},{\"pc\":\"0x99\"}]},\"incomplete_stacks\":[\"allocated\"]}\n");
}

MOAT_TEST(json, a_leak_and_a_bad_free) {
    start(MOAT_REPORT_FINDING);
    report.finding.kind = MOAT_MEMORY_LEAK;
    report.finding.when = MOAT_WHEN_EXIT;
    report.finding.leak_class = MOAT_LEAK_DEFINITE;
    report.finding.leak_blocks = 2;
    report.finding.leak_bytes = 3400;
    CHECK_TEXT(rendered(), "{\"schema\":1,\"pid\":42,\"kind\":\"memory-leak\",\"when\":\"exit\",\"id\":\"00000000\","
                           "\"repeats\":0,\"class\":\"definite\",\"blocks\":2,\"bytes\":3400,\"stacks\":{}}\n");
    start(MOAT_REPORT_FINDING);
    report.finding.kind = MOAT_INVALID_FREE;
    report.finding.place = MOAT_PLACE_STACK;
    report.finding.address = 0x7ffe0010;
    strcpy(report.place_name, "stack of thread 1");
    CHECK_TEXT(rendered(), "{\"schema\":1,\"pid\":42,\"kind\":\"invalid-free\",\"when\":\"free\",\"id\":\"00000000\","
                           "\"repeats\":0,\"address\":\"0x7ffe0010\",\"place\":\"stack\",\"place_name\":\"stack of "
                           "thread 1\",\"caller_family\":\"malloc\",\"stacks\":{}}\n");
}

MOAT_TEST(json, events) {
    start(MOAT_REPORT_NOTE);
    strcpy(report.note, "hello");
    CHECK_TEXT(rendered(), "{\"schema\":1,\"event\":\"note\",\"pid\":42,\"note\":\"hello\"}\n");
    start(MOAT_REPORT_NOT_COVERED);
    strcpy(report.program, "/bin/p");
    strcpy(report.note, "setuid");
    CHECK_TEXT(rendered(),
               "{\"schema\":1,\"event\":\"not-covered\",\"pid\":42,\"program\":\"/bin/p\",\"note\":\"setuid\"}\n");
    start(MOAT_REPORT_SUMMARY);
    report.summary.leak_outcome = MOAT_LEAKS_COULD_NOT_RUN;
    report.summary.allocations = 3;
    strcpy(report.note, "threads");
    CHECK_TEXT(rendered(),
               "{\"schema\":1,\"event\":\"summary\",\"pid\":42,\"findings\":0,\"repeats\":0,\"suppressed\":0,"
               "\"allocations\":3,\"live_blocks\":0,\"live_bytes\":0,\"leak_check\":\"could-not-run\","
               "\"reason\":\"threads\",\"leak_groups\":0,\"definite_blocks\":0,\"definite_bytes\":0,"
               "\"indirect_blocks\":0,\"indirect_bytes\":0}\n");
    const unsigned silent[] = {0, MOAT_REPORT_CHECK_IN, MOAT_REPORT_EXEC, MOAT_REPORT_EXEC_GONE, 200};
    for (size_t i = 0; i < sizeof silent / sizeof *silent; i++) {
        start(silent[i]);
        CHECK_TEXT(rendered(), "");
    }
}

static void check_note(const char *note, const char *json) {
    static char wanted[256];
    start(MOAT_REPORT_NOTE);
    strcpy(report.note, note);
    strcpy(wanted, "{\"schema\":1,\"event\":\"note\",\"pid\":42,\"note\":\"");
    strcat(strcat(wanted, json), "\"}\n");
    CHECK_TEXT(rendered(), wanted);
}

MOAT_TEST(json, strings_of_any_bytes_can_be_restored) {
    check_note("a\"b\\c", "a\\\"b\\\\c");
    check_note("tab\tline\n\x01\x7f", "tab\\u0009line\\u000a\\u0001\\u007f");
    check_note("caf\xc3\xa9 \xf0\x9f\x98\x80", "caf\xc3\xa9 \xf0\x9f\x98\x80");
    check_note("\xff\xc3(\xed\xa0\x80", "\\\\xff\\\\xc3(\\\\xed\\\\xa0\\\\x80");
    /* A backslash and x of the original's own cannot be taken for an escaped byte. */
    check_note("\\xff \\y", "\\\\x5cxff \\\\y");
}

/* ---- JSON's grammar (RFC 8259), as a reader that only says yes or no ---- */

static const char *value(const char *at, int depth);

static const char *string(const char *at) {
    if (*at++ != '"') {
        return NULL;
    }
    while (*at != '"') {
        unsigned char byte = (unsigned char)*at++;
        if (byte < ' ') {
            return NULL;
        }
        if (byte == '\\') {
            if (*at == 'u') {
                if (strspn(at + 1, "0123456789abcdef") < 4) {
                    return NULL;
                }
                at += 5;
            } else if (*at == '\0' || strchr("\"\\/bfnrt", *at++) == NULL) {
                return NULL;
            }
        } else if (byte >= 0x80) { /* UTF-8: as many bytes behind the first as its length says */
            unsigned more = byte >= 0xf0 ? 3 : byte >= 0xe0 ? 2 : 1;
            if (byte < 0xc2 || byte > 0xf4) {
                return NULL;
            }
            for (; more > 0; more--) {
                if (((unsigned char)*at++ & 0xc0) != 0x80) {
                    return NULL;
                }
            }
        }
    }
    return at + 1;
}

static const char *number(const char *at) {
    at += *at == '-';
    size_t digits = strspn(at, "0123456789");
    return digits == 0 || (digits > 1 && *at == '0') ? NULL : at + digits;
}

static const char *members(const char *at, int depth, char end, bool named) {
    if (*at == end) {
        return at + 1;
    }
    for (;;) {
        if (named) {
            at = string(at);
            if (at == NULL || *at++ != ':') {
                return NULL;
            }
        }
        at = value(at, depth + 1);
        if (at == NULL || (*at != ',' && *at != end)) {
            return NULL;
        }
        if (*at++ == end) {
            return at;
        }
    }
}

static const char *value(const char *at, int depth) {
    if (depth > 10) {
        return NULL;
    }
    switch (*at) {
    case '"':
        return string(at);
    case '{':
        return members(at + 1, depth, '}', true);
    case '[':
        return members(at + 1, depth, ']', false);
    case 't':
        return strncmp(at, "true", 4) == 0 ? at + 4 : NULL;
    default:
        return number(at);
    }
}

MOAT_TEST(json, the_reader_knows_right_from_wrong) {
    const char *const right[] = {"{}", "[]", "{\"a\":[1,-2,\"x\\u000a\\\\\"]}", "true", "0"};
    const char *const wrong[] = {"{", "{\"a\"}", "[1,]", "01", "\"\n\"", "\"\\x\"", "\"\xff\"", "{,}", "\"\\u00g0\""};
    for (size_t i = 0; i < sizeof right / sizeof *right; i++) {
        const char *end = value(right[i], 0);
        CHECK(end != NULL && *end == '\0');
    }
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        CHECK(value(wrong[i], 0) == NULL || *value(wrong[i], 0) != '\0');
    }
}

MOAT_TEST(json, random_reports_are_one_line_of_json_each) {
    uint64_t state = SAMPLE_SEED;
    for (int round = 0; round < RANDOM_ROUNDS; round++) {
        sample_report(&state, &report);
        const char *line = rendered();
        if (text.length == 0) {
            continue;
        }
        CHECK(text.length < SAMPLE_TEXT_BYTES - 1);
        const char *end = value(line, 0);
        CHECK(end != NULL);
        CHECK_TEXT(end, "\n");
    }
}
