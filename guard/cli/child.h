/* Starting the program and living beside it.
 * May include: freestanding headers, sys/types.h and signal.h. */
#ifndef MOAT_GUARD_CLI_CHILD_H
#define MOAT_GUARD_CLI_CHILD_H

#include <signal.h>
#include <stdbool.h>
#include <sys/types.h>

struct moat_child {
    pid_t pid;
    int signal_fd;                      /* SIGCHLD, and the signals that are forwarded */
    sigset_t mask;                      /* as it was, and as the program gets it */
    struct sigaction on_child, on_pipe; /* likewise */
    bool ended;
    int status; /* as waitpid() gave it, once ended */
};

/* What the program is started with. */
struct moat_start {
    const char *path;
    char **arguments;    /* argv, NULL at the end */
    const char *preload; /* LD_PRELOAD; NULL: leave it alone */
    const char *options; /* MOAT_OPTIONS */
};

/* Starts the program. Gives 0, or the exit status for its failure after a complaint. */
int moat_child_start(struct moat_child *child, const struct moat_start *start);
/* Waits until a signal comes, `notify_fd` (if not -1) is readable, or the time is up; forwards signals and notes the
 * end. */
void moat_child_wait(struct moat_child *child, int notify_fd, int timeout_ms);
/* Ends this process by the signal that ended the program, without a second core file. Gives a status if that fails. */
int moat_child_follow(const struct moat_child *child);

#endif
