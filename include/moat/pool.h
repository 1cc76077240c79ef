/* Pools: blocks of one size, taken and given back in constant time, whatever was done before.
 * May include: moat/backend.h and the C library's freestanding headers.
 *
 *   state | bitmap: used blocks, full words of it, full words of those ... | block | block | ... | block |
 *
 * A pool's description never changes and may lie in flash. What does change lies outside the blocks, and all zero means
 * "all free": a static pool in .bss is ready before main, in any constructor, in an interrupt handler, without a call.
 *
 *   MOAT_POOL_DEFINE(messages, sizeof(struct message), 32);
 *   struct message *m = moat_pool_alloc(&messages);
 *   moat_pool_free(&messages, m);
 */
#ifndef MOAT_POOL_H
#define MOAT_POOL_H

#include "moat/backend.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What every block's address and size is a multiple of. Blocks are aligned, moreover, to the largest power of two that
 * divides their size, up to MOAT_POOL_ALIGNMENT_BYTES_MAX: blocks of 64 bytes to 64. */
#define MOAT_POOL_ALIGNMENT_BYTES (2 * sizeof(uintptr_t))
#define MOAT_POOL_ALIGNMENT_BYTES_MAX ((size_t)64)

/* Levels of the bitmap, and what they can tell apart: a million blocks where words have 32 bits, 16 million with 64. */
#define MOAT_POOL_LEVELS_MAX 4
#define MOAT_POOL_WORD_BITS (sizeof(uintptr_t) * 8)
#define MOAT_POOL_BLOCKS_MAX ((size_t)1 << (sizeof(uintptr_t) > 4 ? 24 : 20))

/* How a pool that threads, or a thread and an interrupt handler, share is locked. Every call takes the lock once, but
 * for walk, which takes it for each block, and verify, which takes none; it is held for a time that does not depend on
 * how many blocks there are.
 * enter: keeps everybody else out, interrupts too where they use the pool, and gives what `leave` needs to undo it,
 *        such as PRIMASK before it was set. It must nest if it can be held already. */
struct moat_pool_lock {
    uintptr_t (*enter)(void *context);
    void (*leave)(void *context, uintptr_t entered);
    void *context;
};

/* What changes in a pool. Private to src/pool. */
struct moat_pool_state {
    size_t used_count;
    size_t used_count_peak;
    size_t allocation_count;
    size_t failure_count;
    size_t refusal_count;
    uintptr_t fault_block;
    uint32_t fault_count;
    uint8_t fault_rule;
    uint8_t fault_pending;
    uint8_t reserved[2];
};

/* A pool's description. Private to src/pool; made by MOAT_POOL_DEFINE or moat_pool_init. */
struct moat_pool {
    unsigned char *blocks;
    uintptr_t *used; /* bitmap, level after level */
    struct moat_pool_state *state;
    const struct moat_pool_lock *lock; /* NULL: none */
    size_t block_size_bytes;           /* rounded */
    size_t block_count;
    size_t size_inverse; /* of the odd part of the block size, modulo 2^word: dividing by it is a multiplication */
    size_t size_shift;   /* log2 of the even part */
};

/* Defines a pool at file scope: `const struct moat_pool name`, storage included. MOAT_POOL_DECLARE makes it known in
 * other files.
 * Takes:   block_size_bytes > 0, rounded up to MOAT_POOL_ALIGNMENT_BYTES; block_count, 1 to MOAT_POOL_BLOCKS_MAX; both
 *          constant expressions. */
#define MOAT_POOL_DEFINE(name, block_size_bytes, block_count)                                                          \
    MOAT_POOL_DEFINE_SHARED(name, block_size_bytes, block_count, NULL)
#define MOAT_POOL_DECLARE(name) extern const struct moat_pool name

/* The same with a lock, the address of a struct moat_pool_lock, so that threads and interrupt handlers may share the
 * pool. */
