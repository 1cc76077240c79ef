// Freed by two threads, one after the other.
// find: kind=double-free when=free size=24
// status: 134
// libs: -pthread
#include <pthread.h>
#include <stdlib.h>

static void *release(void *block) {
    free(block); /* @freed release */
    return NULL;
}

int main(void) {
    pthread_t thread;
    void *block = malloc(24); /* @allocated main */
    pthread_create(&thread, NULL, release, block);
    pthread_join(thread, NULL);
    free(block); /* @found main */
    return 0;
}
