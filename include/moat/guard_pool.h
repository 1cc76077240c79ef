/* Guarded pools: defining one at file scope.
 * May include: moat/pool.h, moat/guard.h and the C library's freestanding headers.
 *
 *   MOAT_GUARDED_POOL_DEFINE(messages, sizeof(struct message), 32, 4);
 *   struct message *m = moat_guarded_alloc(&messages, sizeof *m);
 *   moat_guarded_free(&messages, m);
 *
 * A pool that exists already is guarded like any other allocator, with moat_pool_backend; its blocks must then be of
 * MOAT_GUARD_BYTES(size) bytes, or its users are content with as much less. */
#ifndef MOAT_GUARD_POOL_H
#define MOAT_GUARD_POOL_H

#include "moat/guard.h"
#include "moat/pool.h"

/* Defines `struct moat_guarded name` over a pool of block_count blocks for user blocks of up to block_size_bytes, storage included,
 * ready before main. Reports call it by `name`.
 * Takes:   block_size_bytes, block_count: as MOAT_POOL_DEFINE; held_count, how many freed blocks are held back as long as there
 *          are others, which is how late a use after free can be and still be found. All three constant expressions.
 * Blocks:  aligned to 16. The pool itself is name_pool. */
#define MOAT_GUARDED_POOL_DEFINE(name, block_size_bytes, block_count, held_count)                                      \
    MOAT_POOL_DEFINE(name##_pool, MOAT_GUARD_BYTES(block_size_bytes), block_count);                                    \
    static const struct moat_guarded_config name##_config = {                                                          \
        #name,                                                                                                         \
        0,                                                                                                             \
        (void *)(uintptr_t)&name##_pool,                                                                               \
        moat_pool_storage_of_##name##_pool.blocks,                                                                     \
        sizeof moat_pool_storage_of_##name##_pool.blocks,                                                              \
        (MOAT_GUARD_BYTES(block_size_bytes) + MOAT_GUARD_HELD_BYTES) * (size_t)(held_count),                           \
        false,                                                                                                         \
        moat_pool_backend};                                                                                            \
    struct moat_guarded name = MOAT_GUARDED_INIT(&name##_config)
#define MOAT_GUARDED_POOL_DECLARE(name) extern struct moat_guarded name

/* What a block held back costs of quarantine_bytes beyond its own size. */
#define MOAT_GUARD_HELD_BYTES 16u

#endif
