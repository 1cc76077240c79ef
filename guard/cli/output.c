/* Where reports go: standard error or a file, as text or JSON.
 * May include: guard/cli/cli.h and the C library. */
#include "guard/cli/cli.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define REPORT_FILE_MODE 0666
#define ROOM_FIRST_BYTES 16384u

/* "%p" in a report file's name stands for the process id of whom the report is about. */
static char *file_name(const char *pattern, int64_t pid) {
    char *name = moat_cli_copy("");
    for (; *pattern != '\0'; pattern++) {
        bool process = pattern[0] == '%' && pattern[1] == 'p';
        char *longer = process ? moat_cli_join("%s%lld", name, (long long)pid) : moat_cli_join("%s%c", name, *pattern);
        free(name);
        name = longer;
        pattern += process;
    }
    return name;
}

static int open_file(const char *name) {
    return open(name, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOCTTY, REPORT_FILE_MODE);
}

static bool wants_colour(const struct moat_options *options) {
    if (options->colour != MOAT_COLOUR_AUTO) {
        return options->colour == MOAT_COLOUR_ALWAYS;
    }
    const char *terminal = getenv("TERM");
    const char *refused = getenv("NO_COLOR");
    return options->report[0] == '\0' && isatty(STDERR_FILENO) && terminal != NULL && strcmp(terminal, "dumb") != 0 &&
           (refused == NULL || *refused == '\0');
}

bool moat_output_open(struct moat_output *output, const struct moat_options *options) {
    memset(output, 0, sizeof *output);
    output->options = options;
    output->fd = -1;
    output->colour = wants_colour(options);
    const char *name = options->report;
    if (name[0] == '\0') {
        return true;
    }
    if (strstr(name, "%p") == NULL) {
        output->fd = open_file(name);
    } else {
        /* The ids are not known yet: at least the directory must take new files. */
        char *directory = moat_cli_copy(name);
        char *slash = strrchr(directory, '/');
        if (slash != NULL) {
            slash[slash == directory] = '\0';
        }
        bool writable = access(slash != NULL ? directory : ".", W_OK | X_OK) == 0;
        free(directory);
        if (writable) {
            return true;
        }
    }
    if (output->fd < 0) {
        moat_cli_complain("cannot write reports to %s: %s", name, strerror(errno));
        return false;
    }
    return true;
}

static void collect(void *context, const char *text, size_t length_bytes) {
    struct moat_output *output = context;
    if (output->room_bytes - output->used_bytes < length_bytes) {
        output->room_bytes = 2 * (output->room_bytes + length_bytes) + ROOM_FIRST_BYTES;
        output->text = moat_cli_resize(output->text, output->room_bytes);
    }
    memcpy(output->text + output->used_bytes, text, length_bytes);
    output->used_bytes += length_bytes;
}

/* Writes the collected report to the file; false when standard error must take it. */
static bool write_to_file(struct moat_output *output, int64_t pid) {
    if (output->options->report[0] == '\0' || output->broken) {
        return false;
    }
    char *name = file_name(output->options->report, pid);
    int fd = output->fd >= 0 ? output->fd : open_file(name);
    bool written = fd >= 0 && moat_cli_write(fd, output->text, output->used_bytes);
    if (!written) {
        moat_cli_complain("cannot write to %s: %s; reports go to standard error from here on", name, strerror(errno));
        output->broken = true;
    }
    if (fd >= 0 && fd != output->fd && close(fd) != 0) {
        moat_cli_complain("cannot close %s: %s", name, strerror(errno));
    }
    free(name);
    return written;
}

void moat_output_report(struct moat_output *output, const struct moat_report *report) {
    struct moat_sink sink = {.write = collect, .context = output};
    output->used_bytes = 0;
    if (output->options->format == MOAT_FORMAT_JSON) {
        moat_report_json(report, &output->symboliser, sink);
    } else {
        moat_report_text(report, &output->symboliser, output->colour, sink);
    }
    if (output->used_bytes > 0 && !write_to_file(output, report->pid)) {
        /* A standard error that nobody reads any more is no reason to disturb the program. */
        moat_cli_write(STDERR_FILENO, output->text, output->used_bytes);
    }
}
