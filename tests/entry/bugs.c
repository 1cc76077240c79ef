/* Bugs in functions with names, to be suppressed. Usage: bugs leak|overflow|stale|twice...
 * May include: the C library. */
#include <stdlib.h>
#include <string.h>

#if defined(__clang__)
#define NOINLINE __attribute__((noinline))
#else
#define NOINLINE __attribute__((noinline, noclone))
#endif
/* Behind a function's last call, which so stays a call: a jump would leave no frame. */
#define STAY() __asm__ volatile("" : : : "memory")

NOINLINE char *make_block(size_t size) {
    char *block = malloc(size);
    __asm__ volatile("" : "+r"(block) : : "memory");
    return block;
}

NOINLINE void forget_block(void) {
    char *volatile block = make_block(100);
    memset(block, 1, 100);
    block = NULL;
}

NOINLINE void write_past(void) {
    char *volatile block = make_block(24);
    block[24] = 'x';
    free(block);
    STAY();
}

NOINLINE void release(char *block) {
    free(block);
    STAY();
}

NOINLINE void write_late(void) {
    char *volatile block = make_block(200);
    release(block);
    block[5] = 'x';
}

NOINLINE void free_twice(void) {
    char *volatile block = make_block(30);
    release(block);
    release(block);
    STAY();
}

/* So that no stale pointer is left on the stack or in a register. */
NOINLINE void wipe_stack(void) {
    char wiped[4096];
    memset(wiped, 0, sizeof wiped);
    __asm__ volatile("" : : "r"(wiped) : "memory", "rbx", "r12", "r13", "r14", "r15");
}

int main(int argc, char **argv) {
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "leak") == 0) {
            forget_block();
        } else if (strcmp(argv[i], "overflow") == 0) {
            write_past();
        } else if (strcmp(argv[i], "stale") == 0) {
            write_late();
        } else if (strcmp(argv[i], "twice") == 0) {
            free_twice();
        }
        wipe_stack();
    }
    return 0;
}
