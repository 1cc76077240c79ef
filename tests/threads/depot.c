/* Threads that intern the same and different stacks at once: every stack keeps one id, and the tree holds what went in.
 * May include: guard/engine/depot.h, the C library, pthread.h. Built with ThreadSanitizer. */
#include "guard/engine/depot.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

enum { THREADS = 8, STACKS = 3000, DEPTH = 12, ROUNDS = 3 };

static struct moat_depot depot;
static uint32_t ids[THREADS][STACKS];
static pthread_barrier_t barrier;

static void *acquire(void *context, size_t size_bytes, size_t *got_bytes) {
    (void)context;
    *got_bytes = size_bytes;
    return calloc(1, size_bytes);
}

static bool release(void *context, void *start, size_t size_bytes) {
    (void)context;
    (void)size_bytes;
    free(start);
    return true;
}

static const struct moat_source source = {acquire, release, NULL};

/* Frame `depth` of a stack: outer frames are shared by many, the inner ones by few. */
static uintptr_t frame_of(unsigned stack, unsigned depth) {
    return (uintptr_t)0x400000 + (stack >> (depth > 11 ? 0 : 11 - depth)) * 64 + depth;
}

static void *intern(void *argument) {
    unsigned self = (unsigned)(uintptr_t)argument;
    for (unsigned round = 0; round < ROUNDS; round++) {
        pthread_barrier_wait(&barrier);
        for (unsigned i = 0; i < STACKS; i++) {
            unsigned stack =
                round == 0 ? i : (i * 7 + self * 131) % STACKS; /* all at the same ones, then each at others */
            uint32_t id = 0;
            for (unsigned depth = 0; depth < DEPTH; depth++)
                id = moat_depot_push(&depot, id, frame_of(stack, depth), false);
            if (ids[self][stack] != 0 && ids[self][stack] != id) {
                fprintf(stderr, "depot: stack %u has two ids\n", stack);
                exit(1);
            }
            ids[self][stack] = id;
            struct moat_depot_node node;
            if (!moat_depot_frame(&depot, id, &node) || node.pc != frame_of(stack, DEPTH - 1)) {
                fprintf(stderr, "depot: stack %u comes out differently\n", stack);
                exit(1);
            }
        }
    }
    return NULL;
}

int main(void) {
    if (!moat_depot_init(&depot, &source, NULL))
        return 1;
    pthread_t threads[THREADS];
    pthread_barrier_init(&barrier, NULL, THREADS);
    for (unsigned i = 0; i < THREADS; i++)
        pthread_create(&threads[i], NULL, intern, (void *)(uintptr_t)i);
    for (unsigned i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    for (unsigned stack = 0; stack < STACKS; stack++) {
        uint32_t id = ids[0][stack];
        for (unsigned i = 1; i < THREADS; i++) {
            if (ids[i][stack] != id) {
                fprintf(stderr, "depot: threads disagree on stack %u\n", stack);
                return 1;
            }
        }
        for (unsigned depth = DEPTH; depth-- > 0;) {
            struct moat_depot_node node;
            if (!moat_depot_frame(&depot, id, &node) || node.pc != frame_of(stack, depth)) {
                fprintf(stderr, "depot: stack %u lost frame %u\n", stack, depth);
                return 1;
            }
            id = node.parent;
        }
    }
    return atomic_load(&depot.lost) != 0;
}
