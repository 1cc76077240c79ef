/* Suppressions: which reports the user does not want to see. May include: process.h and the port.
 *
 *   # a comment
 *   memory-leak:init_once        a function on the stack, as the symbol table spells it
 *   *:libcurl.so*                a module, by path or by its last part
 *   heap-buffer-overflow:9f3c21aa   a bug id
 *
 * A rule takes a report out when a frame of the stack that tells the bug apart fits: where it was found, and for damage, leaks
 * and writes after free also where the block was allocated and freed. */
#define _GNU_SOURCE
#include "guard/entry/process.h"
#include "guard/port/linux/pages.h"
#include "guard/port/linux/syscall.h"
#include "guard/port/linux/text.h"

#include <errno.h>
#include <string.h>

#define MOAT_SUPPRESS_FILE_BYTES_MAX ((size_t)64 << 20)
#define MOAT_SUPPRESS_FILE_BYTES_FIRST ((size_t)64 << 10)
/* What an error line shows of a path or a bad word. */
#define MOAT_SUPPRESS_SHOWN_PATH 120u
#define MOAT_SUPPRESS_SHOWN_WORD 40u
#define MOAT_KIND_NAME_BYTES_MAX 32u
/* Changes of a letter that still count as a misspelling. */
#define MOAT_KIND_EDITS_MAX 4u
/* Calls inlined into each other at one address. */
#define MOAT_SUPPRESS_INLINED_MAX 32u
#define MOAT_BUG_ID_DIGITS 8u

struct rule {
    const char *pattern;
    uint32_t bug_id;
    uint8_t kind; /* MOAT_KIND_NONE: any */
    bool has_bug_id;
    bool any; /* nothing but wildcards: fits without a stack as well */
};

/* Read once at start; rules and the text they point into are mapped pages. */
static struct {
    struct rule *rules;
    size_t count;
} suppressions;

/* ---- error lines ------------------------------------------------------------------------------------------------------- */

/* Adds text from the file or the command line as it can be shown: cut, on one line. */
static void add_shown(struct moat_text_buffer *error, const char *text, size_t bytes) {
    for (size_t i = 0; i < bytes && i < MOAT_SUPPRESS_SHOWN_WORD; i++) {
        bool printable = (unsigned char)text[i] >= ' ' && text[i] != 127;
        moat_text_add_bytes(error, printable ? &text[i] : "?", 1);
    }
    moat_text_add(error, bytes > MOAT_SUPPRESS_SHOWN_WORD ? "..." : "");
}

static struct moat_text_buffer error_start(char *error, size_t error_bytes, const char *path, size_t line) {
    struct moat_text_buffer text = moat_text_begin(error, error_bytes);
    size_t path_bytes = strlen(path);
    moat_text_add(&text, "suppressions ");
    if (path_bytes > MOAT_SUPPRESS_SHOWN_PATH) {
        moat_text_add(&text, "...");
        path += path_bytes - MOAT_SUPPRESS_SHOWN_PATH;
    }
    moat_text_add(&text, path);
    if (line != 0) {
        moat_text_add(&text, ":");
        moat_text_add_number(&text, line, 10);
    }
    moat_text_add(&text, ": ");
    return text;
}

/* How many letters must change to make one word of the other (Levenshtein's distance, row by row). */
static size_t edit_distance(const char *word, size_t word_bytes, const char *name) {
    size_t row[MOAT_KIND_NAME_BYTES_MAX + 1];
    size_t name_bytes = strlen(name);
    for (size_t i = 0; i <= name_bytes; i++) {
        row[i] = i;
    }
    for (size_t i = 0; i < word_bytes; i++) {
        size_t diagonal = row[0];
        row[0] = i + 1;
        for (size_t j = 0; j < name_bytes; j++) {
            size_t best = diagonal + (word[i] != name[j]);
            best = row[j] + 1 < best ? row[j] + 1 : best;
            best = row[j + 1] + 1 < best ? row[j + 1] + 1 : best;
            diagonal = row[j + 1];
            row[j + 1] = best;
        }
    }
    return row[name_bytes];
}

static void error_kind(struct moat_text_buffer *error, const char *word, size_t word_bytes) {
    const char *nearest = NULL;
    size_t fewest = MOAT_KIND_EDITS_MAX + 1;
    for (unsigned kind = MOAT_KIND_NONE + 1; kind < MOAT_KIND_COUNT && word_bytes <= MOAT_KIND_NAME_BYTES_MAX; kind++) {
        size_t edits = edit_distance(word, word_bytes, moat_kind_name(kind));
        if (edits < fewest) {
            fewest = edits;
            nearest = moat_kind_name(kind);
        }
    }
    moat_text_add(error, "unknown kind \"");
    add_shown(error, word, word_bytes);
    moat_text_add(error,
                  nearest != NULL ? "\"; did you mean " : "\": it is * or a finding's kind, such as memory-leak");
    moat_text_add(error, nearest != NULL ? nearest : "");
    moat_text_add(error, nearest != NULL ? "?" : "");
}

/* ---- reading ----------------------------------------------------------------------------------------------------------- */

