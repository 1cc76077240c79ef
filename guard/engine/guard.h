/* The engine: dresses blocks, proves them, poisons them, keeps them in quarantine. One guard is one shard.
 * May include: the engine's own headers, moat's public ones and freestanding headers.
 *
 * No operating system, no malloc, no globals, no lock: a `struct moat_guard` is worked on by a caller who has locked it. Functions
 * marked "unlocked" touch only the bytes of blocks their caller owns, so that long fills and proofs stay outside the lock.
 *
 * Allocation:   lock, take, unlock, fill.
 * Free:         lock, claim, pop victims, unlock, poison the block, prove the victims, lock, enqueue the block, give the victims back, unlock.
 * Whenever a claim or a proof says no, `moat_guard_diagnose_call` or `_block` (locked) makes findings of it and retires the block. */
#ifndef MOAT_ENGINE_GUARD_H
#define MOAT_ENGINE_GUARD_H

#include "guard/engine/layout.h"
#include "guard/engine/map.h"
#include "guard/engine/quarantine.h"
#include "moat/backend.h"
#include "moat/finding.h"

/* Any byte as fill_with, 0 too. */
#define MOAT_FILL_WITH(byte) (0x100u | (unsigned char)(byte))

/* Settings that one or more guards share. They may change between calls: nothing of a dressed block depends on them. */
struct moat_guard_config {
    uint64_t secret;    /* fixed from the first block on */
    size_t rear_bytes;  /* least rear zone */
    size_t fill_bytes;  /* how much of a new block to fill */
    unsigned fill_with; /* 0: MOAT_FILL_BYTE; otherwise MOAT_FILL_WITH(byte) */
    size_t scan_bytes;  /* no block is larger than this; bounds the search for the block an address falls in */
    size_t least_bytes; /* no block held back is smaller: it sizes the quarantine's rings; 0: the smallest there is */
    size_t near_bytes;  /* quarantine budgets of one guard */
    size_t far_bytes;
    uint32_t far_one_in; /* one in so many blocks goes on into the far tier */
    bool realloc_always_moves;
    bool hard_budget; /* a block that is larger than all of the quarantine's budget is not held at all */
};

/* How the guard finds the ranges its blocks lie in. */
struct moat_locator {
    struct moat_span *(*find)(const void *context, uintptr_t address);
    struct moat_span *(*next)(const void *context, const struct moat_guard *guard, uintptr_t address);
    const void *context;
};

struct moat_call;

struct moat_guard_counts {
    uint64_t live_blocks, live_bytes, peak_bytes;
    uint64_t dressed_bytes; /* live blocks with header and zones */
    uint64_t allocations, frees;
    uint64_t retired_blocks;
};

struct moat_guard {
    const struct moat_guard_config *config;
    const struct moat_backend *backend;
    void *backend_context;
    struct moat_locator locator;
    struct moat_quarantine near;
    struct moat_quarantine far;
    struct moat_guard_counts counts;
    uint64_t last_check_event; /* when all blocks were last proved */
    bool rear_optional;        /* the backend's blocks end at a guard page: no rear zone is needed behind them */
    bool fresh_is_zero;        /* the backend's blocks come zeroed */
    /* For backends that may hand memory out in which the guard still knows blocks: an arena after a rewind, an allocator of the
     * program's own that is broken. Called for the memory [start, end) of each new block, before it is dressed. False: it
     * cannot be used, and the allocation fails. NULL: never asked. */
    bool (*fresh)(struct moat_guard *guard, uintptr_t start, uintptr_t end, const struct moat_call *call);
};

/* Prepares a guard over a backend. Quarantine rings take their memory from `memory`; without it there is no quarantine.
 * All pointers must stay valid. */
void moat_guard_init(struct moat_guard *guard, const struct moat_guard_config *config,
                     const struct moat_backend *backend, void *backend_context, struct moat_locator locator,
                     const struct moat_source *memory);

/* What is known of the call: who allocates or frees. */
struct moat_call {
    uint64_t event; /* allocation number: this allocation's own, or of the latest one for frees */
    uint32_t stack;
    uint16_t thread;
    uint8_t family; /* enum moat_family */
    uint8_t when;   /* enum moat_when, for findings */
};

/* Gives a dressed block.
 * Takes:   the size, any up to 2^48 - 1; an alignment, a power of two.
 * Gives:   the user pointer, both zones written, contents unspecified; NULL when the backend has nothing: pop, prove and give back
 *          quarantined blocks and try again before failing.
 * Context: locked. */
void *moat_guard_take(struct moat_guard *guard, size_t size_bytes, size_t alignment, const struct moat_call *call);

/* Takes a freed block out of the map: its memory is the backend's again without having been given back. Context: locked. */
void moat_guard_forget(struct moat_guard *guard, uintptr_t user);

/* Fills a new block as the options say. Context: unlocked. */
void moat_guard_fill(const struct moat_guard *guard, void *user, size_t size_bytes);

/* Whether `user` is a live block of this guard, whole on all sides, that a call of this family may free; its size then. Changes nothing.
 * Context: locked. */
bool moat_guard_prove(const struct moat_guard *guard, void *user, const struct moat_call *call, size_t *size_bytes);

