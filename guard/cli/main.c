/* The `moat` command: finds the subcommand, shows help.
 * May include: guard/cli, moat/version.h and the C library. */
#define _GNU_SOURCE
#include "guard/cli/cli.h"
#include "moat/version.h"

#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct topic {
    const char *name;
    int (*command)(int argc, char **argv);
    const char *help;
};

static const struct topic topics[] = {
    {"run", moat_cli_run,
     "Usage: moat run [OPTION]... [--] PROGRAM [ARG...]\n"
     "Runs PROGRAM on Moat's heap and reports what it does wrong with its memory.\n"
     "\n"
     "  -o KEY=VALUE       set an option of the heap; `moat options` lists them\n"
     "  --format FORMAT    text (the default) or json, one object a line\n"
     "  --report FILE      append the reports to FILE instead of standard error;\n"
     "                     %p in its name becomes the process id\n"
     "  --                 what follows is the program, even if it begins with -\n"
     "\n"
     "Exit status: that of PROGRAM. Where it would have been 0:\n"
     "  23    PROGRAM leaked memory (option leak_exitcode)\n"
     "  66    it had other findings and went on (option exitcode)\n"
     "  24    a check could not run, or PROGRAM did not come under Moat\n"
     "Of moat itself:\n"
     "  125   usage error, or moat could not set up the run\n"
     "  126   PROGRAM cannot be executed\n"
     "  127   PROGRAM was not found\n"
     "\n"
     "Environment: MOAT_OPTIONS (options, KEY=VALUE:KEY=VALUE; -o goes over it),\n"
     "MOAT_LIBRARY (the preload library, where it is not found beside moat).\n"},
    {"options", moat_cli_options,
     "Usage: moat options [--man | --config]\n"
     "Lists every option that -o and MOAT_OPTIONS take: default, range, meaning.\n"
     "\n"
     "  --man     print the manual page moat-options(7) instead\n"
     "  --config  print a header of the options' defaults, for building Moat with others\n"},
};

static const char overview[] = "Usage: moat COMMAND [ARG...]\n"
                               "Runs programs on a heap that finds memory errors and names the line.\n"
                               "\n"
                               "  moat run PROGRAM [ARG...]   run a program and report its errors and leaks\n"
                               "  moat options                list the options\n"
                               "  moat help COMMAND           explain a command\n"
                               "  moat --version              print the version\n"
                               "\n"
                               "Manual pages: moat(1), moat-options(7), moat(3).\n";

void moat_cli_complain(const char *format, ...) {
    char line[PATH_MAX + 512]; /* one write, so that lines of several processes do not mix */
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(line, sizeof line - 1, format, arguments);
    va_end(arguments);
    size_t used = length < 0 ? 0 : (size_t)length < sizeof line - 2 ? (size_t)length : sizeof line - 2;
    for (size_t i = 0; i < used; i++) {
        unsigned char byte = (unsigned char)line[i];
        line[i] = byte < ' ' || byte == 0x7f ? '?' : line[i]; /* names come from outside: no escape sequences */
    }
    line[used] = '\0';
    char whole[sizeof line + 8];
    int total = snprintf(whole, sizeof whole, "moat: %s\n", line);
    if (total > 0) {
        moat_cli_write(STDERR_FILENO, whole, (size_t)total); /* nowhere to complain about a failed complaint */
    }
}

static void no_memory(void) {
    moat_cli_complain("out of memory");
    exit(MOAT_EXIT_USAGE);
}

void *moat_cli_allocate(size_t size_bytes) {
    void *block = calloc(1, size_bytes);
    if (block == NULL) {
        no_memory();
    }
    return block;
}

void *moat_cli_resize(void *block, size_t size_bytes) {
    void *resized = realloc(block, size_bytes);
    if (resized == NULL) {
        no_memory();
    }
    return resized;
}

char *moat_cli_copy(const char *text) {
    char *copy = strdup(text);
    if (copy == NULL) {
        no_memory();
    }
    return copy;
}

char *moat_cli_join(const char *format, ...) {
    char *text = NULL;
    va_list arguments;
    va_start(arguments, format);
    if (vasprintf(&text, format, arguments) < 0) {
        no_memory();
    }
    va_end(arguments);
    return text;
}

bool moat_cli_write(int fd, const char *bytes, size_t count) {
    while (count > 0) {
        ssize_t written = write(fd, bytes, count);
        if (written >= 0) {
            bytes += written;
            count -= (size_t)written;
        } else if (errno == EAGAIN) {
            struct pollfd ready = {.fd = fd, .events = POLLOUT};
            poll(&ready, 1, -1);
        } else if (errno != EINTR) {
            return false;
        }
    }
    return true;
}

static const struct topic *topic_of(const char *name) {
    for (size_t i = 0; i < sizeof topics / sizeof *topics; i++) {
        if (strcmp(topics[i].name, name) == 0) {
            return &topics[i];
        }
    }
    return NULL;
}

/* Prints help; what was asked for must arrive, so a failure to write it is one of the command. */
static int show(const char *text) {
    if (fputs(text, stdout) < 0 || fflush(stdout) != 0) {
        moat_cli_complain("cannot write to standard output: %s", strerror(errno));
        return MOAT_EXIT_USAGE;
    }
    return 0;
}

static bool is_one_of(const char *word, const char *one, const char *other) {
    return strcmp(word, one) == 0 || strcmp(word, other) == 0;
}

int main(int argc, char **argv) {
    if (argc < 2) {
        moat_cli_complain("no command given; try `moat run PROGRAM` or `moat --help`");
        return MOAT_EXIT_USAGE;
    }
    const char *word = argv[1];
    if (is_one_of(word, "--version", "-V")) {
        return show("moat " MOAT_VERSION "\n");
    }
    if (is_one_of(word, "--help", "-h") || (strcmp(word, "help") == 0 && argc == 2)) {
        return show(overview);
    }
    bool asks_help = strcmp(word, "help") == 0;
    const struct topic *topic = topic_of(asks_help ? argv[2] : word);
    if (topic == NULL) {
        moat_cli_complain("there is no command \"%s\"; `moat --help` lists them", asks_help ? argv[2] : word);
        return MOAT_EXIT_USAGE;
    }
    if (asks_help || (argc > 2 && is_one_of(argv[2], "--help", "-h"))) {
        return show(topic->help);
    }
    return topic->command(argc - 1, argv + 1);
}
