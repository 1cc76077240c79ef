/* The exec functions: as glibc's, and `moat run` is told. May include: exec.h, the port and POSIX headers.
 *
 * All end in execve. A child of vfork may call any of them, so nothing here looks up a symbol, locks, or writes to memory
 * other than its stack and errno. */
#define _GNU_SOURCE
#include "guard/entry/exec.h"
#include "guard/port/linux/module.h"
#include "guard/port/linux/syscall.h"
#include "guard/port/linux/text.h"
#include "guard/report/spool_file.h"

#include <errno.h>
#include <fcntl.h>
#include <paths.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MOAT_DESCRIPTOR_LINK "/proc/self/fd/"
#define MOAT_DESCRIPTOR_LINK_BYTES (sizeof MOAT_DESCRIPTOR_LINK + 20)
/* Where the C library looks when the environment has no PATH. */
#define MOAT_PATH_WITHOUT_PATH "/bin:/usr/bin"

moat_execve_function *moat_execve_next;

void moat_exec_init(void) {
    if (moat_spawn_init != NULL) {
        moat_spawn_init();
    }
}

/* ---- telling `moat run` ------------------------------------------------------------------------------------------------ */

static void brief_send(const struct moat_brief *brief) {
    unsigned char record[MOAT_BRIEF_BYTES_MAX];
    size_t length_bytes = moat_brief_encode(brief, record, sizeof record);
    if (length_bytes != 0) {
        moat_spool_append(moat_process.options.spool, record, length_bytes, false);
    }
}

void moat_exec_check_in(void) {
    if (!moat_exec_is_watched()) {
        return;
    }
    char program[MOAT_PATH_BYTES];
    char command[MOAT_COMMAND_BYTES];
    program[moat_program_path(program, sizeof program)] = '\0';
    command[moat_program_command(command, sizeof command)] = '\0';
    struct moat_brief brief = {
        .type = MOAT_REPORT_CHECK_IN, .pid = getpid(), .program = program, .command = command, .note = ""};
    brief_send(&brief);
}

static void descriptor_link(int descriptor, char link[MOAT_DESCRIPTOR_LINK_BYTES]) {
    struct moat_text_buffer text = moat_text_begin(link, MOAT_DESCRIPTOR_LINK_BYTES);
    moat_text_add(&text, MOAT_DESCRIPTOR_LINK);
    moat_text_add_number(&text, (uint64_t)descriptor, 10);
}

/* Adds the path of a directory or of an open file; nothing when it has none. */
static void add_location(struct moat_text_buffer *text, int descriptor) {
    char location[MOAT_NOTE_BYTES];
    long length;
    if (descriptor == AT_FDCWD) {
        length =
            moat_syscall(SYS_getcwd, (long)(uintptr_t)location, sizeof location, 0, 0, 0, 0) - 1; /* counts its NUL */
    } else {
        char link[MOAT_DESCRIPTOR_LINK_BYTES];
        descriptor_link(descriptor, link);
        length = moat_syscall(SYS_readlinkat, AT_FDCWD, (long)(uintptr_t)link, (long)(uintptr_t)location,
                              sizeof location, 0, 0);
    }
    if (length > 0 && location[0] == '/') {
        moat_text_add_bytes(text, location, (size_t)length);
    }
}

void moat_exec_tell(unsigned type, pid_t pid, int directory, const char *path) {
    char note[MOAT_NOTE_BYTES];
    struct moat_text_buffer text = moat_text_begin(note, sizeof note);
    if (path[0] != '/') {
        add_location(&text, directory);
        moat_text_add(&text, path[0] != '\0' ? "/" : "");
        while (path[0] == '.' && path[1] == '/') {
            path += 2;
        }
    }
    moat_text_add(&text, path);
    struct moat_brief brief = {.type = (uint8_t)type,
                               .pid = getpid(),
                               .value = {(uint64_t)pid, 0},
                               .program = "",
                               .command = "",
                               .note = note};
    brief_send(&brief);
}

/* ---- execve and execveat ----------------------------------------------------------------------------------------------- */

static int kernel_result(long result) {
    if (result < 0) {
        errno = (int)-result;
    }
    return -1;
}

