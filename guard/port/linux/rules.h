/* Unwind rules by address, learnt once from the modules' tables and kept. x86-64 only.
 * May include: cfi.h and the C library's freestanding headers.
 *
 * A rule must not outlive its module. Modules that are there from the program's start stay; rules of others carry an epoch:
 * how many modules had been unloaded when the rule was learnt. A thread uses them as long as it finds that number unchanged.
 * The loader frees memory when it unloads, so the number is only asked for again after the loader was seen to call. */
#ifndef MOAT_PORT_RULES_H
#define MOAT_PORT_RULES_H

#include "guard/port/linux/cfi.h"

#include <stdbool.h>
#include <stdint.h>

/* What a thread knows of unloading. All zero: nothing yet. */
struct moat_rules_view {
    uint64_t loader_calls; /* when `unloads` was asked for, plus one */
    uint64_t unloads;
    uint64_t epoch;
};

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

/* The loader is about to allocate or free. Context: any. */
void moat_rules_loader_calls(void);

/* Brings a thread's view up to date.
 * Gives:   whether modules may have been unloaded since; what was remembered of stacks is then void.
 * Context: may take the loader's lock, for a moment, after the loader called. */
bool moat_rules_changed(struct moat_rules_view *view);

/* The rule for an address of code; for a return address give the one before it.
 * Takes:   a view that is up to date.
 * Cost:    about 2 ns; when it has to be learnt, some microseconds. */
struct moat_rule moat_rules_find(uintptr_t pc, const struct moat_rules_view *view);

#endif
