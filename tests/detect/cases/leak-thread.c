// Another thread is alive at the end: the leak check is left out, and said to be.
// none:
// status: 24
// event: could-not-run
// libs: -pthread
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

static void *sleep_on(void *unused) {
    for (;;)
        pause();
    return unused;
}

int main(void) {
    pthread_t thread;
    pthread_create(&thread, NULL, sleep_on, NULL);
    volatile char *block = malloc(77);
    block[0] = 1;
    block = NULL;
    return 0;
}
