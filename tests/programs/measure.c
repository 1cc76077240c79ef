/* Runs a command and prints on descriptor 3 its wall time in microseconds and its peak memory in KiB; ends with its status.
 * A small process of its own, because a process's peak counts what it was before exec, and a script's interpreter is larger
 * than many a program it measures. Usage: measure COMMAND [ARGUMENT]... */
#include <stdio.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { RESULT_DESCRIPTOR = 3, EXIT_NOT_RUN = 127, EXIT_SIGNAL_BASE = 128 };

static long long now_us(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000LL + now.tv_nsec / 1000;
}

int main(int argc, char **argv) {
    if (argc < 2) {
        fprintf(stderr, "usage: measure COMMAND [ARGUMENT]... 3>RESULT\n");
        return EXIT_NOT_RUN;
    }
    long long began = now_us();
    pid_t child = fork();
    if (child == 0) {
        close(RESULT_DESCRIPTOR);
        execvp(argv[1], argv + 1);
        perror(argv[1]);
        _exit(EXIT_NOT_RUN);
    }
    int status = 0;
    struct rusage usage;
    if (child < 0 || wait4(child, &status, 0, &usage) != child) {
        perror("measure");
        return EXIT_NOT_RUN;
    }
    dprintf(RESULT_DESCRIPTOR, "%lld %ld\n", now_us() - began, usage.ru_maxrss);
    return WIFSIGNALED(status) ? EXIT_SIGNAL_BASE + WTERMSIG(status) : WEXITSTATUS(status);
}
