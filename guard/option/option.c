/* The option table and the parser of MOAT_OPTIONS.
 * May include: guard/option and freestanding headers, string.h for mem* and str* only. */
#include "guard/option/option.h"

#include <string.h>

/* A build's own defaults: macros MOAT_DEFAULT_<option>, given with -D or in a header that -DMOAT_CONFIG_HEADER names. Their text is read
 * by the parser, so that "64K" and "continue" work, and one that is not defined is known by its text: its own name. */
#ifdef MOAT_CONFIG_HEADER
#include MOAT_CONFIG_HEADER
#endif
#define TEXT_OF_EXPANDED(tokens) #tokens
#define TEXT_OF(tokens) TEXT_OF_EXPANDED(tokens)
#define UNDEFINED_PREFIX "MOAT_DEFAULT_"

#define ROW(member, kind)                                                                                              \
    .name = #member, .build_default = TEXT_OF(MOAT_DEFAULT_##member),                                                  \
    .offset = (uint16_t)offsetof(struct moat_options, member), .type = (kind)
#define MOAT_LIVE  true
#define MOAT_FIXED false
#define MOAT_OPTION_NUMBER(member, value, low, high, of, text, changes)                                                         \
    {ROW(member, MOAT_OPTION_IS_NUMBER),                                                                               \
     .default_value = (value),                                                                                         \
     .least = (low),                                                                                                   \
     .most = (high),                                                                                                   \
     .unit = (of),                                                                                                     \
     .help = (text),                                                                                                   \
     .live = (changes)},
#define MOAT_OPTION_BOOL(member, value, text, changes)                                                                          \
    {ROW(member, MOAT_OPTION_IS_BOOL), .default_value = (value), .help = (text), .live = (changes)},
#define MOAT_OPTION_CHOICE(member, value, choices, text, changes)                                                               \
    {ROW(member, MOAT_OPTION_IS_CHOICE), .default_value = (value), .words = (choices), .help = (text), .live = (changes)},
#define MOAT_OPTION_STRING(member, value, text, changes)                                                                        \
    {ROW(member, MOAT_OPTION_IS_STRING), .default_text = (value), .help = (text), .live = (changes)},
const struct moat_option_info moat_option_table[MOAT_OPTION_COUNT] = {
#include "guard/option/option.def"
};

_Static_assert(MOAT_OPTION_COUNT <= 64, "struct moat_options keeps one bit per option in a uint64_t");

#define NAME_BYTES_MAX 32  /* no key is longer; also bounds the edit distance's table */
#define SHOWN_BYTES_MAX 48 /* this much of a user's own text is repeated in an error line */
#define NEAR_EDITS_MAX 4   /* further away, a suggestion would only confuse */

/* ---- an error line, built without stdio ---- */

struct line {
    char *text;
    size_t used_bytes;
};

static void line_bytes(struct line *line, const char *bytes, size_t count) {
    size_t room = MOAT_OPTION_ERROR_BYTES - 1 - line->used_bytes;
    if (count > room) {
        count = room;
    }
    memcpy(line->text + line->used_bytes, bytes, count);
    line->used_bytes += count;
    line->text[line->used_bytes] = '\0';
}

static void line_text(struct line *line, const char *text) { line_bytes(line, text, strlen(text)); }

static void line_number(struct line *line, uint64_t value, const char *unit) {
    char room[MOAT_OPTION_NUMBER_BYTES];
    line_text(line, moat_option_number_text(value, unit, room));
}

/* A user's text goes to a terminal, so control bytes are not passed on. */
static void line_shown(struct line *line, const char *text, size_t count) {
    bool cut = count > SHOWN_BYTES_MAX;
    for (size_t i = 0; i < (cut ? SHOWN_BYTES_MAX : count); i++) {
        char byte = text[i] >= ' ' && text[i] <= '~' ? text[i] : '?';
        line_bytes(line, &byte, 1);
    }
    if (cut) {
        line_text(line, "...");
    }
}

