/* The pool as a backend.
 * May include: moat/pool.h and freestanding headers. */
#include "moat/pool.h"

/* Whether every block has an address p with (p + lead) % alignment == 0. */
static bool all_aligned(const struct moat_pool *pool, size_t alignment, size_t lead_bytes) {
    bool is_power = alignment != 0 && (alignment & (alignment - 1)) == 0;
    return is_power && (pool->block_size_bytes & (alignment - 1)) == 0 &&
           (((uintptr_t)pool->blocks + lead_bytes) & (alignment - 1)) == 0;
}

static void *backend_alloc(void *context, size_t size_bytes, size_t alignment, size_t lead_bytes) {
    const struct moat_pool *pool = context;
    if (size_bytes <= pool->block_size_bytes && all_aligned(pool, alignment, lead_bytes))
        return moat_pool_alloc(pool);
    return NULL;
}

static bool backend_free(void *context, void *block) { return moat_pool_free(context, block); }

/* Every block has the same size, so one that is large enough already has been resized. */
static bool backend_resize(void *context, void *block, size_t size_bytes) {
    return size_bytes <= moat_pool_usable(context, block);
}

static size_t backend_usable(void *context, void *block) { return moat_pool_usable(context, block); }

static bool backend_walk(void *context, bool (*visit)(void *argument, const struct moat_backend_block *block),
                         void *argument) {
    return moat_pool_walk(context, visit, argument);
}

static bool backend_fault(void *context, struct moat_fault *fault) { return moat_pool_take_fault(context, fault); }

const struct moat_backend *moat_pool_backend(void) {
    static const struct moat_backend backend = {
        .alloc = backend_alloc,
        .free = backend_free,
        .resize = backend_resize,
        .usable = backend_usable,
        .walk = backend_walk,
        .fault = backend_fault,
    };
    return &backend;
}