static int execute_plainly(const char *path, char *const arguments[], char *const environment[]) {
    if (moat_execve_next != NULL) {
        return moat_execve_next(path, arguments, environment);
    }
    return kernel_result(moat_syscall(SYS_execve, (long)(uintptr_t)path, (long)(uintptr_t)arguments,
                                      (long)(uintptr_t)environment, 0, 0, 0));
}

/* Whether a file is there to be executed. The kernel reads the path: a wild pointer is its to refuse. */
static bool is_there(int directory, const char *path) {
    return moat_syscall(SYS_faccessat, directory, (long)(uintptr_t)path, F_OK, 0, 0, 0) == 0;
}

/* All of the functions below come here, but for those with a descriptor. */
static int execute(const char *path, char *const arguments[], char *const environment[]) {
    if (!moat_exec_is_watched() || !is_there(AT_FDCWD, path)) {
        return execute_plainly(path, arguments, environment);
    }
    pid_t pid = getpid();
    moat_exec_tell(MOAT_REPORT_EXEC, pid, AT_FDCWD, path);
    int result = execute_plainly(path, arguments, environment);
    moat_exec_tell(MOAT_REPORT_EXEC_GONE, pid, AT_FDCWD, path);
    return result;
}

static int execute_at(int directory, const char *path, char *const arguments[], char *const environment[], int flags) {
    bool itself = (flags & AT_EMPTY_PATH) != 0 && path != NULL && path[0] == '\0';
    bool told = moat_exec_is_watched() && (itself || is_there(directory, path));
    pid_t pid = getpid();
    if (told) {
        moat_exec_tell(MOAT_REPORT_EXEC, pid, directory, path);
    }
    long result = moat_syscall(SYS_execveat, directory, (long)(uintptr_t)path, (long)(uintptr_t)arguments,
                               (long)(uintptr_t)environment, flags, 0);
    if (told) {
        moat_exec_tell(MOAT_REPORT_EXEC_GONE, pid, directory, path);
    }
    return kernel_result(result);
}

MOAT_EXPORT int execve(const char *path, char *const arguments[], char *const environment[]) {
    return execute(path, arguments, environment);
}

MOAT_EXPORT int execv(const char *path, char *const arguments[]) { return execute(path, arguments, environ); }

MOAT_EXPORT int execveat(int directory, const char *path, char *const arguments[], char *const environment[],
                         int flags) {
    return execute_at(directory, path, arguments, environment, flags);
}

MOAT_EXPORT int fexecve(int descriptor, char *const arguments[], char *const environment[]) {
    char *const *given = arguments;
    __asm__("" : "+r"(given)); /* the header promises that it is not NULL; callers break such promises */
    if (descriptor < 0 || given == NULL || environment == NULL) {
        errno = EINVAL;
        return -1;
    }
    execute_at(descriptor, "", arguments, environment, AT_EMPTY_PATH);
    if (errno != ENOSYS) {
        return -1;
    }
    char link[MOAT_DESCRIPTOR_LINK_BYTES]; /* a sandbox that knows no execveat */
    descriptor_link(descriptor, link);
    return execute(link, arguments, environment);
}

/* ---- the search in PATH ------------------------------------------------------------------------------------------------ */

bool moat_search_start(struct moat_search *search, const char *file) {
    size_t file_bytes = strnlen(file, NAME_MAX + 1);
    if (file_bytes == 0 || file_bytes > NAME_MAX) {
        errno = file_bytes == 0 ? ENOENT : ENAMETOOLONG;
        return false;
    }
    const char *path = getenv("PATH");
    *search = (struct moat_search){path != NULL ? path : MOAT_PATH_WITHOUT_PATH, file, file_bytes};
    return true;
}

bool moat_search_next(struct moat_search *search, char *path) {
    while (search->rest != NULL) {
        const char *directory = search->rest;
        const char *end = strchr(directory, ':');
        size_t directory_bytes = end != NULL ? (size_t)(end - directory) : strlen(directory);
        search->rest = end != NULL ? end + 1 : NULL;
        if (directory_bytes >= PATH_MAX) {
            continue;
        }
        memcpy(path, directory, directory_bytes);
        size_t at = directory_bytes;
        if (directory_bytes != 0) { /* an empty entry is the current directory */
            path[at++] = '/';
        }
        memcpy(path + at, search->file, search->file_bytes);
        path[at + search->file_bytes] = '\0';
        return true;
    }
    return false;
}

