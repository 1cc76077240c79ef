// Allocated by one thread, freed by another.
// find: kind=heap-buffer-overflow when=free size=33 first=33 last=33
// status: 134
// libs: -pthread
#include <pthread.h>
#include <stdlib.h>

static void *make_block(void *unused) { return malloc(33); /* @allocated make_block */ }

int main(void) {
    pthread_t thread;
    void *block = NULL;
    pthread_create(&thread, NULL, make_block, NULL);
    pthread_join(thread, &block);
    ((char *)block)[33] = 0;
    free(block); /* @found main */
    return 0;
}
