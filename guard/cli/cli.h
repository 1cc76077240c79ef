/* What the parts of the `moat` command share.
 * May include: guard/report, guard/option and the C library. */
#ifndef MOAT_GUARD_CLI_CLI_H
#define MOAT_GUARD_CLI_CLI_H

#include "guard/option/option.h"
#include "guard/report/report.h"

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Statuses of moat's own, as env(1) and timeout(1) have them. */
#define MOAT_EXIT_UNCHECKED 24 /* the program ended well, but something asked for was not checked */
#define MOAT_EXIT_USAGE 125
#define MOAT_EXIT_NOT_EXECUTABLE 126
#define MOAT_EXIT_NOT_FOUND 127

/* Writes "moat: ...\n" to standard error. */
void moat_cli_complain(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* malloc, realloc and strdup that end the command when there is no memory. */
void *moat_cli_allocate(size_t size_bytes);
void *moat_cli_resize(void *block, size_t size_bytes);
char *moat_cli_copy(const char *text);
char *moat_cli_join(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Writes all of it; false with errno when that fails. Waits where the descriptor is non-blocking. */
bool moat_cli_write(int fd, const char *bytes, size_t count);

/* The subcommands: argv[0] is the subcommand's name. They return the exit status. */
int moat_cli_run(int argc, char **argv);
int moat_cli_options(int argc, char **argv);

/* ---- target.c: the program to be started ---- */

enum moat_cover {
    MOAT_COVER_EXPECTED, /* dynamically linked, of the library's class: preloading will reach it */
    MOAT_COVER_STATIC,
    MOAT_COVER_SETUID, /* gains rights at exec, so that the loader ignores LD_PRELOAD */
    MOAT_COVER_OTHER_CLASS,
    MOAT_COVER_UNKNOWN /* not readable, or no ELF file */
};

/* Finds a program as execvp() would.
 * Gives:   0 and its path; MOAT_EXIT_NOT_FOUND or MOAT_EXIT_NOT_EXECUTABLE. */
int moat_target_find(const char *name, char path[PATH_MAX]);
/* What will happen to a preloaded library in that program; a script is followed to its interpreter. */
enum moat_cover moat_target_cover(const char *path, const char *library_path);
/* Whether a file that the kernel does not know how to execute looks like a script, rather than damaged or foreign
 * code. */
bool moat_target_is_text(const char *path);
/* As words in parentheses: "statically linked". */
const char *moat_cover_reason(enum moat_cover cover);

/* ---- spool_reader.c: the spool, from the reading side ---- */

struct moat_spool {
    char directory[PATH_MAX];
    char path[PATH_MAX];
    int fd;
    int notify_fd; /* readable when something was appended; -1: poll */
    uint64_t next; /* file offset of the first byte not yet taken */
    bool damaged;  /* something in it was no whole record */
    unsigned char *chunk;
    struct moat_report *report;
};

/* Makes the private directory and the file. False after a complaint. */
bool moat_spool_create(struct moat_spool *spool);
/* Hands every complete record to `take`, in order. `last`: what is incomplete now will never be complete.
 * Gives:   how many. */
size_t moat_spool_drain(struct moat_spool *spool, bool last,
                        void (*take)(void *context, const struct moat_report *report), void *context);
/* Says that nobody reads any more, reads what came until then, and removes the file and its directory. */
void moat_spool_close(struct moat_spool *spool, void (*take)(void *context, const struct moat_report *report),
                      void *context);

/* ---- processes.c: who checked in, and who should have ---- */

struct moat_processes;
struct moat_processes *moat_processes_create(void);
void moat_processes_check_in(struct moat_processes *processes, int64_t pid);
/* `self`: the process reports its own exec, so that an earlier check-in was another program's. */
void moat_processes_exec(struct moat_processes *processes, int64_t pid, const char *path, bool self);
void moat_processes_exec_gone(struct moat_processes *processes, int64_t pid);
/* Whether its latest program checked in. */
bool moat_processes_checked_in(const struct moat_processes *processes, int64_t pid);
/* Whether it reported an exec that no check-in followed. */
bool moat_processes_executing(const struct moat_processes *processes, int64_t pid);
/* Visits every process whose latest exec was not followed by a check-in; each path once. */
void moat_processes_missing(struct moat_processes *processes,
                            void (*visit)(void *context, int64_t pid, const char *path), void *context);
/* Whether some missing process still runs and may yet check in. */
bool moat_processes_pending(const struct moat_processes *processes);

/* ---- output.c: where reports go ---- */

struct moat_output {
    const struct moat_options *options;
    struct moat_symboliser symboliser;
    int fd;      /* of the report file; -1: standard error, or %p in its name */
    bool broken; /* the file failed: standard error from here on */
    bool colour;
    char *text; /* the report being put together */
    size_t used_bytes, room_bytes;
};

/* Opens the report file, if one is asked for. False after a complaint. */
bool moat_output_open(struct moat_output *output, const struct moat_options *options);
void moat_output_report(struct moat_output *output, const struct moat_report *report);

/* ---- symbols.c: names from DWARF and symbol tables ---- */

/* Owns what it gave until the process ends. */
struct moat_symboliser moat_symbols_create(void);

#endif