static size_t count_of(char *const list[]) {
    size_t count = 0;
    while (list[count] != NULL) {
        count++;
    }
    return count;
}

/* A file that is executable but no program is given to the shell, as the shell itself would do. */
static int execute_script(const char *path, char *const arguments[], char *const environment[]) {
    size_t count = count_of(arguments);
    size_t rest = count > 1 ? count - 1 : 0;
    char *shell_arguments[rest + 3];
    shell_arguments[0] = (char *)(uintptr_t)_PATH_BSHELL;
    shell_arguments[1] = (char *)(uintptr_t)path;
    for (size_t i = 0; i < rest; i++) {
        shell_arguments[2 + i] = arguments[1 + i];
    }
    shell_arguments[2 + rest] = NULL;
    return execute(_PATH_BSHELL, shell_arguments, environment);
}

static int execute_or_script(const char *path, char *const arguments[], char *const environment[]) {
    execute(path, arguments, environment);
    return errno == ENOEXEC ? execute_script(path, arguments, environment) : -1;
}

static int execute_searched(const char *file, char *const arguments[], char *const environment[]) {
    char path[MOAT_SEARCH_BYTES];
    struct moat_search search;
    if (strchr(file, '/') != NULL) {
        return execute_or_script(file, arguments, environment);
    }
    if (!moat_search_start(&search, file)) {
        return -1;
    }
    bool refused = false;
    while (moat_search_next(&search, path)) {
        execute_or_script(path, arguments, environment);
        switch (errno) {
        case EACCES:
            refused = true; /* the error to end with, unless a later directory has it */
            break;
        case ENOENT:
        case ENOTDIR:
        case ESTALE:
        case ENODEV:
        case ETIMEDOUT:
            break; /* nothing there, or a file server that is out of order */
        default:
            return -1;
        }
    }
    if (refused) {
        errno = EACCES;
    }
    return -1;
}

MOAT_EXPORT int execvpe(const char *file, char *const arguments[], char *const environment[]) {
    return execute_searched(file, arguments, environment);
}

MOAT_EXPORT int execvp(const char *file, char *const arguments[]) { return execute_searched(file, arguments, environ); }

/* ---- arguments in a row ------------------------------------------------------------------------------------------------ */

/* How many arguments there are before the NULL; the first was passed by name. */
static size_t count_arguments(const char *first, va_list list) {
    size_t count = 0;
    for (const char *argument = first; argument != NULL; argument = va_arg(list, const char *)) {
        count++;
    }
    return count;
}

/* Puts them into an array, with the NULL. */
static void collect_arguments(char **arguments, const char *first, va_list list) {
    size_t count = 0;
    const char *argument = first;
    for (; argument != NULL; argument = va_arg(list, const char *)) {
        arguments[count++] = (char *)(uintptr_t)argument;
    }
    arguments[count] = NULL;
}

/* Declares `arguments`, with all of `first, ...`, on the caller's stack; `list` stands behind the NULL then. */
#define MOAT_ARGUMENTS(first, list)                                                                                    \
    va_list list;                                                                                                      \
    va_start(list, first);                                                                                             \
    size_t argument_count = count_arguments(first, list);                                                              \
    va_end(list);                                                                                                      \
    char *arguments[argument_count + 1];                                                                               \
    va_start(list, first);                                                                                             \
    collect_arguments(arguments, first, list)

MOAT_EXPORT int execl(const char *path, const char *first, ...) {
    MOAT_ARGUMENTS(first, list);
    va_end(list);
    return execute(path, arguments, environ);
}

MOAT_EXPORT int execlp(const char *file, const char *first, ...) {
    MOAT_ARGUMENTS(first, list);
    va_end(list);
    return execute_searched(file, arguments, environ);
}

MOAT_EXPORT int execle(const char *path, const char *first, ...) {
    MOAT_ARGUMENTS(first, list);
    char *const *environment = va_arg(list, char *const *);
    va_end(list);
    return execute(path, arguments, environment);
}
