/* A guard over an allocator of the program's own: pool, arena, the RTOS's heap, anything that fits struct moat_backend.
 * May include: moat's public headers and the C library's freestanding ones.
 *
 * The allocator below is not changed and knows nothing of it. Blocks get the same header, zones, poison and quarantine as malloc's;
 * findings name the allocator; freeing a block to another allocator than its own is a finding that names both.
 * Every block costs MOAT_GUARD_BYTES(size) of the allocator's memory instead of size.
 *
 *   static unsigned char memory[16384];
 *   static struct moat_guarded messages;
 *   moat_guarded_init(&messages, &(struct moat_guarded_config){.name = "message heap", .backend = &my_backend,
 *                                                             .context = &my_heap, .memory = memory,
 *                                                             .memory_bytes = sizeof memory});
 *   void *p = moat_guarded_alloc(&messages, 100);
 *   moat_guarded_free(&messages, p);
 */
#ifndef MOAT_GUARD_H
#define MOAT_GUARD_H

#include "moat/arena.h"
#include "moat/backend.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What is before the user's bytes in a block, and the least that is behind them. */
#define MOAT_GUARD_LEAD_BYTES 48u
#define MOAT_GUARD_REAR_BYTES 16u

/* The size that an allocator of fixed blocks must have for user blocks of `size_bytes`. */
#define MOAT_GUARD_BYTES(size_bytes) ((((size_bytes) + MOAT_GUARD_LEAD_BYTES + MOAT_GUARD_REAR_BYTES + 15u) / 16u) * 16u)

struct moat_guarded_config {
    const char *name; /* for reports, "message pool"; static text of up to 31 bytes */
    const struct moat_backend *backend;
    void *context; /* the backend's */
    void *memory;  /* what the backend takes its blocks from; more of it with moat_guarded_add_memory */
    size_t memory_bytes;
    size_t quarantine_bytes; /* how much freed memory is held back; drained before an allocation may fail */
    bool rewinds;            /* blocks are not freed singly: moat_guarded_release frees ranges of them, as an arena's */
};

/* Opaque; its contents are Moat's. Static or otherwise longer-lived than any of its blocks. */
struct moat_guarded {
    _Alignas(64) unsigned char contents[2048];
};

/* Prepares a guard over an allocator from which no block has been taken yet.
 * Gives:   false when the config is incomplete, the memory overlaps memory that is guarded already, or there is none for the block map;
 *          nothing changes then. */
bool moat_guarded_init(struct moat_guarded *guarded, const struct moat_guarded_config *config);

/* Tells the guard of more memory that the allocator may take blocks from; false as for init. Must come before it is used. */
bool moat_guarded_add_memory(struct moat_guarded *guarded, void *memory, size_t memory_bytes);

/* Gives a block of exactly size_bytes to the program, aligned as the allocator's own are (to 8 at least) or to `alignment`, a power of
 * two; NULL with errno ENOMEM when the allocator has none even with the quarantine drained. */
void *moat_guarded_alloc(struct moat_guarded *guarded, size_t size_bytes);
void *moat_guarded_alloc_aligned(struct moat_guarded *guarded, size_t size_bytes, size_t alignment);

/* Takes a block back. NULL is fine. Whatever is wrong with it is a finding, and on_error says what follows. */
void moat_guarded_free(struct moat_guarded *guarded, void *block);

/* Frees every block that lies in [start, start + size_bytes): their zones are proved, their bytes poisoned. The poison is proved when
 * the allocator hands the memory out again, and by every check. Only for guards that rewind. */
void moat_guarded_release(struct moat_guarded *guarded, void *start, size_t size_bytes);

/* Ends the guard: checks and forgets all blocks and all memory. The allocator may then go. */
void moat_guarded_close(struct moat_guarded *guarded);

/* An arena's rewind, reset and close with all of the above done for the blocks that go. */
void moat_guarded_arena_rewind(struct moat_guarded *guarded, struct moat_arena *arena, struct moat_arena_mark mark);
void moat_guarded_arena_reset(struct moat_guarded *guarded, struct moat_arena *arena);
void moat_guarded_arena_close(struct moat_guarded *guarded, struct moat_arena *arena);

#ifdef __cplusplus
}
#endif
#endif
