/* What the guard gets blocks from: the seam between the engine and any allocator.
 * May include: the C library's freestanding headers only.
 *
 * Moat's heap is one backend, its page allocator another; pools, arenas and allocators of a user's own fit the same table.
 * The caller of a backend holds the lock that protects it. */
#ifndef MOAT_BACKEND_H
#define MOAT_BACKEND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What a backend found wrong with its own structures. */
struct moat_fault {
    const char *rule;     /* static text: which invariant does not hold, as "next block's back link" */
    uintptr_t block;      /* address of the block that breaks it, as the backend hands it out */
    uint64_t fault_count; /* how many were found so far, this one included */
};

/* One block as `walk` shows it. */
struct moat_backend_block {
    void *start;       /* as given by alloc */
    size_t size_bytes; /* usable size */
    bool used;
};

struct moat_backend {
    /* Gives a block.
     * Takes:   size_bytes >= 1; alignment, a power of two; lead_bytes, at which offset into the block the alignment is
     *          wanted: the result p satisfies (p + lead_bytes) % alignment == 0. p itself is aligned for a pointer pair.
     * Gives:   a block of at least size_bytes, contents unspecified, or NULL when there is none; nothing changes then. */
    void *(*alloc)(void *context, size_t size_bytes, size_t alignment, size_t lead_bytes);

    /* Takes a block back. False when the backend refuses it, because it or its neighbours are damaged: the block is
     * then lost on purpose, never handed out again, and `fault` tells why. */
    bool (*free)(void *context, void *block);

    /* Changes a block's size in place; false leaves it as it was. May be NULL: never in place. */
    bool (*resize)(void *context, void *block, size_t size_bytes);

    /* The usable size of a block; 0 when the backend cannot vouch for it. */
    size_t (*usable)(void *context, void *block);

    /* Visits every block in address order until `visit` says false. Ends on any corruption; true when it went through.
     * May be NULL. */
    bool (*walk)(void *context, bool (*visit)(void *argument, const struct moat_backend_block *block), void *argument);

    /* The latest fault, if one was found since the last call. May be NULL: never any. */
    bool (*fault)(void *context, struct moat_fault *fault);

    /* For backends whose freed blocks become inaccessible instead of being poisoned; all three NULL for the others.
     * detach:  copies the first `dress_bytes` of a block to a place outside it.
     * dress:   that copy, or NULL when the block was not detached.
     * conceal: makes the detached block's bytes inaccessible. */
    void (*detach)(void *context, void *block, size_t dress_bytes);
    void *(*dress)(void *context, void *block);
    void (*conceal)(void *context, void *block);
};

#ifdef __cplusplus
}
#endif
#endif
