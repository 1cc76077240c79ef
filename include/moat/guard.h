/* A guard over an allocator of the program's own: pool, arena, the RTOS's heap, anything that fits struct moat_backend.
 * May include: moat/backend.h, moat/source.h and the C library's freestanding headers.
 *
 * The allocator below is not changed and knows nothing of it. Blocks get the same header, zones, poison and quarantine as
 * malloc's; findings name the allocator; freeing a block to another allocator than its own is a finding that names both.
 * Every block costs MOAT_GUARD_BYTES(size) of the allocator's memory instead of size.
 *
 *   static unsigned char memory[16384];
 *   static struct moat_guarded messages;
 *   moat_guarded_init(&messages, &(struct moat_guarded_config){.name = "message heap", .backend = &my_backend,
 *                                                             .context = &my_heap, .memory = memory,
 *                                                             .memory_bytes = sizeof memory});
 *   void *p = moat_guarded_alloc(&messages, 100);
 *   moat_guarded_free(&messages, p);
 *
 * The guard has a lock and holds it around every call of the backend, so threads may share the allocator through the guard
 * even if it has no lock of its own. From moat_guarded_init on the allocator is used through the guard only.
 * moat/guard_pool.h and moat/guard_arena.h have what pools and arenas need besides. */
#ifndef MOAT_GUARD_H
#define MOAT_GUARD_H

#include "moat/backend.h"
#include "moat/source.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What is before the user's bytes in a block, and the least that is behind them, whatever the option `redzone` says. */
#define MOAT_GUARD_LEAD_BYTES 48u
#define MOAT_GUARD_REAR_BYTES 16u

/* The size that an allocator of fixed blocks must have for user blocks of `size_bytes`. */
#define MOAT_GUARD_BYTES(size_bytes)                                                                                   \
    ((((size_t)(size_bytes) + MOAT_GUARD_LEAD_BYTES + MOAT_GUARD_REAR_BYTES + 15u) / 16u) * 16u)

struct moat_guarded_config {
    const char *name;                   /* for reports, "message pool"; static text of up to 31 bytes */
    const struct moat_backend *backend; /* alloc, free and usable are needed, all else may be NULL */
    void *context;                      /* the backend's */
    void *memory;            /* what the backend takes its blocks from. NULL when all of it is yet to come, from */
    size_t memory_bytes;     /* moat_guarded_add_memory or a guarded source */
    size_t quarantine_bytes; /* how much freed memory is held back; drained before an allocation may fail */
    bool rewinds;            /* blocks are not freed singly: moat_guarded_release frees ranges of them, as an arena's */
    const struct moat_backend *(*backend_of)(
        void); /* gives the backend, where a constant expression is needed; may be NULL */
};

/* Private to Moat. All zero, or MOAT_GUARDED_INIT, before it is first used; what Moat keeps of it lies elsewhere. */
struct moat_guarded {
    void *state;
    const struct moat_guarded_config *config;
};

/* Initialises a struct moat_guarded at file scope so that the first call that uses it calls moat_guarded_init: it is ready before
 * main and in any thread. The config must live as long. */
#define MOAT_GUARDED_INIT(config_address)                                                                              \
    { 0, config_address }

/* Prepares a guard over an allocator from which no block has been taken yet.
 * Takes:   config, read during the call only, but for the name and the backend, which must live as long as the guard.
 * Fails:   false, and nothing changes, with errno
 *            EINVAL  name, backend or one of the backend's needed functions is missing, or memory_bytes without memory;
 *            EBUSY   it is a guard already;
 *            EEXIST  the memory overlaps memory that is guarded already: another guard's, or a block that malloc gave;
 *            ENOMEM  there is no memory for the block map.
 * Context: any thread. Two threads must not guard the same memory at the same moment. */
bool moat_guarded_init(struct moat_guarded *guarded, const struct moat_guarded_config *config);

/* Tells the guard of more memory that the allocator may take blocks from. Must come before the allocator uses it.
 * Fails:   false with errno EINVAL (no guard, no memory), EEXIST or ENOMEM as for init. */
bool moat_guarded_add_memory(struct moat_guarded *guarded, void *memory, size_t memory_bytes);

/* Takes memory out again, all of it or a part, that the allocator will not use any more. Freed blocks in it are proved.
 * Fails:   false with errno EBUSY when there is a live block in it, or a freed one that was written to and not reported yet
 *          (the next check does), ENOMEM when the map cannot be cut there; nothing changes. */
bool moat_guarded_remove_memory(struct moat_guarded *guarded, void *memory, size_t memory_bytes);

/* Gives a block of exactly size_bytes to the program, aligned as the allocator's own are (to 8 at least) or to `alignment`, a
 * power of two.
 * Fails:   NULL with errno ENOMEM when the allocator has none even with the quarantine drained, EINVAL for a bad alignment. */
void *moat_guarded_alloc(struct moat_guarded *guarded, size_t size_bytes);
void *moat_guarded_alloc_aligned(struct moat_guarded *guarded, size_t size_bytes, size_t alignment);

/* Takes a block back. NULL is fine. Whatever is wrong with it is a finding, and on_error says what follows. */
void moat_guarded_free(struct moat_guarded *guarded, void *block);

/* Frees every block that starts in [start, start + size_bytes): their zones are proved, their bytes poisoned. The poison is proved
 * when the allocator hands any part of their memory out again, when the memory leaves, by every check and at exit. Only for guards
 * that rewind; others ignore it. */
void moat_guarded_release(struct moat_guarded *guarded, void *start, size_t size_bytes);

/* Ends the guard: checks all blocks, gives those in quarantine back to the allocator and forgets the rest and all memory. The
 * allocator may then go, or be used without a guard; blocks that are still live cannot be freed to it. */
void moat_guarded_close(struct moat_guarded *guarded);

/* Keeps all others out of the allocator, to look at it or to trim it directly. Blocks must neither be taken nor freed in between,
 * nor may anything be allocated with malloc. */
void moat_guarded_lock(struct moat_guarded *guarded);
void moat_guarded_unlock(struct moat_guarded *guarded);

/* For allocators that grow: a source that tells the guard of the memory which the inner source gives before the allocator sees
 * it, and takes it from the guard before it goes back. Private to Moat. */
struct moat_guarded_source {
    struct moat_source source;
    struct moat_guarded *guarded;
    const struct moat_source *inner;
};

/* Sets such a source up.
 * Takes:   the guard, which may be initialised later but before memory is asked for; the inner source, whose memory must not come
 *          from malloc.
 * Gives:   &source->source, for the allocator's config. It gives NULL where the inner source does or the map has no room. It
 *          refuses to take memory back as long as moat_guarded_remove_memory would.
 * Owns:    the caller keeps all three as long as the allocator. */
const struct moat_source *moat_guarded_source_init(struct moat_guarded_source *source, struct moat_guarded *guarded,
                                                   const struct moat_source *inner);

#ifdef __cplusplus
}
#endif
#endif
