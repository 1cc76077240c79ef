/* Extents of readable stack. May include: the port's headers, <pthread.h>. */
#define _GNU_SOURCE
#include "guard/port/linux/extent.h"
#include "guard/port/linux/pages.h"
#include "guard/port/linux/roots.h"

#include <pthread.h>

/* As many pages are asked for at a time. A thread that is deeper in its stack when it first allocates, or that goes
 * deeper at once, is served all the same: then its stack is not home but an other one. */
enum { MOAT_EXTENT_FIRST_PAGES = 256, MOAT_EXTENT_GROW_PAGES = 4096 };

#pragma weak __libc_stack_end
extern void *__libc_stack_end; /* where the program's first frame was: arguments and environment lie above */

/* Asks for the pages from `from` on until `end`, both at page boundaries, but for no more than `most`.
 * Gives:   where they stop being readable. */
static uintptr_t readable_until(uintptr_t from, uintptr_t end, uintptr_t most) {
    uintptr_t page = moat_pages_size();
    uintptr_t stop = end - from > most * page ? from + most * page : end;
    while (from < stop && moat_memory_is_readable(from, 1)) {
        from += page;
    }
    return from;
}

uintptr_t moat_extent_first_sp(void) { return &__libc_stack_end != NULL ? (uintptr_t)__libc_stack_end : 0; }

static uintptr_t page_start(uintptr_t address) { return address & ~(moat_pages_size() - 1); }

/* Whether home reaches down to an address; makes it if so. */
static bool home_reaches(struct moat_extents *extents, uintptr_t address, uintptr_t most_pages) {
    uintptr_t low = page_start(address), top = page_start(extents->home.low);
    if (address <= extents->not_home) {
        return false;
    }
    uintptr_t until = readable_until(low, top, most_pages);
    if (until != top) {
        /* Either there is a gap, or it is too far to tell: then only this address is known not to be treated as home. */
        extents->not_home = top - low > most_pages * moat_pages_size() ? address : until;
        return false;
    }
    extents->home.low = low;
    return true;
}

/* The thread's own stack, if sp is on it: the C library puts a thread's record on top of its stack. The main thread's record is
 * below its stack, which ends where the program began. */
static bool home_find(struct moat_extents *extents, uintptr_t sp) {
    uintptr_t record = (uintptr_t)pthread_self();
    uintptr_t end = record > sp ? record : moat_extent_first_sp() + sizeof(uintptr_t);
    if (end <= sp || sp <= extents->not_home) {
        return false;
    }
    extents->home = (struct moat_extent){page_start(end), end};
    if (page_start(sp) == extents->home.low || home_reaches(extents, sp, MOAT_EXTENT_FIRST_PAGES)) {
        return true;
    }
    extents->home = (struct moat_extent){0, 0};
    return false;
}

struct moat_extent *moat_extents_reach(struct moat_extents *extents, uintptr_t address) {
    struct moat_extent *other = &extents->other;
    if (address % sizeof(uintptr_t) != 0) {
        return NULL;
    }
    if (moat_extent_holds(&extents->home, address)) {
        return &extents->home;
    }
    if (moat_extent_holds(other, address)) {
        return other;
    }
    if (address < extents->home.low && home_reaches(extents, address, MOAT_EXTENT_GROW_PAGES)) {
        return &extents->home;
    }
    uintptr_t page = moat_pages_size();
    if (other->low == other->end || address < other->low || address - other->end >= MOAT_EXTENT_GROW_PAGES * page) {
        return NULL;
    }
    other->end = readable_until(other->end, page_start(address) + page, MOAT_EXTENT_GROW_PAGES);
    return moat_extent_holds(other, address) ? other : NULL;
}

struct moat_extent *moat_extents_enter(struct moat_extents *extents, uintptr_t sp) {
    if (sp % sizeof(uintptr_t) != 0) {
        return NULL;
    }
    if (moat_extent_holds(&extents->home, sp)) {
        return &extents->home;
    }
    if (moat_extent_holds(&extents->other, sp)) {
        return &extents->other;
    }
    if (extents->home.end == 0 ? home_find(extents, sp)
                               : sp < extents->home.low && home_reaches(extents, sp, MOAT_EXTENT_GROW_PAGES)) {
        return &extents->home;
    }
    uintptr_t low = page_start(sp), end = low + moat_pages_size();
    if (readable_until(low, end, 1) != end) {
        return NULL;
    }
    extents->other = (struct moat_extent){low, end};
    return &extents->other;
}
