/* The incremental walk and its rule cache. May include: the port's headers, <dlfcn.h>, <link.h>, <pthread.h>. */
#define _GNU_SOURCE
#include "guard/port/linux/walk.h"
#include "guard/port/linux/cfi.h"
#include "guard/port/linux/module.h"
#include "guard/port/linux/pages.h"
#include "guard/port/linux/state.h"

#include <dlfcn.h>
#include <link.h>
#include <pthread.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifdef __x86_64__

static struct moat_walk_state *const own = &moat_port_state.walk;

/* A stack may not be larger; what lies further away belongs to something else. */
#define MOAT_STACK_BYTES_MAX ((uintptr_t)1 << 30)
#define MOAT_PC_BITS 48u

#pragma weak _dl_find_object
#pragma weak __libc_stack_end
extern void *__libc_stack_end;

void moat_walk_init(void) {
    if (own->rules == NULL) {
        own->rules = moat_pages_map(sizeof(struct moat_walk_rule) << MOAT_WALK_RULE_BITS, 0);
    }
}

static int settle_module(struct dl_phdr_info *info, size_t size, void *unused) {
    (void)size;
    (void)unused;
    for (unsigned i = 0; i < info->dlpi_phnum; i++) {
        if (info->dlpi_phdr[i].p_type == PT_LOAD) {
            (void)moat_module_of((uintptr_t)(info->dlpi_addr + info->dlpi_phdr[i].p_vaddr));
            return 0;
        }
    }
    return 0;
}

void moat_walk_modules_settled(void) {
    (void)dl_iterate_phdr(settle_module, NULL);
    own->settled_modules = (uint16_t)moat_module_count();
}

/* ---- rules -------------------------------------------------------------------------------------------------------------- */

static struct moat_rule rule_learn(uintptr_t pc) {
    struct dl_find_object found;
    if (&_dl_find_object == NULL || _dl_find_object((void *)pc, &found) != 0 || found.dlfo_eh_frame == NULL) {
        return (struct moat_rule){.kind = MOAT_RULE_NONE};
    }
    return moat_cfi_rule(pc, found.dlfo_eh_frame);
}

/* A cached rule is two words, the first masked with the second: words of two different writers never look like one rule. */
static struct moat_rule rule_of(uintptr_t pc) {
    union {
        struct moat_rule rule;
        uint64_t word;
    } packed;
    _Static_assert(sizeof packed == sizeof(uint64_t), "a rule is one word");
    struct moat_walk_rule *slot = &own->rules[(pc * UINT64_C(0x9e3779b97f4a7c15)) >> (64 - MOAT_WALK_RULE_BITS)];
    packed.word = atomic_load_explicit(&slot->rule, memory_order_relaxed);
    uint64_t key = atomic_load_explicit(&slot->key, memory_order_relaxed) ^ packed.word;
    uint16_t module = (uint16_t)(key >> MOAT_PC_BITS);
    if ((key & ((UINT64_C(1) << MOAT_PC_BITS) - 1)) == pc &&
        (module < own->settled_modules || module == moat_module_of(pc))) {
        return packed.rule;
    }
    packed.rule = rule_learn(pc);
    key = (uint64_t)pc | (uint64_t)moat_module_of(pc) << MOAT_PC_BITS;
    atomic_store_explicit(&slot->rule, packed.word, memory_order_relaxed);
    atomic_store_explicit(&slot->key, key ^ packed.word, memory_order_relaxed);
    return packed.rule;
}

/* ---- the walk ----------------------------------------------------------------------------------------------------------- */

static uintptr_t word_at(uintptr_t address) {
    uintptr_t word;
    memcpy(&word, (const void *)address, sizeof word);
    return word;
}

/* The end of this thread's stack: where the first frame was for the main thread; for others the thread's own record, which the C
 * library puts at the top of their stacks. */
static uintptr_t stack_end_find(uintptr_t sp) {
    uintptr_t self = (uintptr_t)pthread_self();
    if (syscall(SYS_gettid) == getpid()) {
        self = &__libc_stack_end != NULL ? (uintptr_t)__libc_stack_end + sizeof(uintptr_t) : 0;
    }
    return self > sp && self - sp < MOAT_STACK_BYTES_MAX ? self : 0;
}

