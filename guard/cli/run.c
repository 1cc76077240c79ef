/* `moat run`: reads its command line, runs the program under Moat, prints what comes back, and decides the exit status.
 * May include: guard/cli and the C library. */
#define _GNU_SOURCE
#include "guard/cli/child.h"
#include "guard/cli/cli.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define POLL_MS 2             /* where the kernel cannot tell of changes */
#define WAIT_MS 1000          /* where it can; a precaution only */
#define LATE_CHECK_IN_MS 1000 /* how long who was just started may take until it says that it runs under Moat */
#define LATE_STEP_MS 5
/* Characters that separate the entries of LD_PRELOAD or mean something to the loader. */
#define PRELOAD_SPECIAL " \t\n:$"

struct run {
    struct moat_options options;
    struct moat_option_text option_text;
    char *option_line; /* MOAT_OPTIONS as the program will get it, but for what only this process knows */
    char **arguments;  /* of the program, its name first */
    char path[PATH_MAX];
    char library[PATH_MAX];
    char *preload_link; /* a link to the library where its path cannot stand in LD_PRELOAD; NULL: none */
    enum moat_cover cover;
    struct moat_spool spool;
    struct moat_output output;
    struct moat_child child;
    struct moat_processes *processes;
    /* What the started program itself reported. */
    uint64_t finding_count;
    bool leaks, unchecked;
};

/* ---- the command line ---- */

static void add_option(struct run *run, const char *part) {
    char *longer = moat_cli_join("%s%s%s", run->option_line, *run->option_line != '\0' ? ":" : "", part);
    free(run->option_line);
    run->option_line = longer;
}

/* Puts key and value together, with the value's colons and backslashes escaped. */
static char *option_part(const char *key, const char *value) {
    char *part = moat_cli_join("%s=", key);
    for (; *value != '\0'; value++) {
        char *longer = moat_cli_join("%s%s%c", part, *value == ':' || *value == '\\' ? "\\" : "", *value);
        free(part);
        part = longer;
    }
    return part;
}

static bool read_options(struct run *run, const char *given, const char *origin) {
    char error[MOAT_OPTION_ERROR_BYTES];
    if (!moat_options_parse(&run->options, &run->option_text, given, error)) {
        moat_cli_complain("%s%s%s", origin, *origin != '\0' ? ": " : "", error);
        return false;
    }
    add_option(run, given);
    return true;
}

static bool read_pair(struct run *run, const char *key, const char *value) {
    char *part = option_part(key, value);
    bool understood = read_options(run, part, "");
    free(part);
    return understood;
}

/* The value of an option that takes one: behind `=` or in the next word. NULL: it is not this option. A missing value
 * is "". */
static const char *value_of(const char *name, char **arguments, int *index) {
    const char *word = arguments[*index];
    size_t length = strlen(name);
    if (strncmp(word, name, length) != 0) {
        return NULL;
    }
    if (word[length] == '=' && name[1] == '-') {
        return word + length + 1;
    }
    if (word[length] != '\0') {
        return name[1] == '-' ? NULL : word + length; /* -oKEY=VALUE */
    }
    if (arguments[*index + 1] == NULL) {
        return "";
    }
    return arguments[++*index];
}

static bool read_word(struct run *run, char **arguments, int *index) {
    const char *word = arguments[*index];
    const char *value = NULL;
    if ((value = value_of("-o", arguments, index)) != NULL) {
        if (*value == '\0') {
            moat_cli_complain("-o needs KEY=VALUE; `moat options` lists the keys");
            return false;
        }
        return read_options(run, value, "");
    }
    if ((value = value_of("--format", arguments, index)) != NULL) {
        if (strcmp(value, "text") != 0 && strcmp(value, "json") != 0) {
            moat_cli_complain("--format is text or json, not \"%s\"", value);
            return false;
        }
        return read_pair(run, "format", value);
    }
    if ((value = value_of("--report", arguments, index)) != NULL) {
        if (*value == '\0') {
            moat_cli_complain("--report needs the name of a file");
            return false;
        }
        return read_pair(run, "report", value);
    }
    moat_cli_complain("run: unknown option \"%s\"; see `moat help run`", word);
    return false;
}

static bool read_command_line(struct run *run, int argc, char **argv) {
    moat_options_default(&run->options);
    run->option_line = moat_cli_copy("");
    const char *environment = getenv("MOAT_OPTIONS");
    if (environment != NULL && !read_options(run, environment, "MOAT_OPTIONS")) {
        return false;
    }
    int index = 1;
    while (index < argc && argv[index][0] == '-' && argv[index][1] != '\0') {
        if (strcmp(argv[index], "--") == 0) {
            index++;
            break;
        }
        if (!read_word(run, argv, &index)) {
            return false;
        }
        index++;
    }
    if (index >= argc) {
        moat_cli_complain("run: no program given; see `moat help run`");
        return false;
    }
    run->arguments = argv + index;
    return true;
}

