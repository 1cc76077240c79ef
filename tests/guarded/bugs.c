/* One bug in one guarded allocator. Usage: bugs ALLOCATOR BUG. The driver knows what must be found.
 * Every block is made by make_block and freed by drop_block, so that the driver can look for their names in the stacks. */
#include "allocators.h"

#include <moat.h>
#include <moat/guard_arena.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(__clang__)
#define NOINLINE __attribute__((noinline))
#else
#define NOINLINE __attribute__((noinline, noclone))
#endif
#define STAY() __asm__ volatile("" : : : "memory") /* the call before it stays a call */

static const struct allocator *self, *other;

NOINLINE char *make_block(void) {
    char *block = moat_guarded_alloc(self->guarded, BLOCK_BYTES);
    if (block == NULL) {
        puts("no block");
        exit(9);
    }
    memset(block, 1, BLOCK_BYTES);
    return block;
}

/* Frees a block as its allocator does: by itself, or with all others. */
NOINLINE void drop_block(char *block) {
    if (self->rewinds) {
        moat_guarded_arena_reset(self->guarded);
    } else {
        moat_guarded_free(self->guarded, block);
    }
    STAY();
}

static void overflow(void) {
    char *block = make_block();
    block[BLOCK_BYTES] = 'x';
    drop_block(block);
}

static void overflow_nul(void) {
    char *block = make_block();
    block[BLOCK_BYTES + 2] = '\0';
    drop_block(block);
}

static void overflow_exit(void) {
    static char *block;
    block = make_block();
    block[BLOCK_BYTES + 1] = 'x';
}

static void underflow(void) {
    char *block = make_block();
    block[-3] = 'x';
    drop_block(block);
}

static void late_check(void) {
    char *block = make_block();
    drop_block(block);
    block[7] = 'x';
    moat_check();
}

static void late_exit(void) {
    char *block = make_block();
    drop_block(block);
    block[BLOCK_BYTES - 1] = 'x';
}

/* Blocks are taken until the memory of the one written to is handed out again. */
static void late_reuse(void) {
    char *block = make_block();
    drop_block(block);
    memset(block + 8, 'x', 4);
    for (int i = 0; i < 5000 && moat_guarded_alloc(self->guarded, BLOCK_BYTES) != NULL; i++) {
    }
}

static void twice(void) {
    char *block = make_block();
    drop_block(block);
    moat_guarded_free(self->guarded, block);
}

static void singly(void) { moat_guarded_free(self->guarded, make_block()); }

static void interior(void) {
    static char *block;
    block = make_block();
    moat_guarded_free(self->guarded, block + 16);
}

static void to_the_heap(void) { free(make_block()); }

static void to_realloc(void) {
    char *grown = realloc(make_block(), 2 * BLOCK_BYTES);
    printf("%d\n", grown[BLOCK_BYTES - 1]);
    free(grown);
}

static void to_another(void) { moat_guarded_free(other->guarded, make_block()); }

static void from_the_heap(void) { moat_guarded_free(self->guarded, malloc(24)); }

static void from_the_stack(void) {
    char local[16];
    moat_guarded_free(self->guarded, local);
}

NOINLINE void lose_block(void) {
    make_block();
    STAY();
}

/* So that no stale pointer is left on the stack or in a register. */
NOINLINE void wipe_stack(void) {
    char wiped[4096];
    memset(wiped, 0, sizeof wiped);
    __asm__ volatile("" : : "r"(wiped) : "memory", "rbx", "r12", "r13", "r14", "r15");
}

static void leak(void) {
    lose_block();
    wipe_stack();
}

/* The only pointer to a block of malloc's lies in a guarded block. */
static void reaches(void) {
    static char *block;
    block = make_block();
    void *held = malloc(100);
    memcpy(block + 8, &held, sizeof held);
    wipe_stack();
}

static void clean(void) {
    char *blocks[64];
    for (int round = 0; round < 50; round++) {
        int count = 0;
        while (count < 64 && (blocks[count] = moat_guarded_alloc(self->guarded, BLOCK_BYTES)) != NULL) {
            memset(blocks[count], round, BLOCK_BYTES);
            count++;
        }
        for (int i = 0; i < count; i++) {
            drop_block(blocks[i]);
        }
        printf("%d%s", count, round == 49 ? "\n" : " ");
    }
    moat_check();
}

static const struct {
    const char *name;
    void (*run)(void);
} bugs[] = {
    {"overflow", overflow},
    {"overflow_nul", overflow_nul},
    {"overflow_exit", overflow_exit},
    {"underflow", underflow},
    {"late_check", late_check},
    {"late_exit", late_exit},
    {"late_reuse", late_reuse},
    {"twice", twice},
    {"singly", singly},
    {"interior", interior},
    {"to_the_heap", to_the_heap},
    {"to_realloc", to_realloc},
    {"to_another", to_another},
    {"from_the_heap", from_the_heap},
    {"from_the_stack", from_the_stack},
    {"leak", leak},
    {"reaches", reaches},
    {"clean", clean},
};

int main(int argc, char **argv) {
    if (argc != 3 || !allocators_start()) {
        puts("no allocators");
        return 9;
    }
    for (int i = 0; i < ALLOCATOR_COUNT; i++) {
        if (strcmp(argv[1], allocators[i].key) == 0) {
            self = &allocators[i];
            other = &allocators[i == POOL ? OTHER_POOL : POOL];
        }
    }
    for (size_t i = 0; i < sizeof bugs / sizeof bugs[0]; i++) {
        if (self != NULL && strcmp(argv[2], bugs[i].name) == 0) {
            bugs[i].run();
            wipe_stack();
            return 0;
        }
    }
    puts("no such bug");
    return 9;
}
