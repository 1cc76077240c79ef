/* Guarded arenas: rewinding, resetting and closing an arena with all that a guard does for the blocks that go.
 * May include: moat/arena.h, moat/guard.h and the C library's freestanding headers.
 *
 *   static struct moat_arena arena;
 *   static struct moat_guarded scratch;
 *   moat_arena_init(&arena, buffer, sizeof buffer, &(struct moat_arena_config){.sized_blocks = true});
 *   moat_guarded_arena_init(&scratch, "scratch arena", &arena, buffer, sizeof buffer);
 *   struct moat_arena_mark mark = moat_guarded_arena_mark(&scratch);
 *   void *p = moat_guarded_alloc(&scratch, 100);
 *   moat_guarded_arena_rewind(&scratch, mark);
 *
 * What is written to p after that is found when the arena hands the memory out again, by every check, and at exit. Blocks are not
 * leaked one by one: at exit an arena's live blocks are looked at for pointers and are not reported themselves. */
#ifndef MOAT_GUARD_ARENA_H
#define MOAT_GUARD_ARENA_H

#include "moat/arena.h"
#include "moat/guard.h"

#ifdef __cplusplus
extern "C" {
#endif

/* moat_guarded_init for an arena of sized blocks.
 * Takes:   the arena's buffer, or NULL and 0 when its chunks come from a guarded source (moat_guarded_source_init).
 * Fails:   as moat_guarded_init. */
bool moat_guarded_arena_init(struct moat_guarded *guarded, const char *name, struct moat_arena *arena, void *buffer,
                             size_t buffer_bytes);

/* As moat_arena_mark. */
struct moat_arena_mark moat_guarded_arena_mark(struct moat_guarded *guarded);

/* As moat_arena_rewind, reset and close, after the blocks that go were proved and poisoned.
 * Fails:   false where the arena's own would, which is a finding that says why; then, or when the guard is not over an arena, nothing
 *          changes. Close ends the guard too, unless it fails.
 * Cost:    O(bytes of the blocks that go).
 * Context: any thread; that no other thread uses what is rewound is the program's to see to. */
bool moat_guarded_arena_rewind(struct moat_guarded *guarded, struct moat_arena_mark mark);
bool moat_guarded_arena_reset(struct moat_guarded *guarded);
bool moat_guarded_arena_close(struct moat_guarded *guarded);

#ifdef __cplusplus
}
#endif
#endif
