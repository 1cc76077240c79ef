/* Executing other programs: what exec.c and spawn.c share. May include: process.h and POSIX headers.
 *
 * `moat run` is told of every program that is about to be executed, so that one which then never checks in is reported as
 * not covered. All of it works in a child that shares its parent's memory (vfork): system calls and stack memory only, no lock,
 * nothing static is changed, errno is kept. */
#ifndef MOAT_ENTRY_EXEC_H
#define MOAT_ENTRY_EXEC_H

#include "guard/entry/process.h"

#include <limits.h>

/* Room for a directory of PATH, a slash and a name. glibc ignores entries of PATH that are longer. */
#define MOAT_SEARCH_BYTES (PATH_MAX + NAME_MAX + 2)

/* Whether there is a `moat run` to tell. */
static inline bool moat_exec_is_watched(void) {
    const char *spool = moat_process.options.spool;
    return spool != NULL && spool[0] != '\0';
}

/* Sends a record of type EXEC or EXEC_GONE.
 * Takes:   the process that executes it, this one or a child that was spawned for it; the directory that a relative path counts
 *          from, AT_FDCWD or a descriptor; the path, "" for the descriptor itself. */
void moat_exec_tell(unsigned type, pid_t pid, int directory, const char *path);

/* The directories to search for a program, one after the other. */
struct moat_search {
    const char *rest; /* of PATH; NULL at the end */
    const char *file;
    size_t file_bytes;
};

/* Starts a search for a name without a slash in PATH, or where POSIX looks without PATH. False, with errno, when there
 * cannot be such a program. */
bool moat_search_start(struct moat_search *search, const char *file);

/* The next place to try, in `path`, of MOAT_SEARCH_BYTES; false at the end. */
bool moat_search_next(struct moat_search *search, char *path);

/* The next library's execve, when there is a dynamic loader that can tell; else NULL and the kernel is asked directly. */
typedef int moat_execve_function(const char *path, char *const arguments[], char *const environment[]);
extern moat_execve_function *moat_execve_next;

/* Looks up what the loader must tell; absent where there is no loader, that is, from libmoat.a. */
__attribute__((weak)) void moat_spawn_init(void);

#endif