/* Whether the remembered frame `index` and all further out would be walked again just so. */
static bool rest_unchanged(const struct moat_walk_memory *memory, uint32_t index) {
    for (; index > 0; index--) {
        const struct moat_walk_frame *frame = &memory->frames[index];
        const struct moat_walk_frame *caller = &memory->frames[index - 1];
        if (word_at(caller->sp - sizeof(uintptr_t)) != caller->pc ||
            (frame->bp_slot != 0 && word_at(frame->bp_slot) != caller->bp) ||
            (frame->cfa_slot != 0 && word_at(frame->cfa_slot) != caller->sp)) {
            return false;
        }
    }
    return true;
}

/* From a frame to its caller's; the words it was left by are noted in `frame`. */
static enum moat_rule_kind step(struct moat_walk_frame *frame, struct moat_walk_frame *caller, uintptr_t low, uintptr_t end) {
    struct moat_rule rule = rule_of(frame->pc - 1);
    uintptr_t cfa;
    frame->bp_slot = frame->cfa_slot = 0;
    switch (rule.kind) {
    case MOAT_RULE_SP:
        cfa = frame->sp + (uintptr_t)(intptr_t)rule.cfa_offset;
        break;
    case MOAT_RULE_BP:
        cfa = frame->bp + (uintptr_t)(intptr_t)rule.cfa_offset;
        break;
    case MOAT_RULE_BP_DEREF:
        frame->cfa_slot = frame->bp + (uintptr_t)(intptr_t)rule.cfa_offset;
        if (frame->cfa_slot < low || frame->cfa_slot > end - sizeof(uintptr_t)) {
            return MOAT_RULE_HARD;
        }
        cfa = word_at(frame->cfa_slot);
        break;
    default:
        return rule.kind;
    }
    if (cfa <= frame->sp || cfa > end || cfa % sizeof(uintptr_t) != 0) {
        return MOAT_RULE_HARD; /* not a stack that these rules describe: another one, or a damaged one */
    }
    if (rule.bp == MOAT_RULE_BP_SAME) {
        caller->bp = frame->bp;
    } else {
        frame->bp_slot = (rule.bp == MOAT_RULE_BP_AT_CFA ? cfa : frame->bp) + (uintptr_t)(intptr_t)rule.bp_offset;
        if (frame->bp_slot < low || frame->bp_slot > end - sizeof(uintptr_t)) {
            return MOAT_RULE_HARD;
        }
        caller->bp = word_at(frame->bp_slot);
    }
    caller->sp = cfa;
    caller->pc = word_at(cfa - sizeof(uintptr_t));
    return caller->pc == 0 ? MOAT_RULE_END : MOAT_RULE_SP;
}

/* The remembered frame that equals this one; UINT32_MAX when there is none. Frames further in are gone for good. */
static uint32_t match(struct moat_walk_memory *memory, const struct moat_walk_frame *frame) {
    uint32_t count = memory->count;
    while (count > 0 && memory->frames[count - 1].sp < frame->sp) {
        count--;
    }
    memory->count = count;
    if (count > 0) {
        const struct moat_walk_frame *known = &memory->frames[count - 1];
        if (known->sp == frame->sp && known->pc == frame->pc && known->bp == frame->bp && rest_unchanged(memory, count - 1)) {
            return count - 1;
        }
    }
    return UINT32_MAX;
}

/* Walks from `here` until a remembered frame, the stack's end or something that cannot be followed. */
static enum moat_rule_kind walk_fresh(struct moat_walk_memory *memory, struct moat_walk_frame here, uintptr_t low, uint32_t *fresh_count,
                                      uint32_t *matched) {
    const uintptr_t end = memory->stack_end;
    struct moat_walk_frame *fresh = memory->fresh;
    uint32_t count = 0;
    enum moat_rule_kind last;
    *matched = UINT32_MAX;
    for (;;) {
        struct moat_walk_frame caller = {0};
        last = step(&here, &caller, low, end);
        if (last != MOAT_RULE_SP) {
            break;
        }
        if (count != 0) {
            fresh[count - 1].bp_slot = here.bp_slot; /* the words by which that frame was left */
            fresh[count - 1].cfa_slot = here.cfa_slot;
        }
        *matched = match(memory, &caller);
        if (*matched != UINT32_MAX || count == MOAT_WALK_FRAMES_MAX) {
            break;
        }
        fresh[count++] = caller;
        here = caller;
    }
    *fresh_count = count;
    return last;
}

