/* Extents: which memory around a stack pointer is known to be readable, so that no walk faults whatever a stack holds.
 * May include: the C library's freestanding headers only.
 *
 * An extent is contiguous and was readable throughout when it was last asked for. A thread's own stack ends where the C
 * library says; other stacks (coroutines', signal stacks) have no such record, their extents grow as walks go. */
#ifndef MOAT_PORT_EXTENT_H
#define MOAT_PORT_EXTENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct moat_extent {
    uintptr_t low, end; /* low == end: none */
};

/* What a thread knows of its stacks. All zero: nothing yet. */
struct moat_extents {
    struct moat_extent home;  /* the thread's own stack, down to where it was seen in use */
    struct moat_extent other; /* the latest stack that is not home */
    uintptr_t not_home;       /* at and below this address nothing belongs to home */
};

/* Whether a word is within an extent. An extent is never smaller than a word. */
static inline bool moat_extent_holds(const struct moat_extent *extent, uintptr_t address) {
    return address >= extent->low && address < extent->end && extent->end - address >= sizeof(uintptr_t);
}

/* The stack pointer that the process began with; 0 when it cannot be told. */
uintptr_t moat_extent_first_sp(void);

/* The extent that a stack pointer is in, found anew when the thread changed stacks.
 * Takes:   sp: of this thread, a multiple of the word size.
 * Gives:   an extent of `extents` that holds sp; NULL when the word there is not readable.
 * Cost:    a few instructions on a stack seen before, else a system call a page.
 * Context: any; errno is kept. */
struct moat_extent *moat_extents_enter(struct moat_extents *extents, uintptr_t sp);

/* The extent that holds the word at an address which a walk has come to, if that is on a stack known already, which may be
 * found to reach further. NULL: it is not, and the word must not be read. The same cost and context. */
struct moat_extent *moat_extents_reach(struct moat_extents *extents, uintptr_t address);

#endif
