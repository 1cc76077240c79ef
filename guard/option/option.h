/* The options of a run: what MOAT_OPTIONS may say, and the struct it is read into.
 * May include: freestanding headers. Nothing here allocates, locks or calls more than mem* and str*, so that it works
 * before the C library is initialised and on a device.
 *
 * option.def is the one place that lists options; struct, parser, `moat options` and moat-options(7) all come from it.
 */
#ifndef MOAT_GUARD_OPTION_H
#define MOAT_GUARD_OPTION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* One member per option, under the option's own name: numbers are uint64_t, choices the index of the chosen word. */
struct moat_options {
#define MOAT_OPTION_NUMBER(name, ...) uint64_t name;
#define MOAT_OPTION_BOOL(name, ...) bool name;
#define MOAT_OPTION_CHOICE(name, ...) uint8_t name;
#define MOAT_OPTION_STRING(name, ...) const char *name;
#include "guard/option/option.def"
#undef MOAT_OPTION_NUMBER
#undef MOAT_OPTION_BOOL
#undef MOAT_OPTION_CHOICE
#undef MOAT_OPTION_STRING
    uint64_t set; /* bit i: the option with id i was given, not left at its default */
};

/* MOAT_OPTION_ID_exitcode and so on, in the table's order. */
enum moat_option_id {
#define MOAT_OPTION_NUMBER(name, ...) MOAT_OPTION_ID_##name,
#define MOAT_OPTION_BOOL(name, ...) MOAT_OPTION_ID_##name,
#define MOAT_OPTION_CHOICE(name, ...) MOAT_OPTION_ID_##name,
#define MOAT_OPTION_STRING(name, ...) MOAT_OPTION_ID_##name,
#include "guard/option/option.def"
#undef MOAT_OPTION_NUMBER
#undef MOAT_OPTION_BOOL
#undef MOAT_OPTION_CHOICE
#undef MOAT_OPTION_STRING
    MOAT_OPTION_COUNT
};

/* The words of the choices, in the table's order; option.c proves that they agree with it. */
enum moat_on_error { MOAT_ON_ERROR_ABORT, MOAT_ON_ERROR_CONTINUE, MOAT_ON_ERROR_EXIT };
enum moat_format { MOAT_FORMAT_TEXT, MOAT_FORMAT_JSON };
enum moat_colour { MOAT_COLOUR_AUTO, MOAT_COLOUR_ALWAYS, MOAT_COLOUR_NEVER };
enum moat_realloc_moves { MOAT_REALLOC_MOVES_AUTO, MOAT_REALLOC_MOVES_ALWAYS };

enum moat_option_type { MOAT_OPTION_IS_NUMBER, MOAT_OPTION_IS_BOOL, MOAT_OPTION_IS_CHOICE, MOAT_OPTION_IS_STRING };

/* One row of the table, for those who print it. */
struct moat_option_info {
    const char *name;
    const char *help;
    const char *unit;         /* numbers: "bytes" or "" */
    const char *words;        /* choices: "a|b|c" */
    const char *default_text; /* strings */
    const char *build_default; /* text of the build's own default, or the macro's name when there is none */
    uint64_t default_value;   /* numbers, bools (0, 1), choices (index) */
    uint64_t least, most;     /* numbers */
    uint16_t offset;          /* of the member in struct moat_options */
    uint8_t type;             /* enum moat_option_type */
    bool live;                /* may be changed while the program runs */
};

extern const struct moat_option_info moat_option_table[MOAT_OPTION_COUNT];

/* Room for the values of the string options, all of them together. */
#define MOAT_OPTION_TEXT_BYTES 4096
struct moat_option_text {
    char bytes[MOAT_OPTION_TEXT_BYTES];
    size_t used_bytes;
};

/* Room for any error line, its NUL included. */
#define MOAT_OPTION_ERROR_BYTES 256
/* Room for any number as moat_option_number_text writes it. */
#define MOAT_OPTION_NUMBER_BYTES 24

/* Sets every option to its default and none as given. Defaults of the build's own (MOAT_DEFAULT_<option>) go over the table's; one that
 * is not understood leaves the table's. */
void moat_options_default(struct moat_options *options);

/* The same.
 * Gives:   false when one of the build's own was not understood, with one line in `error`, room of MOAT_OPTION_ERROR_BYTES. */
bool moat_options_build(struct moat_options *options, char *error);

/* Reads "key=value:key=value" over what `options` holds; the last of two equal keys wins. In a string value "\:" stands
 * for a colon and "\\" for a backslash. Empty parts are skipped. Bools take 0, 1, no, yes, off, on, false, true;
 * numbers are decimal or 0x...
 * Takes:   options set by moat_options_default; text, zeroed before its first use, which keeps the strings; given, may
 *          be NULL; error, room of MOAT_OPTION_ERROR_BYTES.
 * Gives:   true when all of it was understood.
 * Fails:   false at the first part that was not, with one line in `error` (without a newline) that names it, what it
 *          may be, and for an unknown key the nearest known one. The parts before it were set.
 * Owns:    string options point into `text`, which must live as long as they are used. */
bool moat_options_parse(struct moat_options *options, struct moat_option_text *text, const char *given, char *error);

/* Whether the option was given rather than left at its default. */
static inline bool moat_option_is_set(const struct moat_options *options, enum moat_option_id id) {
    return (options->set >> (unsigned)id & 1) != 0;
}

/* Writes a number as the parser would read it, with a K, M or G when the unit is bytes and nothing is lost by it.
 * Takes:   room of MOAT_OPTION_NUMBER_BYTES.
 * Gives:   `room`. */
const char *moat_option_number_text(uint64_t value, const char *unit, char *room);

/* Copies word number `index` of "a|b|c"; false when it has fewer or the word does not fit. */
bool moat_option_word(const char *words, uint64_t index, char *room, size_t room_bytes);

#endif