/* The program may change its directory, so its processes get a file's whole path. */
static bool fix_path(struct run *run, const char *key, const char *path) {
    char directory[PATH_MAX];
    if (path[0] == '\0' || path[0] == '/') {
        return true;
    }
    if (getcwd(directory, sizeof directory) == NULL) {
        moat_cli_complain("cannot tell the current directory, which %s=%s is relative to", key, path);
        return false;
    }
    char *whole = moat_cli_join("%s/%s", directory, path);
    bool understood = read_pair(run, key, whole);
    free(whole);
    return understood;
}

static bool fix_paths(struct run *run) {
    return fix_path(run, "report", run->options.report) && fix_path(run, "suppressions", run->options.suppressions);
}

/* ---- the library ---- */

static bool find_library(struct run *run) {
    static const char *const places[] = {"libmoat.so", "../lib/libmoat.so", "../lib64/libmoat.so"};
    const char *given = getenv("MOAT_LIBRARY");
    if (given != NULL && *given != '\0') {
        if (realpath(given, run->library) != NULL && access(run->library, R_OK) == 0) {
            return true;
        }
        moat_cli_complain("MOAT_LIBRARY names %s, which cannot be read", given);
        return false;
    }
    char self[PATH_MAX];
    ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
    self[length > 0 ? length : 0] = '\0';
    char *slash = strrchr(self, '/');
    if (slash != NULL) {
        *slash = '\0';
    }
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        char *candidate = moat_cli_join("%s/%s", self, places[i]);
        bool found = realpath(candidate, run->library) != NULL && access(run->library, R_OK) == 0;
        free(candidate);
        if (found) {
            return true;
        }
    }
    moat_cli_complain("cannot find libmoat.so beside %s/moat or in ../lib; MOAT_LIBRARY can name it", self);
    return false;
}

/* Gives LD_PRELOAD for the program, or NULL after a complaint. */
static char *preload_list(struct run *run) {
    const char *library = run->library;
    if (strpbrk(library, PRELOAD_SPECIAL) != NULL) {
        run->preload_link = moat_cli_join("%s/libmoat.so", run->spool.directory);
        library = run->preload_link;
        if (strpbrk(library, PRELOAD_SPECIAL) != NULL || symlink(run->library, library) != 0) {
            moat_cli_complain("neither %s nor %s can stand in LD_PRELOAD; TMPDIR can name a plainer directory",
                              run->library, library);
            return NULL;
        }
    }
    const char *before = getenv("LD_PRELOAD");
    return before != NULL && *before != '\0' ? moat_cli_join("%s:%s", library, before) : moat_cli_copy(library);
}

/* ---- what comes back ---- */

static bool summary_is_shown(const struct run *run, const struct moat_summary *summary) {
    return run->options.summary || summary->findings > 0 || summary->repeats > 0 ||
           summary->leak_outcome == MOAT_LEAKS_FOUND || summary->leak_outcome == MOAT_LEAKS_COULD_NOT_RUN;
}

static void count_for_status(struct run *run, const struct moat_report *report) {
    const struct moat_finding *finding = &report->finding;
    const struct moat_summary *summary = &report->summary;
    if (report->pid != run->child.pid) {
        return;
    }
    if (report->type == MOAT_REPORT_SUMMARY) {
        run->leaks = run->leaks || summary->leak_definite_blocks > 0 || summary->leak_indirect_blocks > 0;
        run->unchecked = run->unchecked || summary->leak_outcome == MOAT_LEAKS_COULD_NOT_RUN;
        run->finding_count += summary->findings;
    } else if (report->type == MOAT_REPORT_FINDING && finding->kind == MOAT_MEMORY_LEAK) {
        run->leaks =
            run->leaks || finding->leak_class == MOAT_LEAK_DEFINITE || finding->leak_class == MOAT_LEAK_INDIRECT;
    } else if (report->type == MOAT_REPORT_FINDING && finding->argument != MOAT_ARGUMENT_INJECTED) {
        run->finding_count++; /* a failure that was asked for is nothing that is wrong with the program */
    }
}

static void take(void *context, const struct moat_report *report) {
    struct run *run = context;
    int64_t executing = report->value[0] != 0 ? (int64_t)report->value[0] : report->pid;
    count_for_status(run, report);
    switch ((enum moat_report_type)report->type) {
    case MOAT_REPORT_CHECK_IN:
        moat_processes_check_in(run->processes, report->pid);
        return;
    case MOAT_REPORT_EXEC:
        moat_processes_exec(run->processes, executing, report->note, executing == report->pid);
        return;
    case MOAT_REPORT_EXEC_GONE:
        moat_processes_exec_gone(run->processes, executing);
        return;
    case MOAT_REPORT_SUMMARY:
        if (!summary_is_shown(run, &report->summary)) {
            return;
        }
        break;
    case MOAT_REPORT_FINDING:
    case MOAT_REPORT_NOTE:
    case MOAT_REPORT_NOT_COVERED:
        break;
    }
    moat_output_report(&run->output, report);
}