/* As prove, and marks the block freed: it is the caller's to poison and enqueue. False changes nothing: diagnose.
 * Context: locked. */
bool moat_guard_claim(struct moat_guard *guard, void *user, const struct moat_call *call, size_t *size_bytes);

/* Poisons a claimed block. Context: unlocked. */
void moat_guard_poison(const struct moat_guard *guard, void *user, size_t size_bytes);

/* Puts a claimed and poisoned block into the quarantine; without room there, it goes back at once. A block whose header was
 * damaged meanwhile is held too, to be found damaged when it leaves; one that was retired meanwhile stays where it is.
 * Gives:   as moat_guard_give_back. Context: locked. */
bool moat_guard_enqueue(struct moat_guard *guard, void *user, const struct moat_call *call,
                        struct moat_finding *finding);

#define MOAT_VICTIMS_MAX 2

/* A block on its way out of the quarantine, owned by who popped it. */
struct moat_victim {
    void *user;
    uint64_t event; /* of its free */
};

/* Takes up to two blocks out of the quarantine that are over the budget once `more_bytes` are added; with none to be added the
 * newest stays, whatever its size; `drain`: takes the oldest whatever the budget. Gives their number. Context: locked. */
size_t moat_guard_pop(struct moat_guard *guard, size_t more_bytes, bool drain,
                      struct moat_victim victims[MOAT_VICTIMS_MAX]);

/* Whether a freed block is untouched: header, both zones, poison. Context: unlocked (the victim is the caller's). */
bool moat_guard_victim_whole(const struct moat_guard *guard, const struct moat_victim *victim);

/* Gives a whole victim back to the backend, where its size is compared with what the backend believes; false when they disagree:
 * the block is retired and `finding` says so. One that was retired since it was proved stays where it is. Context: locked. */
bool moat_guard_give_back(struct moat_guard *guard, const struct moat_victim *victim, const struct moat_call *call,
                          struct moat_finding *finding);

/* Changes a live, proved block's size where it is.
 * Gives:   true when done; false when it must move: it is small, or grew by an eighth since it last moved, or does not fit.
 * Context: locked, in the same section as moat_guard_prove. */
bool moat_guard_resize(struct moat_guard *guard, void *user, size_t size_bytes, const struct moat_call *call);

/* ---- diagnosis (diagnose.c): off the fast path --------------------------------------------------------------------- */

struct moat_findings {
    size_t count;
    struct moat_finding item[2];
};

/* Says what is wrong with a pointer that the program passed and that prove or claim refused: at most two findings; none when
 * the block was reported before. A damaged block is retired: reported once and never used again.
 * Gives:   true when the block is in order but for the caller's family (mismatch): it may be claimed with the family it has.
 * Context: locked. */
bool moat_guard_diagnose_call(struct moat_guard *guard, void *user, const struct moat_call *call,
                              struct moat_findings *findings);

/* The same for a block of the guard's own that a check refused: a victim, or any block a sweep came by. `since` is an event
 * at which it was known to be whole (0: its allocation). Context: locked. */
void moat_guard_diagnose_block(struct moat_guard *guard, uintptr_t user, const struct moat_call *call, uint64_t since,
                               struct moat_findings *findings);

/* A finding of kind corrupted-metadata about the backend's own structures, which refused the block of these facts (NULL: none). */
void moat_guard_fault_finding(struct moat_guard *guard, const struct moat_block_facts *facts,
                              const struct moat_call *call, struct moat_finding *finding);

/* Checks the next few blocks, live and quarantined, from *cursor (0 at first) on.
 * Gives:   true while there is more; *cursor moves on. Findings of at most one block.
 * Context: locked; the lock may be released between calls. */
bool moat_guard_sweep(struct moat_guard *guard, uintptr_t *cursor, const struct moat_call *call,
                      struct moat_findings *findings);

/* Which block an address falls in or is next to: its user pointer, or 0. `facts` may be NULL. Context: locked. */
uintptr_t moat_guard_block_at(const struct moat_guard *guard, uintptr_t address, struct moat_block_facts *facts);

/* Facts and live bit of the block with this user pointer; header_lost when the header's sum is wrong. Context: locked. */
struct moat_block_facts moat_guard_facts(const struct moat_guard *guard, uintptr_t user, bool *header_lost);

/* Neighbours of a block, for a report. Context: locked. */
void moat_guard_neighbours(const struct moat_guard *guard, uintptr_t user, struct moat_block_facts neighbour[2]);

/* The header's home: in the block, or where the backend keeps it while the block is concealed. Context: locked. */
struct moat_header *moat_guard_header(const struct moat_guard *guard, uintptr_t user);

/* Whether a live block of this guard lies exactly at `user`, whole on all sides. Context: locked. */
bool moat_guard_live_and_whole(const struct moat_guard *guard, uintptr_t user);

/* Whether the backend believes the block to be as large as its header, which was proved, says. Context: locked. */
bool moat_guard_backend_agrees(const struct moat_guard *guard, uintptr_t user);

/* Marks a damaged block as never to be used again and rewrites its header; its live bit stays. Context: locked. */
void moat_guard_retire(struct moat_guard *guard, uintptr_t user);

#endif
