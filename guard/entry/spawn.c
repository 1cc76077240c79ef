/* posix_spawn and posix_spawnp: the C library's own, after which `moat run` is told. May include: exec.h and POSIX headers.
 *
 * Not part of libmoat.a: a static program has no dynamic loader to find the C library's own with. There a spawned
 * program that is not covered goes unnoticed; it is executed all the same. */
#define _GNU_SOURCE
#include "guard/entry/exec.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <string.h>
#include <unistd.h>

typedef int moat_spawn_function(pid_t *pid, const char *path, const posix_spawn_file_actions_t *actions,
                                const posix_spawnattr_t *attributes, char *const arguments[],
                                char *const environment[]);

static moat_spawn_function *spawn_next;
static moat_spawn_function *spawnp_next;

/* Looks a function up in the libraries behind this one. ISO C has no cast from data to function pointers. */
static void look_up(void *function, const char *name) {
    void *found = dlsym(RTLD_NEXT, name);
    memcpy(function, &found, sizeof found);
}

void moat_spawn_init(void) {
    int error = errno;
    look_up(&spawn_next, "posix_spawn");
    look_up(&spawnp_next, "posix_spawnp");
    look_up(&moat_execve_next, "execve");
    errno = error;
}

/* Where posix_spawnp will have found the program; its name alone when it cannot be told. */
static const char *searched_path(const char *file, char *path) {
    struct moat_search search;
    if (strchr(file, '/') != NULL || !moat_search_start(&search, file)) {
        return file;
    }
    while (moat_search_next(&search, path)) {
        if (faccessat(AT_FDCWD, path, X_OK, AT_EACCESS) == 0) {
            return path;
        }
    }
    return file;
}

MOAT_EXPORT int posix_spawn(pid_t *restrict pid, const char *restrict path,
                            const posix_spawn_file_actions_t *restrict actions,
                            const posix_spawnattr_t *restrict attributes, char *const arguments[restrict],
                            char *const environment[restrict]) {
    if (spawn_next == NULL) {
        moat_spawn_init(); /* called from a constructor that ran before ours */
    }
    pid_t child = 0;
    int result = spawn_next(&child, path, actions, attributes, arguments, environment);
    if (result == 0) {
        if (pid != NULL) {
            *pid = child;
        }
        if (moat_exec_is_watched()) {
            moat_exec_tell(MOAT_REPORT_EXEC, child, AT_FDCWD, path);
        }
    }
    return result;
}

MOAT_EXPORT int posix_spawnp(pid_t *restrict pid, const char *restrict file,
                             const posix_spawn_file_actions_t *restrict actions,
                             const posix_spawnattr_t *restrict attributes, char *const arguments[restrict],
                             char *const environment[restrict]) {
    if (spawnp_next == NULL) {
        moat_spawn_init();
    }
    pid_t child = 0;
    int result = spawnp_next(&child, file, actions, attributes, arguments, environment);
    if (result == 0) {
        if (pid != NULL) {
            *pid = child;
        }
        if (moat_exec_is_watched()) {
            char path[MOAT_SEARCH_BYTES];
            int error = errno;
            moat_exec_tell(MOAT_REPORT_EXEC, child, AT_FDCWD, searched_path(file, path));
            errno = error;
        }
    }
    return result;
}