/* Puts the walked frames in front of the part of the remembered stack that still holds. False: there is no room for all. */
static bool remember(struct moat_walk_memory *memory, uint32_t kept, uint32_t fresh_count) {
    if (kept + fresh_count > MOAT_WALK_FRAMES_MAX) {
        return false;
    }
    memory->count = 0; /* a signal handler may leave by longjmp in between: then nothing is remembered rather than half of it */
    atomic_signal_fence(memory_order_seq_cst);
    for (uint32_t i = 0; i < fresh_count; i++) {
        memory->frames[kept + i] = memory->fresh[fresh_count - 1 - i];
    }
    atomic_signal_fence(memory_order_seq_cst);
    memory->count = kept + fresh_count;
    return true;
}

__attribute__((noinline)) enum moat_walk_result moat_walk(struct moat_walk_memory *memory, uintptr_t *frames, size_t most,
                                                          size_t *count, bool *complete) {
    struct moat_walk_frame here = {0};
    uint32_t fresh_count, matched;
    uintptr_t low;
    __asm__("movq %%rsp, %0" : "=r"(low));
    if (memory->stack_end == 0) {
        memory->stack_end = stack_end_find(low);
    }
    if (own->rules == NULL || low >= memory->stack_end || memory->stack_end - low > MOAT_STACK_BYTES_MAX) {
        return MOAT_WALK_HARD;
    }
    /* This function's own frame: its registers, and an address in it whose rule describes them. */
    __asm__ volatile("leaq 1f(%%rip), %0\n\tmovq %%rsp, %1\n\tmovq %%rbp, %2\n1:"
                     : "=&r"(here.pc), "=&r"(here.sp), "=&r"(here.bp));
    here.pc++; /* rules are looked up at the byte before a return address */
    enum moat_rule_kind last = walk_fresh(memory, here, low, &fresh_count, &matched);
    if (last == MOAT_RULE_HARD) {
        memory->count = 0;
        return MOAT_WALK_HARD;
    }
    uint32_t kept = 0;
    if (matched != UINT32_MAX) {
        kept = matched + 1;
    } else {
        memory->complete = last == MOAT_RULE_END;
    }
    if (!remember(memory, kept, fresh_count)) {
        memory->count = 0;
        memory->complete = false;
        *count = fresh_count < most ? fresh_count : most;
        for (size_t i = 0; i < *count; i++) {
            frames[i] = memory->fresh[i].pc;
        }
        *complete = false;
        return MOAT_WALK_LOST;
    }
    *count = memory->count < most ? memory->count : most;
    for (size_t i = 0; i < *count; i++) {
        frames[i] = memory->frames[memory->count - 1 - i].pc;
    }
    *complete = memory->complete && *count == memory->count;
    return memory->complete ? MOAT_WALK_DONE : MOAT_WALK_LOST;
}

bool moat_walk_is_available(void) { return own->rules != NULL; }

bool moat_walk_registers(struct moat_walk_memory *memory, uintptr_t pc, uintptr_t sp, uintptr_t bp, uintptr_t *frames, size_t most,
                         size_t *count, bool *complete) {
    uint32_t fresh_count, matched;
    struct moat_walk_frame here = {.pc = pc + 1, .sp = sp, .bp = bp}; /* the instruction itself, not one before a return address */
    memory->count = 0;
    memory->stack_end = stack_end_find(sp);
    if (own->rules == NULL || memory->stack_end == 0 || sp % sizeof(uintptr_t) != 0) {
        return false;
    }
    enum moat_rule_kind last = walk_fresh(memory, here, sp, &fresh_count, &matched);
    if (last == MOAT_RULE_HARD || (last == MOAT_RULE_NONE && fresh_count == 0)) {
        return false;
    }
    frames[0] = pc;
    *count = 1;
    while (*count < most && *count <= fresh_count) {
        frames[*count] = memory->fresh[*count - 1].pc;
        (*count)++;
    }
    *complete = last == MOAT_RULE_END && *count == fresh_count + 1u;
    return true;
}

#else

void moat_walk_init(void) {}

bool moat_walk_is_available(void) { return false; }

bool moat_walk_registers(struct moat_walk_memory *memory, uintptr_t pc, uintptr_t sp, uintptr_t bp, uintptr_t *frames, size_t most,
                         size_t *count, bool *complete) {
    (void)memory;
    (void)pc;
    (void)sp;
    (void)bp;
    (void)frames;
    (void)most;
    *count = 0;
    *complete = false;
    return false;
}

void moat_walk_modules_settled(void) {}

enum moat_walk_result moat_walk(struct moat_walk_memory *memory, uintptr_t *frames, size_t most, size_t *count, bool *complete) {
    (void)memory;
    (void)frames;
    (void)most;
    *count = 0;
    *complete = false;
    return MOAT_WALK_HARD;
}

#endif