const char *moat_option_number_text(uint64_t value, const char *unit, char *room) {
    const char *suffix = "";
    if (unit != NULL && strcmp(unit, "bytes") == 0 && value != 0) {
        static const char *const suffixes[] = {"K", "M", "G"};
        for (size_t i = 0; i < 3 && value % 1024 == 0; i++) {
            value /= 1024;
            suffix = suffixes[i];
        }
    }
    char *end = room + MOAT_OPTION_NUMBER_BYTES - 1;
    char *next = end;
    *next = '\0';
    if (*suffix != '\0') {
        *--next = *suffix;
    }
    do {
        *--next = (char)('0' + value % 10);
        value /= 10;
    } while (value != 0);
    memmove(room, next, (size_t)(end - next) + 1);
    return room;
}

bool moat_option_word(const char *words, uint64_t index, char *room, size_t room_bytes) {
    for (; index > 0; index--) {
        words = strchr(words, '|');
        if (words == NULL) {
            return false;
        }
        words++;
    }
    const char *end = strchr(words, '|');
    size_t length = end != NULL ? (size_t)(end - words) : strlen(words);
    if (length >= room_bytes) {
        return false;
    }
    memcpy(room, words, length);
    room[length] = '\0';
    return true;
}

/* ---- the nearest key ---- */

static size_t least_of(size_t one, size_t two) { return one < two ? one : two; }

/* How many single-byte changes lead from `key` to `name` (Levenshtein), by rows. */
static size_t edit_distance(const char *key, size_t key_length, const char *name) {
    size_t row[NAME_BYTES_MAX + 1];
    size_t name_length = strlen(name);
    for (size_t column = 0; column <= name_length; column++) {
        row[column] = column;
    }
    for (size_t i = 1; i <= key_length; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t column = 1; column <= name_length; column++) {
            size_t above = row[column];
            size_t change = diagonal + (key[i - 1] != name[column - 1]);
            row[column] = least_of(change, least_of(above, row[column - 1]) + 1);
            diagonal = above;
        }
    }
    return row[name_length];
}

static const char *nearest_key(const char *key, size_t length) {
    const char *nearest = NULL;
    size_t fewest = least_of(NEAR_EDITS_MAX, length / 2) + 1;
    if (length > NAME_BYTES_MAX) {
        return NULL;
    }
    for (size_t i = 0; i < MOAT_OPTION_COUNT; i++) {
        size_t edits = edit_distance(key, length, moat_option_table[i].name);
        if (edits < fewest) {
            fewest = edits;
            nearest = moat_option_table[i].name;
        }
    }
    return nearest;
}

/* ---- values ---- */

static bool same(const char *text, size_t length, const char *word) {
    return strlen(word) == length && memcmp(text, word, length) == 0;
}

static bool read_bool(const char *value, size_t length, bool *result) {
    static const char *const words[] = {"0", "no", "off", "false", "1", "yes", "on", "true"};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        if (same(value, length, words[i])) {
            *result = i >= sizeof words / sizeof *words / 2;
            return true;
        }
    }
    return false;
}

static int digit_of(char byte, unsigned base) {
    int digit = byte >= '0' && byte <= '9'                 ? byte - '0'
                : base == 16 && byte >= 'a' && byte <= 'f' ? byte - 'a' + 10
                : base == 16 && byte >= 'A' && byte <= 'F' ? byte - 'A' + 10
                                                           : -1;
    return digit;
}

static unsigned suffix_shift(char suffix) {
    return suffix == 'K' || suffix == 'k'   ? 10
           : suffix == 'M' || suffix == 'm' ? 20
           : suffix == 'G' || suffix == 'g' ? 30
                                            : 0;
}

/* What a number's text amounts to. TOO_LARGE is told apart from nonsense so that the error can speak of the range. */
enum number_result { NUMBER_OK, NUMBER_TOO_LARGE, NUMBER_NONSENSE };

