/* The incremental walk. May include: the port's headers, <ucontext.h>. */
#define _GNU_SOURCE
#include "guard/port/linux/walk.h"
#include "guard/port/linux/pages.h"
#include "guard/port/linux/rules.h"
#include "guard/port/linux/unwind.h"

#ifdef __x86_64__

#include <stdatomic.h>
#include <ucontext.h>

/* How a step from a frame to its caller came out. */
enum step {
    STEP_CALLER, /* there it is */
    STEP_END,    /* there is none: this was the outermost frame */
    STEP_LOST,   /* nothing tells how to go on */
    STEP_BAD,    /* where to go on no intact stack lies */
    STEP_JUNK,   /* the frame itself is none: its pc is not code */
    STEP_HARD    /* it takes an unwinder */
};

/* A walk under way. */
struct walker {
    struct moat_extents *extents;
    const struct moat_extent *extent; /* where the frame to be left is */
    const struct moat_rules_view *view;
    bool exact;         /* that frame's pc is an instruction's own address */
    bool jumped;        /* from one stack to another, or over a signal: addresses do not tell the order of frames */
    uintptr_t end_slot; /* the word whose being 0 ended the stack */
};

enum { SLOTS_CFA_SHIFT = 48 };
#define SLOTS_BP_MASK ((UINT64_C(1) << SLOTS_CFA_SHIFT) - 1)

static uintptr_t word_at(uintptr_t address) {
    uintptr_t word;
    memcpy(&word, (const void *)address, sizeof word);
    return word;
}

/* ---- steps --------------------------------------------------------------------------------------------------------- */

static inline bool may_read(const struct walker *walker, uintptr_t slot) {
    bool known = slot % sizeof(uintptr_t) == 0 && moat_extent_holds(walker->extent, slot);
    return __builtin_expect(known, 1) || moat_extents_reach(walker->extents, slot) != NULL;
}

/* Goes on to another stack, when a frame's CFA lies on one that is known; further in on the same one it is a mistake. */
static bool change_extent(struct walker *walker, const struct moat_walk_frame *frame, uintptr_t cfa) {
    const struct moat_extent *extent = moat_extents_reach(walker->extents, cfa - sizeof(uintptr_t));
    if (extent == NULL || (extent == walker->extent && cfa <= frame->sp)) {
        return false;
    }
    walker->jumped |= cfa <= frame->sp;
    walker->extent = extent;
    return true;
}

/* From the kernel's frame to what it interrupted. */
static enum step step_over_signal(struct walker *walker, const struct moat_walk_frame *frame,
                                  struct moat_walk_frame *caller) {
    const uintptr_t registers = frame->sp + offsetof(ucontext_t, uc_mcontext.gregs);
    const uintptr_t pc_slot = registers + REG_RIP * sizeof(greg_t), sp_slot = registers + REG_RSP * sizeof(greg_t);
    const uintptr_t bp_slot = registers + REG_RBP * sizeof(greg_t);
    if (!may_read(walker, pc_slot) || !may_read(walker, sp_slot) || !may_read(walker, bp_slot)) {
        return STEP_BAD;
    }
    caller->pc = word_at(pc_slot);
    caller->sp = word_at(sp_slot);
    caller->bp = word_at(bp_slot);
    walker->extent = moat_extents_enter(walker->extents, caller->sp);
    walker->exact = walker->jumped = true;
    return walker->extent != NULL && caller->pc != 0 ? STEP_CALLER : STEP_BAD;
}

/* For rules that do not lead to a caller. */
static enum step step_nowhere(unsigned kind, bool exact, const struct moat_walk_frame *frame) {
    switch (kind) {
    case MOAT_RULE_END:
        return STEP_END;
    case MOAT_RULE_HARD:
        /* An unwinder would not ask whether its way is readable: it may follow real frames only. */
        return exact || moat_rules_follows_call(frame->pc) ? STEP_HARD : STEP_JUNK;
    case MOAT_RULE_JUNK:
        return exact ? STEP_LOST : STEP_JUNK; /* what was interrupted is where it is, code or not */
    default:
        /* The process's very first code, the loader's, has no table on some systems: it is known by its stack pointer, which
         * is where the kernel put it. */
        return frame->sp == moat_extent_first_sp() ? STEP_END : STEP_LOST;
    }
}