static void say_not_covered(struct run *run, int64_t pid, const char *path, enum moat_cover cover) {
    struct moat_report *report = moat_cli_allocate(sizeof *report);
    report->type = MOAT_REPORT_NOT_COVERED;
    report->pid = pid;
    snprintf(report->program, sizeof report->program, "%s", path);
    snprintf(report->note, sizeof report->note, "%s", moat_cover_reason(cover));
    moat_output_report(&run->output, report);
    free(report);
}

static void note_missing(void *context, int64_t pid, const char *path) {
    struct run *run = context;
    say_not_covered(run, pid, path, moat_target_cover(path, run->library));
}

/* Says which programs went unchecked. Who was started only just now is given a moment to check in. */
static void note_unchecked(struct run *run) {
    for (int waited = 0; waited < LATE_CHECK_IN_MS && moat_processes_pending(run->processes); waited += LATE_STEP_MS) {
        usleep(LATE_STEP_MS * 1000);
        moat_spool_drain(&run->spool, false, take, run);
    }
    moat_processes_missing(run->processes, note_missing, run);
    if (!moat_processes_checked_in(run->processes, run->child.pid)) {
        if (!moat_processes_executing(run->processes, run->child.pid)) {
            say_not_covered(run, run->child.pid, run->path, run->cover);
        }
        run->unchecked = true;
    }
}

static int status_of(const struct run *run) {
    if (WIFSIGNALED(run->child.status)) {
        return moat_child_follow(&run->child);
    }
    int status = WEXITSTATUS(run->child.status);
    if (status != 0) {
        return status;
    }
    if (run->finding_count > 0) {
        return (int)run->options.exitcode;
    }
    if (run->leaks && run->options.leak_exitcode != 0) {
        return (int)run->options.leak_exitcode;
    }
    return run->unchecked ? MOAT_EXIT_UNCHECKED : 0;
}

/* ---- the run ---- */

static int start(struct run *run) {
    char *preload = preload_list(run);
    if (preload == NULL) {
        return MOAT_EXIT_USAGE;
    }
    /* Statuses are decided here, for the started program alone: its children keep theirs. */
    char *spool = option_part("spool", run->spool.path);
    char *options =
        moat_cli_join("%s%sleak_exitcode=0:%s", run->option_line, *run->option_line != '\0' ? ":" : "", spool);
    struct moat_start what = {
        .path = run->path,
        .arguments = run->arguments,
        /* The loader would complain about a library of the wrong class; we say it more clearly. */
        .preload = run->cover != MOAT_COVER_OTHER_CLASS ? preload : NULL,
        .options = options,
    };
    int status = moat_child_start(&run->child, &what);
    free(spool);
    free(options);
    free(preload);
    return status;
}

static int run_and_watch(struct run *run) {
    int status = start(run);
    if (status == 0) {
        run->output.symboliser = moat_symbols_create(); /* only now, since it changes the environment */
        while (!run->child.ended) {
            moat_child_wait(&run->child, run->spool.notify_fd, run->spool.notify_fd >= 0 ? WAIT_MS : POLL_MS);
            moat_spool_drain(&run->spool, false, take, run);
        }
        note_unchecked(run);
    }
    if (run->preload_link != NULL) {
        unlink(run->preload_link);
    }
    moat_spool_close(&run->spool, take, run);
    return status != 0 ? status : status_of(run);
}

/* A descriptor 0 to 2 that is closed would be given to the next file opened, and reports would go there. The program
 * still gets it closed. */
static void fill_standard_descriptors(void) {
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++) {
        if (fcntl(fd, F_GETFD) < 0) {
            open("/dev/null", O_RDWR | O_CLOEXEC); /* takes the lowest free one, which is this */
        }
    }
}

int moat_cli_run(int argc, char **argv) {
    static struct run the_run; /* what it owns lives as long as the command */
    struct run *run = &the_run;
    fill_standard_descriptors();
    if (!read_command_line(run, argc, argv) || !fix_paths(run)) {
        return MOAT_EXIT_USAGE;
    }
    int found = moat_target_find(run->arguments[0], run->path);
    if (found != 0) {
        moat_cli_complain(found == MOAT_EXIT_NOT_FOUND ? "%s: not found" : "%s: cannot be executed", run->arguments[0]);
        return found;
    }
    if (!find_library(run) || !moat_output_open(&run->output, &run->options)) {
        return MOAT_EXIT_USAGE;
    }
    run->cover = moat_target_cover(run->path, run->library);
    run->processes = moat_processes_create();
    if (!moat_spool_create(&run->spool)) {
        return MOAT_EXIT_USAGE;
    }
    return run_and_watch(run);
}
