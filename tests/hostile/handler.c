/* Allocates in a signal handler while the interrupted code allocates: must not hang, and loses no block. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>

static volatile sig_atomic_t handled;
static void *kept;

static void on_alarm(int number) {
    (void)number;
    size_t size_bytes = (size_t)handled * 37 % 3000 + 1;
    char *block = malloc(size_bytes);
    if (block != NULL) {
        memset(block, handled, size_bytes);
        char *longer = realloc(block, size_bytes + 100);
        free(kept);
        kept = longer != NULL ? longer : block;
    }
    handled++;
}

int main(void) {
    struct sigaction action = {.sa_handler = on_alarm};
    struct itimerval often = {{0, 1000}, {0, 1000}}, never = {{0, 0}, {0, 0}};
    void *blocks[64] = {NULL};
    sigaction(SIGALRM, &action, NULL);
    setitimer(ITIMER_REAL, &often, NULL);
    for (unsigned i = 0; handled < 500; i++) {
        unsigned at = i * 7919 % 64;
        free(blocks[at]);
        blocks[at] = malloc(i % 1000 == 0 ? 1200000 : i * 31 % 2000);
    }
    setitimer(ITIMER_REAL, &never, NULL);
    for (unsigned i = 0; i < 64; i++) {
        free(blocks[i]);
    }
    free(kept);
    puts("done");
    return 0;
}
