/* The four allocators that the tests guard: the user's own list, Moat's heap, a pool and an arena. */
#ifndef MOAT_TESTS_GUARDED_ALLOCATORS_H
#define MOAT_TESTS_GUARDED_ALLOCATORS_H

#include <moat/guard.h>

#include <stdbool.h>
#include <stddef.h>

/* What every test block has; the pool's blocks are of this size. */
#define BLOCK_BYTES 40u

struct allocator {
    const char *key;
    const char *name; /* as reports must call it */
    struct moat_guarded *guarded;
    bool rewinds;
};

enum { LIST, HEAP, POOL, ARENA, OTHER_POOL, ALLOCATOR_COUNT };
extern const struct allocator allocators[ALLOCATOR_COUNT];

/* The arena below the guarded one. */
struct moat_arena *allocators_arena(void);

/* Prepares all of them; false when one cannot be. */
bool allocators_start(void);

#endif
