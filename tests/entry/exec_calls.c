/* Calls every exec function and posix_spawn in many situations and prints how each ended. Run plainly it shows what glibc does;
 * run under Moat it must print the same. In a directory that run.sh prepared:
 *   exec_calls fork|vfork|thread            everything
 *   exec_calls call FUNCTION FILE [PATH]    one call, in a vforked child; Moat goes on into it
 * May include: POSIX headers. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <spawn.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define COUNT(table) (sizeof(table) / sizeof *(table))
#define THREAD_STACK_BYTES (64u << 10)
#define DID_NOT_RUN 99

enum function {
    EXECVE,
    EXECV,
    EXECVP,
    EXECVPE,
    EXECL,
    EXECLP,
    EXECLE,
    FEXECVE,
    EXECVEAT,
    EXECVEAT_EMPTY,
    EXECVEAT_DIRECTORY,
    FUNCTION_COUNT
};
static const char *const function_names[FUNCTION_COUNT] = {
    "execve",  "execv",    "execvp",         "execvpe",           "execl", "execlp", "execle",
    "fexecve", "execveat", "execveat-empty", "execveat-directory"};

static const char *const mode_names[] = {"fork", "vfork"};

static char long_name[300];
static char long_path[6000];
static char *few_variables[] = {"GIVEN=environment", "PATH=/nowhere", NULL};
static char **variables = few_variables;

/* What is executed, each with the PATH it is to be found in (NULL: none set). */
struct situation {
    const char *what;
    const char *file;
    const char *path;
};

static const struct situation situations[] = {
    {"absolute", "/bin/echo", "/usr/bin"},
    {"relative", "bin/show", "/usr/bin"},
    {"found in PATH", "show", "/nonexistent:bin:/usr/bin"},
    {"found in empty entry", "here", "/nonexistent::/usr/bin"},
    {"found in trailing entry", "here", "/nonexistent:"},
    {"without PATH", "echo", NULL},
    {"empty PATH", "here", ""},
    {"missing", "no-such-program", "/usr/bin:/bin"},
    {"missing, absolute", "/no/such/program", "/usr/bin"},
    {"a directory", "bin", "."},
    {"a directory, absolute", "/tmp", "."},
    {"not executable", "./plain", "."},
    {"not executable, then found", "twice", "denied:bin"},
    {"found, then not executable", "twice", "bin:denied"},
    {"only not executable", "plain", "/usr/bin:.:/bin"},
    {"through a file", "plain/x", "."},
    {"file as directory in PATH", "show", "plain:bin"},
    {"script", "bin/script", "."},
    {"script without #!", "bin/bare", "."},
    {"script without #! in PATH", "bare", "/nonexistent:bin"},
    {"empty file", "bin/empty", "."},
    {"script with a missing interpreter", "bin/orphan", "."},
    {"script with a missing interpreter in PATH", "orphan", "bin:/usr/bin"},
    {"empty name", "", "/usr/bin"},
    {"name too long", long_name, "/usr/bin"},
    {"path too long", long_path, "/usr/bin"},
    {"entry of PATH too long", "show", NULL /* set in main */},
    {"link to itself", "./loop", "."},
    {"broken link", "./broken", "."},
    {"no search permission", "./closed/show", "."},
};

static const char *path_with_long_entry;

static void call(enum function function, const char *file, char *const arguments[]) {
    int descriptor;
    switch (function) {
    case EXECVE:
        execve(file, arguments, variables);
        break;
    case EXECV:
        execv(file, arguments);
        break;
    case EXECVP:
        execvp(file, arguments);
        break;
    case EXECVPE:
        execvpe(file, arguments, variables);
        break;
    case EXECL:
        execl(file, arguments[0], arguments[1], arguments[2], (char *)NULL);
        break;
    case EXECLP:
        execlp(file, arguments[0], arguments[1], arguments[2], (char *)NULL);
        break;
    case EXECLE:
        execle(file, arguments[0], arguments[1], arguments[2], (char *)NULL, variables);
        break;
    case FEXECVE:
        descriptor = open(file, O_RDONLY);
        fexecve(descriptor, arguments, variables);
        break;
    case EXECVEAT:
        execveat(AT_FDCWD, file, arguments, variables, 0);
        break;
    case EXECVEAT_EMPTY:
        descriptor = open(file, O_PATH);
        execveat(descriptor, "", arguments, variables, AT_EMPTY_PATH);
        break;
    default:
        descriptor = open("bin", O_RDONLY | O_DIRECTORY);
        execveat(descriptor, file, arguments, variables, AT_SYMLINK_NOFOLLOW);
        break;
    }
}

static void print_end(const char *how, const char *function, const char *what, int status, int error) {
    printf("%s %s: %s: ", how, function, what);
    if (WIFSIGNALED(status)) {
        printf("signal %d\n", WTERMSIG(status));
    } else if (WEXITSTATUS(status) == DID_NOT_RUN) {
        printf("%s\n", strerrorname_np(error));
    } else {
        printf("status %d\n", WEXITSTATUS(status));
    }
    fflush(stdout);
}

/* With vfork the child's errno and variables are the parent's; with fork they come back through a pipe. */
static void try_call(bool shared, enum function function, const struct situation *situation) {
    char *arguments[] = {"zero", "one", "two words", NULL};
    int news[2];
    int status = 0;
    int error = 0;
    if (pipe2(news, O_CLOEXEC) != 0) {
        abort();
    }
    fflush(stdout);
    pid_t pid = shared ? vfork() : fork();
    if (pid == 0) {
        call(function, situation->file, arguments);
        int failed = errno;
        if (write(news[1], &failed, sizeof failed) != sizeof failed) {
            _exit(DID_NOT_RUN + 1);
        }
        _exit(DID_NOT_RUN);
    }
    close(news[1]);
    if (read(news[0], &error, sizeof error) != sizeof error) {
        error = 0;
    }
    close(news[0]);
    waitpid(pid, &status, 0);
    print_end(mode_names[shared], function_names[function], situation->what, status, error);
}

