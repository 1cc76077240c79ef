/* Incremental stacks: walks from inside outwards only until a frame is met that the thread's latest stack had too, and
 * proves the rest of that by comparing. x86-64 only; elsewhere nothing is ever walked and the caller uses an unwinder.
 * May include: view.h, extent.h, the C library's freestanding headers, <string.h>.
 *
 * A frame is (pc, sp, bp). Its caller follows from the pc's rule and from the words on the stack that hold return
 * address and saved rbp. So when a frame equals a remembered one and all those words from there on outwards are
 * unchanged, the rest of the stack is what it was. No other word is read than a walk from scratch would read. */
#ifndef MOAT_PORT_WALK_H
#define MOAT_PORT_WALK_H

#include "guard/port/linux/extent.h"
#include "guard/port/linux/view.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* What is remembered of a stack at most; deeper ones lose their outermost frames. At least twice what is asked for. */
#define MOAT_WALK_FRAMES_MAX 1024

/* A frame and the words it was left by, beside the return address, which lies below the caller's sp. */
struct moat_walk_frame {
    uintptr_t pc, sp, bp;
    uint64_t
        slots; /* lower 48 bits: where the caller's bp was read, 0: nowhere; upper 16: its sp, counted from bp, 0: nowhere */
};

/* What a thread keeps of its latest stack. */
struct moat_walk_memory {
    struct moat_extents extents;
    struct moat_rules_view view;
    uint64_t walks;     /* so far */
    uintptr_t end_slot; /* the word whose being 0 ended the stack; 0: a rule did */
    uint32_t count;
    uint32_t kept;  /* of these so many, the outermost, are as they were after the walk before */
    bool complete;  /* the outermost is the stack's first frame */
    bool cut;       /* there are more, for which there was no room */
    bool forgetful; /* not to be built upon: a frame or word of it is not as a later walk would find it */
    struct moat_walk_frame frames[MOAT_WALK_FRAMES_MAX]; /* outermost first */
    union {
        struct moat_walk_frame fresh[MOAT_WALK_FRAMES_MAX]; /* frames being walked, innermost first */
        uintptr_t scratch[MOAT_WALK_FRAMES_MAX];            /* for an unwinder that is asked instead */
    };
};

/* For a new thread: all that a former one knew is void. Costs little, however large the memory. */
static inline void moat_walk_forget(struct moat_walk_memory *memory) {
    memset(memory, 0, offsetof(struct moat_walk_memory, frames));
}

enum moat_walk_result {
    MOAT_WALK_DONE, /* to the stack's end, or as far as there was room */
    MOAT_WALK_LOST, /* up to code without unwind information, or to a word that no intact stack holds */
    MOAT_WALK_HARD  /* something that only an unwinder can follow: nothing is given */
};

/* Whether stacks are walked here at all: on this processor, and after moat_rules_init. */
bool moat_walk_is_available(void);

/* The registers to walk from. */
struct moat_walk_registers {
    uintptr_t pc, sp, bp;
    bool exact; /* pc is an instruction's own address, not a return address */
};

/* The caller of the function this stands in, for as long as its block lasts: the registers it will have when the call has returned. That
 * they lie on the stack keeps the function from leaving its frame to one it calls last. */
#define MOAT_WALK_CALLER                                                                                               \
    (&(const struct moat_walk_registers){.pc = (uintptr_t)__builtin_return_address(0),                                 \
                                         .sp = (uintptr_t)__builtin_dwarf_cfa(),                                       \
                                         .bp = *(const uintptr_t *)__builtin_frame_address(0)})

/* Walks the calling thread's stack.
 * Takes:   the thread's memory, its view up to date; where to begin, a frame of this thread's stack; most: how many frames
 *          are wanted, at most half of what the memory has room for.
 * Gives:   in memory->frames the stack from that frame on outwards; of frames further out than `most` nothing is proved.
 * Cost:    about 1 ns a frame that is compared, 3 one that is walked by a known rule.
 * Context: any thread, signal handlers too; not re-entered on one memory, which may be left by longjmp. No memory is read
 *          that may not be readable, whatever the stack holds. */
enum moat_walk_result moat_walk(struct moat_walk_memory *memory, const struct moat_walk_registers *caller, size_t most);

/* The stack from given registers on, as a signal's context holds them: frames[0] is pc.
 * Takes:   room for `most` >= 1 frames.
 * Gives:   their number; *complete: the last one is the stack's first frame. 0 when it takes an unwinder.
 * Context: signal handler, on the thread whose registers they are. They need not be sane. */
size_t moat_walk_from(const struct moat_walk_registers *registers, uintptr_t *frames, size_t most, bool *complete);

#endif
