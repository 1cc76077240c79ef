/* The report: a finding with its stacks resolved, as it travels from the process that made it to whoever reads it.
 * May include: moat/finding.h and freestanding headers. Nothing here allocates, locks or calls the C library, so that all of it
 * works in a fatal signal's handler and in firmware; the command line tool uses the same code.
 *
 *   engine -> struct moat_finding -> (entry resolves stacks) -> struct moat_report -> text | JSON | bytes in the spool
 *                                                                      spool bytes -> struct moat_report (in `moat run`)
 */
#ifndef MOAT_GUARD_REPORT_H
#define MOAT_GUARD_REPORT_H

#include "moat/finding.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MOAT_STACK_FRAMES_MAX 256
#define MOAT_REPORT_MODULES_MAX 48
#define MOAT_PATH_BYTES 512
#define MOAT_COMMAND_BYTES 1024
#define MOAT_NOTE_BYTES 512
#define MOAT_BUILD_ID_BYTES 20
#define MOAT_NO_MODULE UINT16_MAX

/* A module (program or shared object) as it was loaded when a frame in it was first seen. */
struct moat_module {
    char path[MOAT_PATH_BYTES]; /* NUL-terminated; any bytes but NUL */
    uint64_t bias;              /* load address minus link address */
    uint8_t build_id[MOAT_BUILD_ID_BYTES];
    uint8_t build_id_bytes; /* 0: it has none */
};

/* One frame. `pc` is the return address, or the exact address where `exact` says so (a fault). */
struct moat_frame {
    uint64_t pc;
    uint16_t module; /* index into the report's modules; MOAT_NO_MODULE: none known */
    uint8_t exact;
    uint8_t own; /* a frame of Moat's own code: left out of what is shown */
};

struct moat_stack {
    uint16_t frame_count;
    uint8_t incomplete;                              /* the stack went on, but could not be followed or kept */
    struct moat_frame frames[MOAT_STACK_FRAMES_MAX]; /* innermost first */
};

enum moat_report_type {
    MOAT_REPORT_FINDING = 1,
    MOAT_REPORT_CHECK_IN, /* a process runs under Moat; sent once from its start */
    MOAT_REPORT_EXEC, /* a process is about to execute `note` (path); `value[0]`: pid it will have; another one than `pid`
                              has been started already, so that its check-in may come before this record */
    MOAT_REPORT_EXEC_GONE,  /* that exec failed */
    MOAT_REPORT_SUMMARY,    /* once at the end of a process: what was found and what could not be checked */
    MOAT_REPORT_NOTE,       /* one line for the user: `note` */
    MOAT_REPORT_NOT_COVERED /* made by `moat run`: `program` never came under Moat; `note` says why */
};

/* MOAT_REPORT_SUMMARY: how the leak check ended. */
enum moat_leak_outcome { MOAT_LEAKS_NOT_ASKED, MOAT_LEAKS_CLEAN, MOAT_LEAKS_FOUND, MOAT_LEAKS_COULD_NOT_RUN };

struct moat_summary {
    uint64_t findings;   /* printed ones, leaks not counted */
    uint64_t repeats;    /* findings that had a bug id seen before */
    uint64_t suppressed; /* findings, leaks included, that a suppression took out */
    uint64_t leak_groups, leak_definite_blocks, leak_definite_bytes, leak_indirect_blocks, leak_indirect_bytes;
    uint64_t live_blocks, live_bytes; /* at the end */
    uint64_t allocations;             /* made in all */
    uint8_t leak_outcome; /* enum moat_leak_outcome; the reason for COULD_NOT_RUN is in the report's `note` */
};

enum moat_report_stack {
    MOAT_STACK_FOUND,
    MOAT_STACK_ALLOCATED,
    MOAT_STACK_FREED,
    MOAT_STACK_BEFORE,
    MOAT_STACK_AFTER,
    MOAT_STACK_COUNT
};
/* BEFORE and AFTER are the allocation stacks of finding.neighbour[0] and [1]. */

struct moat_report {
    uint8_t type;      /* enum moat_report_type */
    uint8_t word_bits; /* 32 or 64, of the process that made it */
    uint16_t module_count;
    uint32_t bug_id;  /* MOAT_REPORT_FINDING */
    uint64_t repeats; /* how often this bug id was found before in this process */
    int64_t pid;
    uint64_t value[2];
    char program[MOAT_PATH_BYTES];    /* path of the executable */
    char command[MOAT_COMMAND_BYTES]; /* arguments joined by single blanks, cut with "..." */
    char note[MOAT_NOTE_BYTES];
    char place_name
        [MOAT_PATH_BYTES]; /* what finding.address lies in, where known: "stack of thread 1", "/usr/lib/libz.so" */
    struct moat_finding finding;
    struct moat_summary summary;
    struct moat_stack stacks[MOAT_STACK_COUNT];
    struct moat_module modules[MOAT_REPORT_MODULES_MAX];
};

