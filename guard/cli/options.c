/* `moat options`: the option table for humans, and as the manual page moat-options(7).
 * May include: guard/cli, guard/option, moat/version.h and the C library. */
#include "guard/cli/cli.h"
#include "moat/version.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define VALUE_BYTES 64
#define HELP_COLUMNS 64 /* help is wrapped to this width */

/* What this build's options are when nobody sets them. */
static struct moat_options defaults;

static const char *default_of(const struct moat_option_info *info, char room[VALUE_BYTES]) {
    const void *member = (const unsigned char *)&defaults + info->offset;
    switch ((enum moat_option_type)info->type) {
    case MOAT_OPTION_IS_NUMBER:
        return moat_option_number_text(*(const uint64_t *)member, info->unit, room);
    case MOAT_OPTION_IS_BOOL:
        return *(const bool *)member ? "1" : "0";
    case MOAT_OPTION_IS_CHOICE:
        return moat_option_word(info->words, *(const uint8_t *)member, room, VALUE_BYTES) ? room : "?";
    case MOAT_OPTION_IS_STRING:
        break;
    }
    const char *text = *(const char *const *)member;
    return text[0] != '\0' ? text : "(none)";
}

static const char *range_of(const struct moat_option_info *info, char room[VALUE_BYTES]) {
    char least[MOAT_OPTION_NUMBER_BYTES];
    char most[MOAT_OPTION_NUMBER_BYTES];
    switch ((enum moat_option_type)info->type) {
    case MOAT_OPTION_IS_NUMBER:
        snprintf(room, VALUE_BYTES, "%s to %s", moat_option_number_text(info->least, info->unit, least),
                 info->most == UINT64_MAX ? "2^64-1" : moat_option_number_text(info->most, info->unit, most));
        return room;
    case MOAT_OPTION_IS_BOOL:
        return "0|1";
    case MOAT_OPTION_IS_CHOICE:
        return info->words;
    case MOAT_OPTION_IS_STRING:
        break;
    }
    return "text";
}

/* Prints text wrapped at blanks; every line but the first starts in `column`. */
static void wrap(const char *text, int column) {
    size_t left = strlen(text);
    while (left > HELP_COLUMNS) {
        size_t cut = HELP_COLUMNS;
        while (cut > 0 && text[cut] != ' ') {
            cut--;
        }
        cut = cut > 0 ? cut : HELP_COLUMNS;
        printf("%.*s\n%*s", (int)cut, text, column, "");
        text += cut + (text[cut] == ' ');
        left = strlen(text);
    }
    printf("%s\n", text);
}

static void print_table(void) {
    int widths[3] = {(int)strlen("OPTION"), (int)strlen("DEFAULT"), (int)strlen("RANGE")};
    char room[VALUE_BYTES];
    for (size_t i = 0; i < MOAT_OPTION_COUNT; i++) {
        const struct moat_option_info *info = &moat_option_table[i];
        int lengths[3] = {(int)strlen(info->name), (int)strlen(default_of(info, room)), 0};
        lengths[2] = (int)strlen(range_of(info, room));
        for (size_t k = 0; k < 3; k++) {
            widths[k] = lengths[k] > widths[k] ? lengths[k] : widths[k];
        }
    }
    int column = widths[0] + widths[1] + widths[2] + 6;
    printf("%-*s  %-*s  %-*s  MEANING\n", widths[0], "OPTION", widths[1], "DEFAULT", widths[2], "RANGE");
    for (size_t i = 0; i < MOAT_OPTION_COUNT; i++) {
        const struct moat_option_info *info = &moat_option_table[i];
        char range[VALUE_BYTES];
        printf("%-*s  %-*s  %-*s  ", widths[0], info->name, widths[1], default_of(info, room), widths[2],
               range_of(info, range));
        wrap(info->help, column);
    }
}

/* Roff takes a dot or quote at a line's start and every backslash for its own; `words` in backquotes become bold. */
static void print_roff(const char *text) {
    bool bold = false;
    for (; *text != '\0'; text++) {
        if (*text == '`') {
            bold = !bold;
            fputs(bold ? "\\fB" : "\\fR", stdout);
        } else if (*text == '\\') {
            fputs("\\e", stdout);
        } else if (*text == '-') {
            fputs("\\-", stdout);
        } else {
            putchar(*text);
        }
    }
    putchar('\n');
}