#define MOAT_POOL_DEFINE_SHARED(name, block_size_bytes, block_count, lock_address)                                     \
    static struct {                                                                                                    \
        struct moat_pool_state state;                                                                                  \
        uintptr_t used[MOAT_POOL_MAP_WORDS(block_count)];                                                              \
        unsigned char blocks[MOAT_POOL_ROUND(block_size_bytes) * (size_t)(block_count)]                                \
            __attribute__((aligned(MOAT_POOL_ALIGN_OF(MOAT_POOL_ROUND(block_size_bytes)))));                           \
    } moat_pool_storage_of_##name;                                                                                     \
    MOAT_POOL_DECLARE(name);                                                                                           \
    MOAT_POOL_CHECK((size_t)(block_count) >= 1 && (size_t)(block_count) <= MOAT_POOL_BLOCKS_MAX,                       \
                    "a pool has too many blocks, or none");                                                            \
    MOAT_POOL_CHECK((size_t)(block_size_bytes) >= 1, "a pool's blocks have no bytes");                                 \
    const struct moat_pool name = {                                                                                    \
        moat_pool_storage_of_##name.blocks,                                                                            \
        moat_pool_storage_of_##name.used,                                                                              \
        &moat_pool_storage_of_##name.state,                                                                            \
        lock_address,                                                                                                  \
        MOAT_POOL_ROUND(block_size_bytes),                                                                             \
        (size_t)(block_count),                                                                                         \
        MOAT_POOL_INVERSE(MOAT_POOL_ROUND(block_size_bytes) / MOAT_POOL_EVEN(MOAT_POOL_ROUND(block_size_bytes))),      \
        (size_t)__builtin_ctzl((unsigned long)MOAT_POOL_ROUND(block_size_bytes)),                                      \
    }

/* Makes a pool in a buffer, which holds as many blocks as fit, its state and its bitmap.
 * Takes:   pool, to be filled in; any buffer; block_size_bytes > 0; lock, or NULL.
 * Gives:   how many blocks there are.
 * Fails:   0 when not one fits; the pool is then one that never has a block.
 * Owns:    the pool owns the buffer until the caller stops using the pool; there is nothing to destroy. */
size_t moat_pool_init(struct moat_pool *pool, void *buffer, size_t bytes, size_t block_size_bytes,
                      const struct moat_pool_lock *lock);

/* Gives the free block with the lowest address, contents unspecified.
 * Fails:   NULL when all are used; it is counted.
 * Cost:    O(1): one word of each level, at most MOAT_POOL_LEVELS_MAX.
 * Context: anywhere that the pool's lock allows. */
void *moat_pool_alloc(const struct moat_pool *pool);

/* Takes a block back. NULL is fine and does nothing.
 * Fails:   false when the pointer is not in the pool, not at a block's start, or its block is free already. Nothing
 *          changes; it is counted, and `moat_pool_take_fault` tells why. No memory outside the pool's state is read or
 *          written.
 * Cost:    O(1), as alloc.
 * Context: as alloc. */
bool moat_pool_free(const struct moat_pool *pool, void *block);

/* Whether an address lies among the pool's blocks, used or free. */
bool moat_pool_holds(const struct moat_pool *pool, const void *address);

/* Whether the pool has a lock, and so may be used from wherever that lock allows. */
bool moat_pool_is_shared(const struct moat_pool *pool);

/* The usable size of a used block, which is the rounded block size; 0 when the pointer is no used block's start. */
size_t moat_pool_usable(const struct moat_pool *pool, const void *block);

/* Visits every block, used and free, in address order, until `visit` says false.
 * Context: the lock is not held while `visit` runs: it sees a shared pool as it is from block to block, and may call
 *          the pool. */
bool moat_pool_walk(const struct moat_pool *pool, bool (*visit)(void *argument, const struct moat_backend_block *block),
                    void *argument);

struct moat_pool_statistics {
    size_t block_size_bytes; /* rounded */
    size_t block_count;
    size_t used_count;
    size_t used_count_peak;  /* the most there ever were */
    size_t allocation_count; /* successful allocations so far; wraps */
    size_t failure_count;    /* allocations that got NULL; wraps */
    size_t refusal_count;    /* frees that were refused; wraps */
};