static enum number_result read_number(const char *value, size_t length, const char *unit, uint64_t *result) {
    unsigned shift = 0;
    if (length > 0 && strcmp(unit, "bytes") == 0) {
        shift = suffix_shift(value[length - 1]);
        length -= shift != 0;
    }
    unsigned base = 10;
    if (length > 2 && value[0] == '0' && (value[1] == 'x' || value[1] == 'X')) {
        base = 16;
        value += 2;
        length -= 2;
    }
    if (length == 0) {
        return NUMBER_NONSENSE;
    }
    uint64_t number = 0;
    bool too_large = false;
    for (size_t i = 0; i < length; i++) {
        int digit = digit_of(value[i], base);
        if (digit < 0) {
            return NUMBER_NONSENSE;
        }
        too_large = too_large || number > (UINT64_MAX - (uint64_t)digit) / base;
        number = number * base + (uint64_t)digit;
    }
    if (too_large || number > UINT64_MAX >> shift) {
        return NUMBER_TOO_LARGE;
    }
    *result = number << shift;
    return NUMBER_OK;
}

static bool read_choice(const char *value, size_t length, const char *words, uint8_t *result) {
    char word[NAME_BYTES_MAX];
    for (uint8_t i = 0; moat_option_word(words, i, word, sizeof word); i++) {
        if (same(value, length, word)) {
            *result = i;
            return true;
        }
    }
    return false;
}

/* Copies a string's value, undoing "\:" and "\\". NULL when there is no room. */
static const char *keep_string(struct moat_option_text *text, const char *value, size_t length) {
    size_t start = text->used_bytes;
    size_t used = start;
    for (size_t i = 0; i < length; i++) {
        if (value[i] == '\\' && i + 1 < length && (value[i + 1] == ':' || value[i + 1] == '\\')) {
            i++;
        }
        if (used + 1 >= MOAT_OPTION_TEXT_BYTES) {
            return NULL;
        }
        text->bytes[used++] = value[i];
    }
    if (used >= MOAT_OPTION_TEXT_BYTES) {
        return NULL;
    }
    text->bytes[used++] = '\0';
    text->used_bytes = used;
    return text->bytes + start;
}

/* ---- the parser ---- */

static void *member_of(struct moat_options *options, const struct moat_option_info *info) {
    return (unsigned char *)options + info->offset;
}

static void table_defaults(struct moat_options *options) {
    memset(options, 0, sizeof *options);
    for (size_t i = 0; i < MOAT_OPTION_COUNT; i++) {
        const struct moat_option_info *info = &moat_option_table[i];
        void *member = member_of(options, info);
        switch ((enum moat_option_type)info->type) {
        case MOAT_OPTION_IS_NUMBER:
            *(uint64_t *)member = info->default_value;
            break;
        case MOAT_OPTION_IS_BOOL:
            *(bool *)member = info->default_value != 0;
            break;
        case MOAT_OPTION_IS_CHOICE:
            *(uint8_t *)member = (uint8_t)info->default_value;
            break;
        case MOAT_OPTION_IS_STRING:
            *(const char **)member = info->default_text;
            break;
        }
    }
}

static void complain_range(struct line *line, const struct moat_option_info *info) {
    line_text(line, " is out of range: it takes ");
    line_number(line, info->least, info->unit);
    line_text(line, " to ");
    line_number(line, info->most, info->unit);
    line_text(line, *info->unit != '\0' ? " bytes" : "");
}

