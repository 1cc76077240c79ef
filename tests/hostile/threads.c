/* Starts and ends threads that leave something for the C library to free at their end; prints by how many KiB the process grew. */
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

static pthread_key_t key;

static void release(void *block) { free(block); }

static void *work(void *unused) {
    (void)unused;
    pthread_setspecific(key, malloc(10));
    dlopen("no-such-library.so", RTLD_NOW); /* its message is freed after all destructors */
    return NULL;
}

static long resident_pages(void) {
    long size, resident = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    if (file == NULL || fscanf(file, "%ld %ld", &size, &resident) != 2) {
        exit(2);
    }
    fclose(file);
    return resident;
}

int main(void) {
    long before = 0;
    pthread_key_create(&key, release);
    for (int i = 0; i < 1200; i++) {
        pthread_t thread;
        if (i == 200) {
            before = resident_pages();
        }
        if (pthread_create(&thread, NULL, work, NULL) != 0) {
            return 1;
        }
        pthread_join(thread, NULL);
    }
    printf("%ld\n", (resident_pages() - before) * 4);
    return 0;
}
