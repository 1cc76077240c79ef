// The damage is met inside a signal handler that frees: the stack goes through the handler to what it interrupted.
// find: kind=heap-buffer-overflow when=free size=20 first=20 last=20
// status: 134
#include <signal.h>
#include <stdlib.h>

static char *block;

static void on_signal(int number) {
    (void)number;
    free(block); /* @found on_signal */
}

int main(void) {
    signal(SIGUSR1, on_signal);
    block = malloc(20); /* @allocated main */
    block[20] = 0;
    raise(SIGUSR1); /* @found2 main */
    return 0;
}
