/* An arena's chunks: their records, and the functions that arena.c and look.c share.
 * May include: moat/arena.h and freestanding headers.
 *
 * Records lie beside the user's blocks, so none is followed before its check is proved. */
#ifndef MOAT_ARENA_CHUNK_H
#define MOAT_ARENA_CHUNK_H

#include "moat/arena.h"

/* The arena's invariants, each with the text that a fault names it by: at most 47 characters. */
#define MOAT_ARENA_RULES(RULE)                                                                                         \
    RULE(NONE, "no rule is broken")                                                                                    \
    RULE(RECORD, "a chunk's record is as it was written")                                                              \
    RULE(MARK, "a mark is one that was not rewound past")                                                              \
    RULE(SINGLE, "arena blocks are not freed singly")                                                                  \
    RULE(SIZE, "a block's size leads to the next block")                                                               \
    RULE(STATE, "the arena's state fits its chunks")

#define MOAT_ARENA_RULE_ENTRY(name, text) MOAT_ARENA_RULE_##name,
enum moat_arena_rule { MOAT_ARENA_RULES(MOAT_ARENA_RULE_ENTRY) MOAT_ARENA_RULE_COUNT };
#undef MOAT_ARENA_RULE_ENTRY

/* The arena reads and writes memory that is the user's at other times, with types of the user's own. */
typedef uintptr_t moat_arena_word __attribute__((may_alias));

#define MOAT_ARENA_ALIGN ((uintptr_t)MOAT_ARENA_ALIGNMENT_BYTES)
#define MOAT_ARENA_WORD ((uintptr_t)sizeof(uintptr_t))
#define MOAT_ARENA_GAP ((uintptr_t)1) /* in a block's size word: not a block, but what alignment left */

struct moat_arena_chunk {
    moat_arena_word previous;      /* record of the chunk before it, or of the next spare one; 0: none */
    moat_arena_word end_and_flags; /* where it ends; bit 0: it is the caller's buffer, bit 1: it is spare */
    moat_arena_word used_end;      /* where it was used up to when the arena went on to the next chunk */
    moat_arena_word check;
};
_Static_assert(sizeof(struct moat_arena_chunk) == MOAT_ARENA_RECORD_BYTES, "the record's size is part of the contract");

#define MOAT_ARENA_CHUNK_GIVEN ((uintptr_t)1)
#define MOAT_ARENA_CHUNK_SPARE ((uintptr_t)2)
#define MOAT_ARENA_CHUNK_FLAGS (MOAT_ARENA_ALIGN - 1)

static inline struct moat_arena_chunk *moat_arena_chunk_at(uintptr_t address) {
    return (struct moat_arena_chunk *)address;
}

static inline uintptr_t moat_arena_chunk_end(const struct moat_arena_chunk *chunk) {
    return chunk->end_and_flags & ~MOAT_ARENA_CHUNK_FLAGS;
}

static inline uintptr_t moat_arena_chunk_start(uintptr_t at) { return at + MOAT_ARENA_RECORD_BYTES; }

/* Where a chunk in use is used up to. */
static inline uintptr_t moat_arena_used_end(const struct moat_arena *arena, uintptr_t at) {
    return at == arena->chunk ? arena->next : moat_arena_chunk_at(at)->used_end;
}

/* Whether a record is as it was signed. */
bool moat_arena_chunk_proved(const struct moat_arena *arena, uintptr_t at);

/* Goes back from the newest chunk to the mark's, proving each record and the mark's place.
 * Gives:   MOAT_ARENA_RULE_NONE with the bytes of the chunks after the mark's that are not the caller's buffer, or the
 *          rule that is broken and where. */
enum moat_arena_rule moat_arena_mark_proved(const struct moat_arena *arena, const struct moat_arena_mark *mark,
                                            size_t *bytes_after, uintptr_t *broken);

/* Notes a broken rule. */
void moat_arena_note(struct moat_arena *arena, enum moat_arena_rule rule, uintptr_t block);

/* What a rule says, for humans. */
const char *moat_arena_rule_text(unsigned rule);

/* The size word of a sized block. */
static inline moat_arena_word *moat_arena_size_of(uintptr_t p) { return (moat_arena_word *)(p - MOAT_ARENA_WORD); }

/* The first sized block's address in a chunk. */
static inline uintptr_t moat_arena_first_block(uintptr_t at) {
    return (moat_arena_chunk_start(at) + MOAT_ARENA_WORD + MOAT_ARENA_ALIGN - 1) & ~(MOAT_ARENA_ALIGN - 1);
}

#endif