/* Where the caller's rsp lies in a frame that keeps it in memory. */
static bool deref(struct walker *walker, struct moat_walk_frame *frame, uint64_t rule, uintptr_t *cfa) {
    const uintptr_t offset = moat_rule_cfa_offset(rule), slot = frame->bp + offset;
    frame->slots = (uint64_t)offset << SLOTS_CFA_SHIFT;
    if (frame->slots == 0 || (uintptr_t)((intptr_t)frame->slots >> SLOTS_CFA_SHIFT) != offset ||
        !may_read(walker, slot)) {
        return false;
    }
    *cfa = word_at(slot);
    return true;
}

/* From a frame to its caller's; the words it was left by are noted in `frame`. */
static inline enum step step(struct walker *walker, struct moat_walk_frame *frame, struct moat_walk_frame *caller) {
    const bool exact = walker->exact;
    const uint64_t rule = moat_rules_find(frame->pc - !exact, walker->view);
    uintptr_t cfa;
    frame->slots = 0;
    switch (moat_rule_kind(rule)) {
    case MOAT_RULE_SP:
        cfa = frame->sp + moat_rule_cfa_offset(rule);
        break;
    case MOAT_RULE_BP:
        cfa = frame->bp + moat_rule_cfa_offset(rule);
        break;
    case MOAT_RULE_BP_DEREF:
        if (!deref(walker, frame, rule, &cfa)) {
            return STEP_BAD;
        }
        break;
    case MOAT_RULE_SIGNAL:
        return step_over_signal(walker, frame, caller);
    default:
        return step_nowhere(moat_rule_kind(rule), exact, frame);
    }
    walker->exact = false;
    const uintptr_t pc_slot = cfa - sizeof(uintptr_t);
    bool usual = cfa > frame->sp && cfa % sizeof(uintptr_t) == 0 && moat_extent_holds(walker->extent, pc_slot);
    if (__builtin_expect(!usual, 0) && !change_extent(walker, frame, cfa)) {
        return STEP_BAD;
    }
    caller->bp = frame->bp;
    if (moat_rule_bp(rule) != MOAT_RULE_BP_SAME) {
        const uintptr_t slot =
            (moat_rule_bp(rule) == MOAT_RULE_BP_AT_CFA ? cfa : frame->bp) + moat_rule_bp_offset(rule);
        if (!may_read(walker, slot)) {
            return STEP_BAD;
        }
        frame->slots |= slot;
        caller->bp = word_at(slot);
    }
    caller->sp = cfa;
    caller->pc = word_at(pc_slot);
    if (__builtin_expect(caller->pc == 0, 0)) {
        walker->end_slot = pc_slot;
        return STEP_END;
    }
    return STEP_CALLER;
}

/* ---- what is remembered ---------------------------------------------------------------------------------------------- */

/* Whether the words that a frame was left by, beside the return address, still lead to the same caller. */
static inline bool slots_hold(const struct moat_walk_frame *frame, const struct moat_walk_frame *caller) {
    const uint64_t slots = frame->slots, bp_slot = slots & SLOTS_BP_MASK;
    if (__builtin_expect(slots > SLOTS_BP_MASK, 0) &&
        word_at(frame->bp + (uintptr_t)((intptr_t)slots >> SLOTS_CFA_SHIFT)) != caller->sp) {
        return false;
    }
    return bp_slot == 0 || word_at(bp_slot) == caller->bp;
}

/* How far out a walk would come again just as remembered, starting at the frame `index` and not going further than to
 * `until`. Gives the index of the outermost frame so proved. */
