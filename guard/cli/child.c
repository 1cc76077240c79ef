/* Starts the program, forwards signals to it, and ends as it ended.
 * May include: guard/cli and the C library. */
#define _GNU_SOURCE
#include "guard/cli/child.h"
#include "guard/cli/cli.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#define SIGNAL_STATUS_BASE 128 /* what a shell makes of a fatal signal */

/* What users and service managers send to end or poke a program. */
static const int forwarded[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2};

static void take_over_signals(struct moat_child *child) {
    sigset_t blocked;
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGCHLD);
    for (size_t i = 0; i < sizeof forwarded / sizeof *forwarded; i++) {
        sigaddset(&blocked, forwarded[i]);
    }
    sigprocmask(SIG_BLOCK, &blocked, &child->mask);
    /* With SIGCHLD ignored, as some starters leave it, there would be nothing to wait for. */
    struct sigaction usual = {.sa_handler = SIG_DFL};
    struct sigaction ignored = {.sa_handler = SIG_IGN};
    sigaction(SIGCHLD, &usual, &child->on_child);
    sigaction(SIGPIPE, &ignored, &child->on_pipe);
    child->signal_fd = signalfd(-1, &blocked, SFD_CLOEXEC | SFD_NONBLOCK);
}

static void become(const struct moat_child *child, const struct moat_start *start) {
    setenv("MOAT_OPTIONS", start->options, 1);
    if (start->preload != NULL) {
        setenv("LD_PRELOAD", start->preload, 1);
    }
    sigaction(SIGCHLD, &child->on_child, NULL);
    sigaction(SIGPIPE, &child->on_pipe, NULL);
    sigprocmask(SIG_SETMASK, &child->mask, NULL);
    execv(start->path, start->arguments);
    if (errno != ENOEXEC || !moat_target_is_text(start->path)) {
        return;
    }
    /* A script without #!: every shell and execvp() run those with sh. */
    size_t count = 0;
    while (start->arguments[count] != NULL) {
        count++;
    }
    char **arguments = moat_cli_allocate((count + 2) * sizeof *arguments);
    arguments[0] = moat_cli_copy("sh");
    arguments[1] = moat_cli_copy(start->path);
    for (size_t i = 1; i < count; i++) {
        arguments[i + 1] = start->arguments[i];
    }
    execv("/bin/sh", arguments);
    errno = ENOEXEC;
}

/* A pipe that closes at a successful exec and else brings the error. */
static int wait_for_exec(int fd) {
    int error = 0;
    ssize_t got = 0;
    do {
        got = read(fd, &error, sizeof error);
    } while (got < 0 && errno == EINTR);
    return got == (ssize_t)sizeof error ? error : 0;
}

int moat_child_start(struct moat_child *child, const struct moat_start *start) {
    int news[2];
    memset(child, 0, sizeof *child);
    take_over_signals(child);
    if (child->signal_fd < 0 || pipe2(news, O_CLOEXEC) != 0 || (child->pid = fork()) < 0) {
        moat_cli_complain("cannot start %s: %s", start->path, strerror(errno));
        return MOAT_EXIT_USAGE;
    }
    if (child->pid == 0) {
        become(child, start);
        int error = errno;
        moat_cli_write(news[1], (const char *)&error, sizeof error);
        _exit(MOAT_EXIT_NOT_EXECUTABLE);
    }
    close(news[1]);
    int error = wait_for_exec(news[0]);
    close(news[0]);
    if (error != 0) {
        waitpid(child->pid, NULL, 0);
        moat_cli_complain("cannot execute %s: %s%s", start->path, strerror(error),
                          error == ENOENT ? " (its interpreter or loader is missing)" : "");
        return error == ENOENT ? MOAT_EXIT_NOT_FOUND : MOAT_EXIT_NOT_EXECUTABLE;
    }
    return 0;
}

/* A key typed at the terminal reaches the program's process group, and with it the program, by itself. */
static bool has_reached_it(const struct moat_child *child, const struct signalfd_siginfo *info) {
    return info->ssi_code == SI_KERNEL && getpgid(child->pid) == getpgrp();
}

void moat_child_wait(struct moat_child *child, int notify_fd, int timeout_ms) {
    struct pollfd ready[2] = {{.fd = child->signal_fd, .events = POLLIN}, {.fd = notify_fd, .events = POLLIN}};
    struct signalfd_siginfo info;
    poll(ready, 2, timeout_ms);
    while (read(child->signal_fd, &info, sizeof info) == (ssize_t)sizeof info) {
        if (info.ssi_signo != SIGCHLD && !child->ended && !has_reached_it(child, &info)) {
            kill(child->pid, (int)info.ssi_signo);
        }
    }
    if (!child->ended && waitpid(child->pid, &child->status, WNOHANG) == child->pid) {
        child->ended = true;
    }
}

int moat_child_follow(const struct moat_child *child) {
    int number = WTERMSIG(child->status);
    struct rlimit none = {0, 0};
    struct sigaction usual = {.sa_handler = SIG_DFL};
    sigset_t only;
    setrlimit(RLIMIT_CORE, &none);
    sigaction(number, &usual, NULL);
    sigemptyset(&only);
    sigaddset(&only, number);
    raise(number);
    sigprocmask(SIG_UNBLOCK, &only, NULL);
    return SIGNAL_STATUS_BASE + number; /* a signal that does not end this process */
}