static void print_man(void) {
    char room[VALUE_BYTES];
    printf(".\\\" Made by `moat options --man` from guard/option/option.def.\n"
           ".TH MOAT\\-OPTIONS 7 \"\" \"moat %s\" \"Moat\"\n"
           ".SH NAME\n"
           "moat\\-options \\- options of Moat's debug heap\n"
           ".SH SYNOPSIS\n"
           ".B moat run\n.RB [ \\-o\n.IR KEY = VALUE ]...\n.I PROGRAM\n.br\n"
           ".RI MOAT_OPTIONS= KEY = VALUE : KEY = VALUE\n.I PROGRAM\n"
           ".SH DESCRIPTION\n"
           "Moat reads its options from the environment variable\n.BR MOAT_OPTIONS ,\n"
           "unless the program runs with more rights than its user, and from the string\n"
           ".B moat_default_options\nof the program, where it has one.\n"
           "With\n.BR \"moat run\" ,\noptions given by\n.B \\-o\ngo over those of the environment.\n"
           "Of two equal keys the last one counts.\n"
           ".PP\n"
           "Numbers are decimal, or hexadecimal after 0x; those that count bytes may end in K, M or G.\n"
           "Switches take 0, 1, no, yes, off, on, false and true.\n"
           "In a text, a colon is written \\fB\\e:\\fR and a backslash \\fB\\e\\e\\fR.\n"
           "A key that does not exist or a value out of range stops the start with one line that says so.\n"
           ".SH OPTIONS\n",
           MOAT_VERSION);
    for (size_t i = 0; i < MOAT_OPTION_COUNT; i++) {
        const struct moat_option_info *info = &moat_option_table[i];
        printf(".TP\n.B %s\n", info->name);
        print_roff(info->help);
        if (info->live) {
            printf("It may be changed while the program runs, with moat_set_option.\n");
        }
        printf(".br\nDefault: ");
        print_roff(default_of(info, room));
        printf(".br\nRange: ");
        print_roff(range_of(info, room));
    }
    printf(".SH SEE ALSO\n.BR moat (1),\n.BR moat (3)\n");
}

/* A header that a build of Moat's can include to have other defaults: -DMOAT_CONFIG_HEADER='"moat_config.h"'. */
static void print_config(void) {
    char room[VALUE_BYTES];
    printf("/* Defaults of Moat %s's options, made by `moat options --config`. Take the slashes off a line, change its value, and build with\n"
           " *   make CFLAGS='-DMOAT_CONFIG_HEADER=\"<path of this file>\"'\n"
           " * Values are written as in MOAT_OPTIONS, texts without quotes. A value that cannot be stops the build. */\n",
           MOAT_VERSION);
    for (size_t i = 0; i < MOAT_OPTION_COUNT; i++) {
        const struct moat_option_info *info = &moat_option_table[i];
        bool is_empty = info->type == MOAT_OPTION_IS_STRING && default_of(info, room)[0] == '(';
        printf("\n/* %s */\n//#define MOAT_DEFAULT_%s %s\n", info->help, info->name, is_empty ? "" : default_of(info, room));
    }
}

int moat_cli_options(int argc, char **argv) {
    static const struct {
        const char *argument;
        void (*print)(void);
    } forms[] = {{"--man", print_man}, {"--config", print_config}};
    char error[MOAT_OPTION_ERROR_BYTES];
    void (*print)(void) = argc == 1 ? print_table : NULL;
    for (size_t i = 0; argc == 2 && i < sizeof forms / sizeof forms[0]; i++) {
        print = strcmp(argv[1], forms[i].argument) == 0 ? forms[i].print : print;
    }
    if (print == NULL) {
        moat_cli_complain("options: unknown argument \"%s\"; see `moat help options`", argv[1]);
        return MOAT_EXIT_USAGE;
    }
    if (!moat_options_build(&defaults, error)) {
        moat_cli_complain("options: this build's own default: %s", error);
        return MOAT_EXIT_USAGE;
    }
    print();
    if (fflush(stdout) != 0 || ferror(stdout)) {
        moat_cli_complain("cannot write to standard output: %s", strerror(errno));
        return MOAT_EXIT_USAGE;
    }
    return 0;
}