static inline uint32_t proved_until(const struct moat_walk_memory *memory, uint32_t index, uint32_t until) {
    const struct moat_walk_frame *frame = &memory->frames[index], *const last = &memory->frames[until];
    while (frame > last) {
        const struct moat_walk_frame *caller = frame - 1;
        if ((frame->slots != 0 && !slots_hold(frame, caller)) ||
            word_at(caller->sp - sizeof(uintptr_t)) != caller->pc) {
            break;
        }
        frame = caller;
    }
    return (uint32_t)(frame - memory->frames);
}

/* Whether the remembered stack has this frame, and goes on from there as it did, as far out as is wanted. Then it is the last
 * of memory->count; otherwise those are the ones that may still be met further out.
 * Takes:   walked: how many frames lie further in. */
static bool match(struct moat_walk_memory *memory, const struct moat_walk_frame *frame, size_t walked, size_t most) {
    uint32_t count = memory->count;
    while (count > 0 && memory->frames[count - 1].sp < frame->sp) {
        count--;
    }
    memory->count = count;
    if (count == 0) {
        return false;
    }
    const struct moat_walk_frame *known = &memory->frames[count - 1];
    if (known->sp != frame->sp || known->pc != frame->pc || known->bp != frame->bp) {
        return false;
    }
    size_t total = count + walked;
    if (memory->cut && total < most) {
        memory->count = 0; /* now those are wanted for which there was no room */
        return false;
    }
    uint32_t until = total > most ? (uint32_t)(total - most) : 0;
    uint32_t proved = until < count - 1 ? proved_until(memory, count - 1, until) : count - 1;
    if (proved > until) {
        memory->count = proved;
        return false;
    }
    if (until == 0 && memory->end_slot != 0 && word_at(memory->end_slot) != 0) {
        memory->count = 0;
        return false;
    }
    return true;
}

/* Puts walked frames in front of the `kept` outermost that still hold. A signal handler may leave by longjmp in between:
 * then nothing is remembered rather than half of it. */
static void remember(struct moat_walk_memory *memory, uint32_t kept, uint32_t fresh_count) {
    enum { ROOM_AFTER_CUT = MOAT_WALK_FRAMES_MAX / 2 };
    memory->count = 0;
    atomic_signal_fence(memory_order_seq_cst);
    memory->kept = kept;
    if (kept + fresh_count > MOAT_WALK_FRAMES_MAX) {
        /* The outermost go, so many that not every further call makes some go. */
        fresh_count = fresh_count < ROOM_AFTER_CUT ? fresh_count : ROOM_AFTER_CUT;
        uint32_t staying = ROOM_AFTER_CUT - fresh_count < kept ? ROOM_AFTER_CUT - fresh_count : kept;
        memmove(memory->frames, memory->frames + kept - staying, staying * sizeof memory->frames[0]);
        kept = staying;
        memory->kept = 0;
        memory->complete = false;
        memory->cut = true;
        memory->end_slot = 0;
    }
    for (uint32_t i = 0; i < fresh_count; i++) {
        memory->frames[kept + i] = memory->fresh[fresh_count - 1 - i];
    }
    atomic_signal_fence(memory_order_seq_cst);
    memory->count = kept + fresh_count;
}

/* Walks from fresh[0] until a remembered frame, the stack's end or something that cannot be followed. */
static enum moat_walk_result walk_outwards(struct moat_walk_memory *memory, struct walker *walker, size_t most) {
    struct moat_walk_frame *fresh = memory->fresh;
    uint32_t count = 1;
    enum step last = STEP_CALLER;
    while (walker->jumped || !match(memory, &fresh[count - 1], count - 1, most)) {
        if (count == MOAT_WALK_FRAMES_MAX || (last = step(walker, &fresh[count - 1], &fresh[count])) != STEP_CALLER) {
            uint32_t kept_fresh = count - (last == STEP_JUNK && count > 1);
            if (last == STEP_HARD) {
                return MOAT_WALK_HARD;
            }
            memory->count = 0;
            atomic_signal_fence(memory_order_seq_cst);
            memory->complete = last == STEP_END;
            memory->cut = last == STEP_CALLER;
            memory->end_slot = walker->end_slot;
            memory->forgetful = walker->jumped || last == STEP_BAD || last == STEP_JUNK;
            remember(memory, 0, kept_fresh);
            return last == STEP_END || last == STEP_CALLER ? MOAT_WALK_DONE : MOAT_WALK_LOST;
        }
        count++;
    }
    bool lost = !memory->complete && !memory->cut;
    remember(memory, memory->count, count - 1);
    return lost ? MOAT_WALK_LOST : MOAT_WALK_DONE;
}