/* Reads a file whole, pipes included, into mapped pages. Gives 0 or an error number. */
static int read_whole(const char *path, char **text, size_t *text_bytes) {
    long descriptor = moat_sys_open(path, O_RDONLY, 0);
    if (moat_sys_failed(descriptor)) {
        return (int)-descriptor;
    }
    size_t room = MOAT_SUPPRESS_FILE_BYTES_FIRST;
    char *bytes = moat_pages_map(room, 0);
    size_t used = 0;
    long got = -ENOMEM;
    while (bytes != NULL && (got = moat_sys_read(descriptor, bytes + used, room - used)) > 0) {
        used += (size_t)got;
        if (used < room) {
            continue;
        }
        char *larger = room < MOAT_SUPPRESS_FILE_BYTES_MAX ? moat_pages_map(2 * room, 0) : NULL;
        if (larger != NULL) {
            memcpy(larger, bytes, used);
        }
        moat_pages_unmap(bytes, room);
        bytes = larger;
        room *= 2;
        got = room > MOAT_SUPPRESS_FILE_BYTES_MAX ? -EFBIG : -ENOMEM; /* counts when there is no larger one */
    }
    moat_sys_close(descriptor);
    if (got < 0 && bytes != NULL) {
        moat_pages_unmap(bytes, room);
    }
    *text = bytes; /* at least one byte behind the text is free, and zero */
    *text_bytes = used;
    return got < 0 ? (int)-got : 0;
}

static bool is_blank(char byte) { return byte == ' ' || byte == '\t' || byte == '\r'; }

static bool read_bug_id(const char *pattern, uint32_t *bug_id) {
    uint32_t id = 0;
    for (size_t i = 0; i < MOAT_BUG_ID_DIGITS; i++) {
        char digit = (char)(pattern[i] | ('a' - 'A')); /* leaves decimal digits as they are */
        if ((digit < '0' || digit > '9') && (digit < 'a' || digit > 'f')) {
            return false;
        }
        id = id << 4 | (uint32_t)(digit <= '9' ? digit - '0' : digit - 'a' + 10);
    }
    *bug_id = id;
    return pattern[MOAT_BUG_ID_DIGITS] == '\0';
}

/* Reads "kind:pattern", whose line ends with a NUL. False with what is wrong in `error`. */
static bool read_rule(char *line, struct rule *rule, struct moat_text_buffer *error) {
    char *colon = strchr(line, ':');
    if (colon == NULL) {
        moat_text_add(error, "no colon in \"");
        add_shown(error, line, strlen(line));
        moat_text_add(error, "\": a suppression is kind:pattern");
        return false;
    }
    size_t kind_bytes = (size_t)(colon - line);
    while (kind_bytes != 0 && is_blank(line[kind_bytes - 1])) {
        kind_bytes--;
    }
    line[kind_bytes] = '\0';
    char *pattern = colon + 1;
    while (is_blank(*pattern)) {
        pattern++;
    }
    *rule = (struct rule){.pattern = pattern, .kind = (uint8_t)moat_kind_of_name(line)};
    if (rule->kind == MOAT_KIND_NONE && strcmp(line, "*") != 0) {
        error_kind(error, line, kind_bytes);
        return false;
    }
    if (*pattern == '\0') {
        moat_text_add(error, "no pattern behind the colon: name a function, a module or a bug id, or write *");
        return false;
    }
    rule->any = pattern[strspn(pattern, "*")] == '\0';
    rule->has_bug_id = read_bug_id(pattern, &rule->bug_id);
    return true;
}

/* Goes through the lines, which it cuts off in place. */
static bool read_rules(char *text, size_t text_bytes, const char *path, char *error, size_t error_bytes) {
    char *end = text + text_bytes;
    size_t number = 0;
    for (char *line = text; line < end;) {
        number++;
        char *line_end = memchr(line, '\n', (size_t)(end - line));
        char *next = line_end != NULL ? line_end + 1 : end;
        line_end = line_end != NULL ? line_end : end;
        if (memchr(line, '\0', (size_t)(line_end - line)) != NULL) {
            struct moat_text_buffer said = error_start(error, error_bytes, path, number);
            moat_text_add(&said, "a NUL byte: this is not a text file");
            return false;
        }
        while (line_end > line && is_blank(line_end[-1])) {
            line_end--;
        }
        *line_end = '\0';
        while (is_blank(*line)) {
            line++;
        }
        if (*line != '\0' && *line != '#') {
            struct moat_text_buffer said = error_start(error, error_bytes, path, number);
            if (!read_rule(line, &suppressions.rules[suppressions.count], &said)) {
                return false;
            }
            suppressions.count++;
        }
        line = next;
    }
    return true;
}