static void try_spawn(bool search, const struct situation *situation, const posix_spawn_file_actions_t *actions,
                      bool want_pid) {
    char *arguments[] = {"zero", "one", "two words", NULL};
    pid_t pid = -1;
    int status = 0;
    errno = ENOTTY; /* is not to be changed by success */
    fflush(stdout);
    int error = search ? posix_spawnp(want_pid ? &pid : NULL, situation->file, actions, NULL, arguments, variables)
                       : posix_spawn(want_pid ? &pid : NULL, situation->file, actions, NULL, arguments, variables);
    if (error == 0) {
        if (wait(&status) != pid && want_pid) {
            printf("another pid\n");
        }
        print_end("spawn", search ? "posix_spawnp" : "posix_spawn", situation->what, status, 0);
    } else {
        printf("spawn %s: %s: %s, pid %s\n", search ? "posix_spawnp" : "posix_spawn", situation->what,
               strerrorname_np(error), pid == -1 ? "as it was" : "set");
    }
}

static void try_everything(bool shared) {
    for (size_t i = 0; i < COUNT(situations); i++) {
        const struct situation *situation = &situations[i];
        const char *path =
            strcmp(situation->what, "entry of PATH too long") == 0 ? path_with_long_entry : situation->path;
        if (path != NULL) {
            setenv("PATH", path, 1);
        } else {
            unsetenv("PATH");
        }
        for (enum function function = 0; function < FUNCTION_COUNT; function++) {
            try_call(shared, function, situation);
        }
        try_spawn(false, situation, NULL, true);
        try_spawn(true, situation, NULL, i % 2 != 0);
    }
}

static void *thread_main(void *unused) {
    (void)unused;
    try_everything(true);
    return NULL;
}

static void try_arguments(void) {
    char *arguments[] = {"zero", NULL};
    char *nothing[] = {NULL};
    errno = 0;
    fexecve(-1, arguments, variables);
    printf("fexecve without file: %s\n", strerrorname_np(errno));
    char *const *volatile none = NULL;
    int descriptor = open("/bin/true", O_RDONLY);
    fexecve(descriptor, none, variables);
    printf("fexecve without arguments: %s\n", strerrorname_np(errno));
    fexecve(descriptor, arguments, none);
    printf("fexecve without environment: %s\n", strerrorname_np(errno));
    execveat(descriptor, "true", arguments, variables, 0);
    printf("execveat in a file: %s\n", strerrorname_np(errno));
    execveat(AT_FDCWD, "/bin/true", arguments, variables, -1);
    printf("execveat with unknown flags: %s\n", strerrorname_np(errno));
    const char *volatile wild = (const char *)16; /* NOLINT: what a program with a bug may pass */
    execve(wild, arguments, variables);
    printf("execve of a wild pointer: %s\n", strerrorname_np(errno));
    fflush(stdout);
    if (vfork() == 0) {
        execvp("bare", nothing); /* a script for the shell, and no name to replace */
        _exit(DID_NOT_RUN);
    }
    int status;
    wait(&status);
    printf("execvp without arguments: status %d\n", WEXITSTATUS(status));
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 5, "/no/such/file", O_RDONLY, 0);
    try_spawn(false, &(struct situation){"impossible action", "/bin/true", NULL}, &actions, true);
    posix_spawn_file_actions_destroy(&actions);
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addchdir_np(&actions, "bin");
    try_spawn(true, &(struct situation){"another directory", "./show", NULL}, &actions, true);
    posix_spawn_file_actions_destroy(&actions);
}

static int one_call(int argc, char **argv) {
    struct situation situation = {"asked for", argv[3], NULL};
    if (argc > 4) {
        setenv("PATH", argv[4], 1);
    }
    variables = environ;
    if (strncmp(argv[2], "posix_spawn", strlen("posix_spawn")) == 0) {
        try_spawn(strcmp(argv[2], "posix_spawnp") == 0, &situation, NULL, true);
        return 0;
    }
    for (enum function function = 0; function < FUNCTION_COUNT; function++) {
        if (strcmp(argv[2], function_names[function]) == 0) {
            try_call(true, function, &situation);
            return 0;
        }
    }
    return 1;
}

int main(int argc, char **argv) {
    if (argc > 3) {
        return one_call(argc, argv);
    }
    const char *mode = argc == 2 ? argv[1] : "";
    memset(long_name, 'n', sizeof long_name - 1);
    memset(long_path, '/', sizeof long_path - 1);
    static char with_long_entry[sizeof long_path + 16];
    snprintf(with_long_entry, sizeof with_long_entry, "%s:bin", long_path);
    path_with_long_entry = with_long_entry;
    if (strcmp(mode, "thread") == 0) {
        pthread_t thread;
        pthread_attr_t attributes;
        pthread_attr_init(&attributes);
        pthread_attr_setstacksize(&attributes, THREAD_STACK_BYTES);
        if (pthread_create(&thread, &attributes, thread_main, NULL) != 0 || pthread_join(thread, NULL) != 0) {
            return 1;
        }
    } else {
        try_everything(strcmp(mode, "vfork") == 0);
        setenv("PATH", "bin", 1);
        try_arguments();
    }
    char *last[] = {"sh", "-c", "echo \"last: $GIVEN\"; exit 7", NULL};
    fflush(stdout);
    execve("/bin/sh", last, variables);
    return 1;
}
