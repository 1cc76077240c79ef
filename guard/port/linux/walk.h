/* Incremental stacks: walks from inside outwards only until a frame is met that the thread's latest stack had too, and proves the rest
 * of that by comparing. x86-64 only; elsewhere nothing is ever walked and the caller uses an unwinder.
 * May include: the C library's freestanding headers only.
 *
 * A frame is (pc, sp, bp). Its caller follows from the pc's rule and from the words on the stack that hold return address and saved
 * rbp. So when a frame equals a remembered one and all those words from there on outwards are unchanged, the rest of the
 * stack is what it was. */
#ifndef MOAT_PORT_WALK_H
#define MOAT_PORT_WALK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Deeper stacks are given without their outermost frames. */
#define MOAT_WALK_FRAMES_MAX 2048

/* A frame and the words it was left by; a slot is 0 when no word was needed. */
struct moat_walk_frame {
    uintptr_t pc, sp, bp;
    uintptr_t bp_slot;  /* holds the caller's bp */
    uintptr_t cfa_slot; /* holds the caller's sp */
};

/* What a thread keeps of its latest stack: outermost first. All zero is empty. */
struct moat_walk_memory {
    uintptr_t stack_end; /* nothing of this thread's stack lies at or above it; 0: not asked yet */
    uint32_t count;
    bool complete;
    struct moat_walk_frame frames[MOAT_WALK_FRAMES_MAX];
    struct moat_walk_frame fresh[MOAT_WALK_FRAMES_MAX]; /* frames being walked, innermost first */
};

enum moat_walk_result {
    MOAT_WALK_DONE, /* the stack, whole or up to `most` */
    MOAT_WALK_LOST, /* the stack up to code without unwind information */
    MOAT_WALK_HARD  /* something that only an unwinder can follow: nothing is given */
};

/* Makes the rule cache; until then, and if there is no memory for it, every result is MOAT_WALK_HARD. */
void moat_walk_init(void);

/* From here on modules seen may be unloaded again: their rules are proved at each use. Those seen so far may not. */
void moat_walk_modules_settled(void);

/* Walks the calling thread's stack from the caller of this function on.
 * Takes:   the thread's memory; frames: room for `most`.
 * Gives:   *count return addresses, innermost first. *complete: the last is the outermost frame.
 * Cost:    about 2 ns a frame that is compared, 5 one that is walked by a known rule.
 * Context: not re-entered on one thread. */
enum moat_walk_result moat_walk(struct moat_walk_memory *memory, uintptr_t *frames, size_t most, size_t *count, bool *complete);


/* Whether this processor's stacks are walked here at all. */
bool moat_walk_is_available(void);

/* The stack from given registers on, as a signal's context holds them: frames[0] is pc itself. Uses `memory` as scratch.
 * Gives:   false when it takes an unwinder. */
bool moat_walk_registers(struct moat_walk_memory *memory, uintptr_t pc, uintptr_t sp, uintptr_t bp, uintptr_t *frames, size_t most,
                         size_t *count, bool *complete);

#endif
