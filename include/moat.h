/* What a program may ask of Moat while it runs, and what it may say to Moat. None of it is needed: a program that knows
 * nothing of Moat is checked all the same.
 * May include: moat's public headers and the C library's freestanding ones.
 *
 * Link with what `pkg-config --libs moat` says, or run under `moat run`. A program that should start without Moat too
 * defines MOAT_OPTIONAL before it includes this header and asks first:
 *
 *   #define MOAT_OPTIONAL
 *   #include <moat.h>
 *   ...
 *   if (moat_check != NULL) {
 *       moat_check();
 *   }
 */
#ifndef MOAT_H
#define MOAT_H

#include "moat/finding.h"
#include "moat/version.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#ifdef MOAT_OPTIONAL
#define MOAT_FUNCTION __attribute__((weak))
#else
#define MOAT_FUNCTION
#endif

/* ---- asked of Moat --------------------------------------------------------------------------------------------------- */

/* The version of the Moat that serves this process, which need not be the header's MOAT_VERSION.
 * Gives:   static text such as "0.1.0". */
MOAT_FUNCTION const char *moat_version(void);

/* Checks every block now, live ones and those that are freed and held back, for damage done since it was last looked at.
 * Gives:   how many findings there were: 0 when all is in order. They are reported like any other, repeats of a bug that
 *          was reported before are counted and not printed again.
 * Fails:   with damage found it does not return under on_error=abort, the default, nor under on_error=exit.
 * Cost:    O(bytes in red zones and in freed blocks): milliseconds for a heap of some megabytes.
 * Context: any thread; not from a signal handler, and not from moat_on_finding. Threads that allocate meanwhile wait for
 *          a few blocks at a time, not for the whole of it. */
MOAT_FUNCTION size_t moat_check(void);

/* Changes an option while the program runs, written as in MOAT_OPTIONS: "fail_every=100". moat-options(7) says which may be.
 * Gives:   true when it is in force.
 * Fails:   false with errno EINVAL for an unknown key or a value out of range (a line says which), EPERM for an option that is fixed
 *          at the start; nothing changes.
 * Context: one thread at a time. */
MOAT_FUNCTION bool moat_set_option(const char *setting);

/* Where the memory is. Sums over all of malloc's heaps and the program's guarded allocators, which are looked at one after the other. */
struct moat_statistics {
    uint64_t allocations, frees;        /* so far */
    uint64_t live_blocks, live_bytes;   /* bytes as requested */
    uint64_t peak_bytes;                /* sum of each heap's own peak of live_bytes */
    uint64_t large_blocks, large_bytes; /* of the live ones, those with pages of their own */
    uint64_t header_bytes, zone_bytes;  /* Moat's, around live blocks */
    uint64_t quarantine_blocks;         /* freed and held back, large ones left out */
    uint64_t quarantine_bytes;          /* theirs with headers and zones, and the quarantine's own entries */
    uint64_t retired_blocks;            /* found damaged and never used again */
    uint64_t heap_bytes;                /* malloc's, from the system, for all but large blocks */
    uint64_t used_bytes;                /* of these, in blocks: live, held back, retired, with headers and zones */
    uint64_t used_peak_bytes;           /* sum of each heap's own peak */
    uint64_t free_bytes, largest_free_bytes;
    uint64_t stack_frames, stack_bytes; /* kept in the depot */
    uint64_t stacks_lost;               /* frames that it had no room for */
    uint64_t map_bytes;                 /* of the block map */
    uint64_t own_bytes;                 /* mapped for Moat's tables, stacks and map among them */
    uint32_t fragmentation_permille;    /* free memory that is not in the largest free block */
};

/* Fills in the statistics. Cost: O(heaps). Context: any thread, not from a signal handler. */
MOAT_FUNCTION void moat_stats(struct moat_statistics *statistics);

/* ---- said to Moat: functions that the program may define -------------------------------------------------------------- */

/* Called with each finding after its report was written, repeats and suppressed ones too. Moat's own does nothing and is a
 * good place for a debugger's breakpoint.
 * Takes:   the finding, valid during the call only. Its stack ids mean nothing outside Moat.
 * Context: the thread that found it, in the middle of its malloc or free, with no lock of Moat's held: allocating is allowed.
 *          On a fatal signal it runs in that signal's handler.
 * With a preloaded Moat the program must export it: link with -rdynamic or -Wl,--export-dynamic-symbol=moat_on_finding. */
void moat_on_finding(const struct moat_finding *finding);

/* Options for this program, written as in MOAT_OPTIONS, which may override them: see moat-options(7).
 * Gives:   text that stays valid, or NULL.
 * Context: called once, before any constructor of the program and before its first allocation: it must do no more than
 *          return. A preloaded Moat sees it only when the program exports it, as above. */
__attribute__((weak)) const char *moat_default_options(void);

#ifdef __cplusplus
}
#endif
#endif