bool moat_suppress_load(const char *path, char *error, size_t error_bytes) {
    char *text = NULL;
    size_t text_bytes = 0;
    int failed = read_whole(path, &text, &text_bytes);
    size_t lines = 1;
    for (size_t i = 0; failed == 0 && i < text_bytes; i++) {
        lines += text[i] == '\n';
    }
    suppressions.count = 0;
    suppressions.rules = failed == 0 ? moat_pages_map(lines * sizeof *suppressions.rules, 0) : NULL;
    if (suppressions.rules == NULL) {
        const char *name = failed != 0 ? strerrordesc_np(failed) : "out of memory";
        struct moat_text_buffer said = error_start(error, error_bytes, path, 0);
        moat_text_add(&said, "cannot be read: ");
        moat_text_add(&said, name != NULL ? name : "unknown error");
        return false;
    }
    error[0] = '\0';
    if (!read_rules(text, text_bytes, path, error, error_bytes)) {
        return false;
    }
    error[0] = '\0';
    return true;
}

/* ---- matching ---------------------------------------------------------------------------------------------------------- */

/* Whether a text fits a pattern in which * stands for any text. Linear in most cases, text times pattern at worst: a later
 * star makes all choices of earlier ones final. */
static bool fits(const char *pattern, const char *text, const char *text_end) {
    const char *star = NULL;
    const char *retry = NULL;
    while (text < text_end) {
        if (*pattern == '*') {
            star = ++pattern;
            retry = text;
        } else if (*pattern == *text) {
            pattern++;
            text++;
        } else if (star != NULL) {
            pattern = star;
            text = ++retry;
        } else {
            return false;
        }
    }
    return pattern[strspn(pattern, "*")] == '\0';
}

static bool fits_whole(const char *pattern, const char *text) { return fits(pattern, text, text + strlen(text)); }

/* A name without the "+0x1f" that a symboliser may have put behind it. */
static const char *name_end(const char *name) {
    const char *end = name + strlen(name);
    const char *plus = strrchr(name, '+');
    if (plus != NULL && plus[1] == '0' && plus[2] == 'x' && plus[3] != '\0' &&
        plus[3 + strspn(plus + 3, "0123456789abcdef")] == '\0') {
        return plus;
    }
    return end;
}

static bool rule_is_for(const struct rule *rule, const struct moat_report *report) {
    return rule->kind == MOAT_KIND_NONE || rule->kind == report->finding.kind;
}

static bool module_fits(const struct rule *rule, const struct moat_module *module) {
    return module != NULL &&
           (fits_whole(rule->pattern, module->path) || fits_whole(rule->pattern, moat_text_base_name(module->path)));
}

static bool frame_fits(const struct moat_report *report, const struct moat_frame *frame,
                       const struct moat_symboliser *symboliser) {
    struct moat_location locations[MOAT_SUPPRESS_INLINED_MAX];
    const struct moat_module *module = frame->module < report->module_count ? &report->modules[frame->module] : NULL;
    size_t count = symboliser->locate(symboliser->context, frame, module, locations, MOAT_SUPPRESS_INLINED_MAX);
    for (size_t i = 0; i < suppressions.count; i++) {
        const struct rule *rule = &suppressions.rules[i];
        if (!rule_is_for(rule, report)) {
            continue;
        }
        if (module_fits(rule, module)) {
            return true;
        }
        for (size_t j = 0; j < count; j++) {
            const char *function = locations[j].function;
            if (function != NULL && fits(rule->pattern, function, name_end(function))) {
                return true;
            }
        }
    }
    return false;
}

static bool stack_fits(const struct moat_report *report, enum moat_report_stack which,
                       const struct moat_symboliser *symboliser) {
    const struct moat_stack *stack = &report->stacks[which];
    for (unsigned i = 0; i < stack->frame_count; i++) {
        if (!stack->frames[i].own && frame_fits(report, &stack->frames[i], symboliser)) {
            return true;
        }
    }
    return false;
}

/* Whether any rule is for this kind, and whether one fits whatever the stacks say. */
static bool fits_without_stack(const struct moat_report *report, bool *worth_a_look) {
    *worth_a_look = false;
    for (size_t i = 0; i < suppressions.count; i++) {
        const struct rule *rule = &suppressions.rules[i];
        if (!rule_is_for(rule, report)) {
            continue;
        }
        if (rule->any || (rule->has_bug_id && rule->bug_id == report->bug_id)) {
            return true;
        }
        *worth_a_look = true;
    }
    return false;
}

bool moat_suppress_matches(const struct moat_report *report, const struct moat_symboliser *symboliser) {
    bool worth_a_look;
    if (report->type != MOAT_REPORT_FINDING) {
        return false;
    }
    if (fits_without_stack(report, &worth_a_look)) {
        return true;
    }
    if (!worth_a_look) {
        return false;
    }
    bool by_owner = false;
    bool by_releaser = false;
    switch (report->finding.kind) {
    case MOAT_HEAP_USE_AFTER_FREE:
        by_releaser = true;
        by_owner = true;
        break;
    case MOAT_HEAP_BUFFER_OVERFLOW:
    case MOAT_HEAP_BUFFER_UNDERFLOW:
    case MOAT_MEMORY_LEAK:
        by_owner = true;
        break;
    default:
        break;
    }
    return stack_fits(report, MOAT_STACK_FOUND, symboliser) ||
           (by_owner && stack_fits(report, MOAT_STACK_ALLOCATED, symboliser)) ||
           (by_releaser && stack_fits(report, MOAT_STACK_FREED, symboliser));
}
