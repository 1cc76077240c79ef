/* Unwind rules by address, learnt once from the modules' tables and kept. x86-64 only.
 * May include: state.h, cfi.h and the C library's freestanding headers. For the port's own .c files only.
 *
 * A rule must not outlive its module. Modules that are there from the program's start stay; rules of others carry an epoch:
 * how many modules had been unloaded when the rule was learnt. A thread uses them as long as it finds that number unchanged.
 * The loader frees memory when it unloads, so the number is only asked for again after the loader was seen to call. */
#ifndef MOAT_PORT_RULES_H
#define MOAT_PORT_RULES_H

#include "guard/port/linux/cfi.h"
#include "guard/port/linux/state.h"
#include "guard/port/linux/view.h"

#include <stdbool.h>
#include <stdint.h>

/* For who cannot keep a view: with it only rules of modules that stay are found known, and none is kept. */
extern const struct moat_rules_view moat_rules_blind;

/* Makes the cache.
 * Takes:   first: nothing of the program has run yet, so that all modules there are stay to the end; otherwise only the
 *          program itself, its loader and the C library are known to.
 * Fails:   silently: without memory no rule is known.
 * Context: once, before other threads are. */
void moat_rules_init(bool first);

/* Whether there is a cache. */
bool moat_rules_are_available(void);

/* What moat_rules_changed does when its first look does not tell. */
bool moat_rules_look_again(struct moat_rules_view *view, bool loader_calls);

/* Brings a thread's view up to date.
 * Takes:   caller_pc: who allocates or frees.
 * Gives:   whether modules may have been unloaded since; what was remembered of stacks is then void.
 * Context: may take the loader's lock, for a moment, after the loader called. */
static inline bool moat_rules_changed(struct moat_rules_view *view, uintptr_t caller_pc) {
    const struct moat_rules_state *state = &moat_port_state.rules;
    bool loader_calls = caller_pc - state->loader.start < state->loader.end - state->loader.start;
    bool known = view->loader_calls == 1 + atomic_load_explicit(&state->loader_calls, memory_order_relaxed);
    return __builtin_expect(loader_calls || !known, 0) && moat_rules_look_again(view, loader_calls);
}

/* Whether an instruction that calls ends at an address, as before every return address. Cost: two system calls. */
bool moat_rules_follows_call(uintptr_t return_address);

/* A rule in one word, and an entry of the cache in two: pc and the epoch's lower part, the rule and the epoch's upper part. */
enum {
    MOAT_RULE_BP_SHIFT = MOAT_RULE_KIND_BITS,
    MOAT_RULE_EPOCH_SHIFT = MOAT_RULE_BP_SHIFT + MOAT_RULE_BP_BITS,
    MOAT_RULE_BP_OFFSET_SHIFT = 16,
    MOAT_RULE_CFA_OFFSET_SHIFT = 32,
    MOAT_RULE_EPOCH_BITS = MOAT_RULE_BP_OFFSET_SHIFT - MOAT_RULE_EPOCH_SHIFT,
    MOAT_RULE_PC_BITS = 48,
    MOAT_RULE_KEY_EPOCH_BITS = 64 - MOAT_RULE_PC_BITS
};
#define MOAT_RULE_EPOCH_MASK (((UINT64_C(1) << MOAT_RULE_EPOCH_BITS) - 1) << MOAT_RULE_EPOCH_SHIFT)

static inline unsigned moat_rule_kind(uint64_t rule) { return rule & ((1u << MOAT_RULE_KIND_BITS) - 1); }
static inline unsigned moat_rule_bp(uint64_t rule) {
    return (rule >> MOAT_RULE_BP_SHIFT) & ((1u << MOAT_RULE_BP_BITS) - 1);
}
static inline uintptr_t moat_rule_bp_offset(uint64_t rule) {
    return (uintptr_t)(intptr_t)(int16_t)(rule >> MOAT_RULE_BP_OFFSET_SHIFT);
}
static inline uintptr_t moat_rule_cfa_offset(uint64_t rule) {
    return (uintptr_t)((int64_t)rule >> MOAT_RULE_CFA_OFFSET_SHIFT);
}

/* What moat_rules_find does when the cache has no rule for pc at first sight. */
uint64_t moat_rules_find_slowly(uintptr_t pc, const struct moat_rules_view *view);

/* Where an address's entry is: those of addresses close to each other lie apart. */
static inline struct moat_rules_entry *moat_rules_entry(uintptr_t pc) {
    return &moat_port_state.rules.entries[(pc * UINT64_C(0x9e3779b97f4a7c15)) >> (64 - MOAT_RULES_BITS)];
}

/* The rule for an address of code; for a return address give the one before it.
 * Takes:   a view that is up to date; the cache is there.
 * Cost:    about 1 ns; when it has to be learnt, some microseconds. */
static inline uint64_t moat_rules_find(uintptr_t pc, const struct moat_rules_view *view) {
    const struct moat_rules_entry *entry = moat_rules_entry(pc);
    uint64_t rule = atomic_load_explicit(&entry->rule, memory_order_relaxed);
    uint64_t key = atomic_load_explicit(&entry->key, memory_order_relaxed) ^ rule;
    /* A rule of a module that stays has epoch 0. Words of two writers never look like one entry: one is masked with the other. */
    if (__builtin_expect(key == pc && (rule & MOAT_RULE_EPOCH_MASK) == 0, 1)) {
        return rule;
    }
    return moat_rules_find_slowly(pc, view);
}

#endif