/* Fills in the statistics, all of the same moment. */
void moat_pool_statistics(const struct moat_pool *pool, struct moat_pool_statistics *statistics);

/* Checks that the levels of the bitmap and the count of used blocks agree, and changes nothing.
 * Gives:   true when they do; else false with *fault (may be NULL) filled in.
 * Cost:    O(blocks / bits of a word).
 * Context: nobody else may use the pool meanwhile. */
bool moat_pool_verify(const struct moat_pool *pool, struct moat_fault *fault);

/* The latest fault that a call ran into, if there was one since the last time this was asked. */
bool moat_pool_take_fault(const struct moat_pool *pool, struct moat_fault *fault);

/* The pool as a backend. Requests beyond the block size get NULL, and so do alignments that not every block has. */
const struct moat_backend *moat_pool_backend(void);

/* A pool as the context of its backend. The backend never writes to the description. */
static inline void *moat_pool_context(const struct moat_pool *pool) { return (void *)(uintptr_t)pool; }

/* ---- what MOAT_POOL_DEFINE computes ------------------------------------------------------------------------------ */

#ifdef __cplusplus
#define MOAT_POOL_CHECK(condition, text) static_assert(condition, text)
#else
#define MOAT_POOL_CHECK(condition, text) _Static_assert(condition, text)
#endif

#define MOAT_POOL_ROUND(size)                                                                                          \
    (((size_t)(size) + MOAT_POOL_ALIGNMENT_BYTES - 1) / MOAT_POOL_ALIGNMENT_BYTES * MOAT_POOL_ALIGNMENT_BYTES)
#define MOAT_POOL_EVEN(size) ((size) & (0 - (size)))
#define MOAT_POOL_ALIGN_OF(size)                                                                                       \
    (MOAT_POOL_EVEN(size) < MOAT_POOL_ALIGNMENT_BYTES_MAX ? MOAT_POOL_EVEN(size) : MOAT_POOL_ALIGNMENT_BYTES_MAX)

/* Words in a bitmap of n bits, and in all levels of it; a level of one word is the top. */
#define MOAT_POOL_WORDS(n) (((size_t)(n) + MOAT_POOL_WORD_BITS - 1) / MOAT_POOL_WORD_BITS)
#define MOAT_POOL_LEVEL_ABOVE(words) ((words) > 1 ? MOAT_POOL_WORDS(words) : 0)
#define MOAT_POOL_WORDS_1(n) MOAT_POOL_LEVEL_ABOVE(MOAT_POOL_WORDS(n))
#define MOAT_POOL_WORDS_2(n) MOAT_POOL_LEVEL_ABOVE(MOAT_POOL_WORDS_1(n))
#define MOAT_POOL_WORDS_3(n) MOAT_POOL_LEVEL_ABOVE(MOAT_POOL_WORDS_2(n))
#define MOAT_POOL_MAP_WORDS(n) (MOAT_POOL_WORDS(n) + MOAT_POOL_WORDS_1(n) + MOAT_POOL_WORDS_2(n) + MOAT_POOL_WORDS_3(n))

/* The inverse of an odd number modulo 2^word by Newton's iteration: 5 bits are right at first, twice as many after each
 * step. */
#define MOAT_POOL_INVERSE_5(odd) ((3 * (size_t)(odd)) ^ (size_t)2)
#define MOAT_POOL_NEWTON(odd, x) ((x) * (2 - (size_t)(odd) * (x)))
#define MOAT_POOL_INVERSE_10(odd) MOAT_POOL_NEWTON(odd, MOAT_POOL_INVERSE_5(odd))
#define MOAT_POOL_INVERSE_20(odd) MOAT_POOL_NEWTON(odd, MOAT_POOL_INVERSE_10(odd))
#define MOAT_POOL_INVERSE_40(odd) MOAT_POOL_NEWTON(odd, MOAT_POOL_INVERSE_20(odd))
#define MOAT_POOL_INVERSE(odd) MOAT_POOL_NEWTON(odd, MOAT_POOL_INVERSE_40(odd))

#ifdef __cplusplus
}
#endif
#endif