_Static_assert(MOAT_WALK_FRAMES_MAX >= 2 * MOAT_UNWIND_FRAMES_MAX, "after a cut there is as much as is asked for");

enum moat_walk_result moat_walk(struct moat_walk_memory *memory, const struct moat_walk_registers *caller,
                                size_t most) {
    struct walker walker = {.extents = &memory->extents, .view = &memory->view, .exact = caller->exact};
    memory->walks++;
    memory->kept = 0;
    if (__builtin_expect(memory->forgetful, 0)) {
        memory->count = 0;
        memory->forgetful = false;
    }
    enum moat_walk_result result = MOAT_WALK_HARD;
    bool home = caller->sp % sizeof(uintptr_t) == 0 && moat_extent_holds(&memory->extents.home, caller->sp);
    walker.extent =
        __builtin_expect(home, 1) ? &memory->extents.home : moat_extents_enter(&memory->extents, caller->sp);
    if (walker.extent != NULL && moat_walk_is_available()) {
        memory->fresh[0] = (struct moat_walk_frame){caller->pc, caller->sp, caller->bp, 0};
        result = walk_outwards(memory, &walker, most);
    }
    if (result == MOAT_WALK_HARD) {
        memory->count = 0;
    }
    return result;
}

bool moat_walk_is_available(void) { return moat_rules_are_available(); }

/* ---- from given registers -------------------------------------------------------------------------------------------- */

/* The extent to begin in. A stack that overflowed is readable only further out. */
static const struct moat_extent *first_extent(struct moat_extents *extents, uintptr_t sp) {
    enum { OVERFLOW_PAGES = 64 };
    const struct moat_extent *extent = moat_extents_enter(extents, sp);
    for (unsigned i = 1; extent == NULL && i < OVERFLOW_PAGES && sp % sizeof(uintptr_t) == 0; i++) {
        extent = moat_extents_enter(extents, sp + i * moat_pages_size());
    }
    return extent;
}

size_t moat_walk_from(const struct moat_walk_registers *registers, uintptr_t *frames, size_t most, bool *complete) {
    struct moat_extents extents = {.not_home = 0};
    struct walker walker = {.extents = &extents, .view = &moat_rules_blind, .exact = registers->exact};
    struct moat_walk_frame frame = {.pc = registers->pc, .sp = registers->sp, .bp = registers->bp};
    struct moat_walk_frame caller;
    size_t count = 0;
    enum step last = STEP_BAD;
    *complete = false;
    walker.extent = first_extent(&extents, registers->sp);
    if (walker.extent == NULL || !moat_walk_is_available()) {
        return 0;
    }
    do {
        frames[count++] = frame.pc;
        last = step(&walker, &frame, &caller);
        frame = caller;
    } while (last == STEP_CALLER && count < most);
    if (last == STEP_HARD || (last == STEP_LOST && count == 1)) {
        return 0;
    }
    *complete = last == STEP_END;
    return count - (last == STEP_JUNK && count > 1);
}

#else

bool moat_walk_is_available(void) { return false; }

enum moat_walk_result moat_walk(struct moat_walk_memory *memory, const struct moat_walk_registers *caller,
                                size_t most) {
    (void)caller;
    (void)most;
    memory->count = memory->kept = 0;
    return MOAT_WALK_HARD;
}

size_t moat_walk_from(const struct moat_walk_registers *registers, uintptr_t *frames, size_t most, bool *complete) {
    (void)registers;
    (void)frames;
    (void)most;
    *complete = false;
    return 0;
}

#endif