/* ---- output -------------------------------------------------------------------------------------------------------- */

/* Where rendered text goes. `write` takes all of it or drops it; it must not fail loudly. */
struct moat_sink {
    void (*write)(void *context, const char *text, size_t length_bytes);
    void *context;
};

/* ---- names for frames ---------------------------------------------------------------------------------------------- */

/* A frame's place in the source. A pc has more than one where calls were inlined: innermost first. */
struct moat_location {
    const char *function;     /* NULL unknown; demangled where the symboliser can */
    const char *file;         /* NULL unknown */
    uint32_t line;            /* 0 unknown */
    bool inlined;             /* this function was inlined into the next location's */
    uint64_t function_offset; /* of the pc from the function's start; shown where there is no line; 0 unknown */
};

struct moat_symboliser {
    /* Names a frame.
     * Takes:   the frame, its module (NULL: none known), room for `most` locations.
     * Gives:   how many were filled; 0 when nothing is known. The strings live until the next call.
     * Context: may be called from a signal handler when it belongs to the process itself. */
    size_t (*locate)(void *context, const struct moat_frame *frame, const struct moat_module *module,
                     struct moat_location *locations, size_t most);
    void *context;
};

/* ---- renderers (text.c, json.c, sarif.c) --------------------------------------------------------------------------- */

/* Renders one report as text for a human. `colour`: ANSI colours. Unknown values never stop it: what is absent is left out.
 * Cost: under 8 KiB of stack. Context: any; does not allocate. */
void moat_report_text(const struct moat_report *report, const struct moat_symboliser *symboliser, bool colour,
                      struct moat_sink sink);

/* Renders one report as one line of JSON (schema 1), the newline included. */
void moat_report_json(const struct moat_report *report, const struct moat_symboliser *symboliser,
                      struct moat_sink sink);

/* Stable names: "heap-buffer-overflow", "free", "live", "malloc", "definite". "?" for values out of range. */
const char *moat_kind_name(unsigned kind);
const char *moat_when_name(unsigned when);
const char *moat_state_name(unsigned state);
const char *moat_family_name(unsigned family);
const char *moat_leak_class_name(unsigned leak_class);
/* The kind of that name; MOAT_KIND_NONE when there is none. */
unsigned moat_kind_of_name(const char *name);

/* ---- spool (spool.c) ----------------------------------------------------------------------------------------------- */

/* Writes a report in its compact form: a checksummed, length-prefixed record that `moat_report_decode` reads back. Only
 * what is used is written (frames, modules, strings).
 * Takes:   room of `most` bytes.
 * Gives:   the record's length, or 0 when it did not fit; MOAT_RECORD_BYTES_MAX always fits. */
size_t moat_report_encode(const struct moat_report *report, unsigned char *record, size_t most);
#define MOAT_RECORD_BYTES_MAX (64u << 10)

/* A record that a process sends about itself, of type CHECK_IN, EXEC, EXEC_GONE or NOTE: little enough for the stack of a child
 * that shares its parent's memory. No string is NULL; one that is too long for its place in struct moat_report is cut. */
struct moat_brief {
    uint8_t type;
    int64_t pid;
    uint64_t value[2];
    const char *program, *command, *note;
};
/* Writes it as moat_report_encode would write a report with these members and nothing else; MOAT_BRIEF_BYTES_MAX always fits. */
size_t moat_brief_encode(const struct moat_brief *brief, unsigned char *record, size_t most);
#define MOAT_BRIEF_BYTES_MAX (MOAT_PATH_BYTES + MOAT_COMMAND_BYTES + MOAT_NOTE_BYTES + 64u)

enum moat_decode_result {
    MOAT_DECODE_OK,      /* report filled, *used_bytes consumed */
    MOAT_DECODE_MORE,    /* a record's beginning: wait for more bytes */
    MOAT_DECODE_DAMAGED, /* not a record or damaged: *used_bytes may be skipped to look for the next */
};
/* Reads one record; trusts nothing in it. */
enum moat_decode_result moat_report_decode(const unsigned char *bytes, size_t length, struct moat_report *report,
                                           size_t *used_bytes);

#endif