/* Sets one option. On failure `line`, which names the option already, gets the reason. */
static bool set_option(struct moat_options *options, struct moat_option_text *text, const struct moat_option_info *info,
                       const char *value, size_t length, struct line *line) {
    void *member = member_of(options, info);
    switch ((enum moat_option_type)info->type) {
    case MOAT_OPTION_IS_NUMBER: {
        uint64_t number = 0;
        enum number_result result = read_number(value, length, info->unit, &number);
        if (result == NUMBER_NONSENSE) {
            line_text(line, " is not a number: it takes ");
            line_number(line, info->least, info->unit);
            line_text(line, " to ");
            line_number(line, info->most, info->unit);
            line_text(line, *info->unit != '\0' ? " bytes, also with a K, M or G" : "");
            return false;
        }
        if (result == NUMBER_TOO_LARGE || number < info->least || number > info->most) {
            complain_range(line, info);
            return false;
        }
        *(uint64_t *)member = number;
        return true;
    }
    case MOAT_OPTION_IS_BOOL:
        if (!read_bool(value, length, member)) {
            line_text(line, " is neither yes nor no: it takes 0, 1, no, yes, off, on, false or true");
            return false;
        }
        return true;
    case MOAT_OPTION_IS_CHOICE:
        if (!read_choice(value, length, info->words, member)) {
            line_text(line, " is none of ");
            line_text(line, info->words);
            return false;
        }
        return true;
    case MOAT_OPTION_IS_STRING:
        break;
    }
    const char *kept = keep_string(text, value, length);
    if (kept == NULL) {
        line_text(line, " is too long: all texts together may have 4096 bytes");
        return false;
    }
    *(const char **)member = kept;
    return true;
}

static bool parse_part(struct moat_options *options, struct moat_option_text *text, const char *part, size_t length,
                       struct line *line) {
    const char *equals = memchr(part, '=', length);
    size_t key_length = equals != NULL ? (size_t)(equals - part) : length;
    size_t index = 0;
    while (index < MOAT_OPTION_COUNT && !same(part, key_length, moat_option_table[index].name)) {
        index++;
    }
    if (index == MOAT_OPTION_COUNT) {
        const char *nearest = nearest_key(part, key_length);
        line_text(line, "unknown option \"");
        line_shown(line, part, key_length);
        line_text(line, nearest != NULL ? "\"; did you mean " : "\"; `moat options` lists them");
        line_text(line, nearest != NULL ? nearest : "");
        line_text(line, nearest != NULL ? "?" : "");
        return false;
    }
    line_text(line, "option ");
    line_shown(line, part, length);
    if (equals == NULL) {
        line_text(line, " has no value: write ");
        line_text(line, moat_option_table[index].name);
        line_text(line, "=VALUE");
        return false;
    }
    if (!set_option(options, text, &moat_option_table[index], equals + 1, length - key_length - 1, line)) {
        return false;
    }
    options->set |= (uint64_t)1 << index;
    return true;
}

/* The text of a build's own default; NULL: there is none. */
static const char *build_default(const struct moat_option_info *info) {
    bool is_defined = strncmp(info->build_default, UNDEFINED_PREFIX, sizeof UNDEFINED_PREFIX - 1) != 0;
    return is_defined ? info->build_default : NULL;
}

bool moat_options_build(struct moat_options *options, char *error) {
    bool understood = true;
    table_defaults(options);
    error[0] = '\0';
    for (size_t i = 0; i < MOAT_OPTION_COUNT; i++) {
        const struct moat_option_info *info = &moat_option_table[i];
        const char *given = build_default(info);
        struct line line = {.text = error, .used_bytes = 0};
        if (given != NULL && info->type == MOAT_OPTION_IS_STRING) {
            *(const char **)member_of(options, info) = given;
        } else if (given != NULL && understood) {
            line_text(&line, UNDEFINED_PREFIX);
            line_text(&line, info->name);
            understood = set_option(options, NULL, info, given, strlen(given), &line);
        }
    }
    return understood;
}

void moat_options_default(struct moat_options *options) {
    char error[MOAT_OPTION_ERROR_BYTES];
    moat_options_build(options, error);
}

bool moat_options_parse(struct moat_options *options, struct moat_option_text *text, const char *given, char *error) {
    error[0] = '\0';
    while (given != NULL && *given != '\0') {
        size_t length = 0;
        while (given[length] != '\0' && given[length] != ':') {
            length += given[length] == '\\' && given[length + 1] != '\0' ? 2 : 1;
        }
        struct line line = {.text = error, .used_bytes = 0};
        if (length > 0 && !parse_part(options, text, given, length, &line)) {
            return false;
        }
        error[0] = '\0';
        given += length + (given[length] == ':');
    }
    return true;
}
