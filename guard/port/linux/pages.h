/* Raw pages for Moat's own memory, and the list of what it has, which the leak scan leaves out.
 * May include: moat/source.h and the C library's freestanding headers.
 *
 * System calls are made directly: a program that interposes mmap does not see Moat's, nor recurse into it. All
 * functions may be called by any thread; they take one short lock of their own, below every other lock of Moat's. errno
 * is kept. */
#ifndef MOAT_PORT_PAGES_H
#define MOAT_PORT_PAGES_H

#include "moat/source.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct moat_range {
    uintptr_t start;
    size_t bytes;
};

/* Sorted by start, neither overlapping nor touching. */
struct moat_range_list {
    const struct moat_range *ranges;
    size_t count;
};

/* The most separate ranges Moat's own memory may consist of; past it, mapping fails. Ranges that touch count as one. */
#define MOAT_PAGES_RANGES_MAX 65536

/* The system's page size, at least 4096. */
size_t moat_pages_size(void);

/* A source of zeroed memory from mmap; sizes are rounded up to whole pages, and pieces of at least 1 MiB start at a
 * multiple of 64 KiB. Static. release takes any whole pages of it back. */
const struct moat_source *moat_pages_source(void);

/* Maps zeroed, readable and writable pages; NULL when there are none. alignment: 0 or a power of two. */
void *moat_pages_map(size_t size_bytes, size_t alignment);

/* Maps like moat_pages_map, with one page behind that faults when touched.
 * Gives:   the start; the size rounded up to pages is usable, and the page behind that is the guard page. */
void *moat_pages_map_guarded(size_t size_bytes, size_t alignment);

/* The mapping's contents are dropped and every access faults, while the addresses stay taken (size as given to map).
 * Takes:   what map or map_guarded gave; the guard page stays one. False when the kernel refuses: nothing changed. */
bool moat_pages_conceal(void *start, size_t size_bytes);

/* Gives back what map_guarded gave, guard page included, concealed or not. */
void moat_pages_unmap_guarded(void *start, size_t size_bytes);

/* Gives back whole pages. False when the kernel refuses (its map limit): the pages are still Moat's then. */
bool moat_pages_unmap(void *start, size_t size_bytes);

/* Address space without memory: every access faults until committed. */
void *moat_pages_reserve(size_t size_bytes, size_t alignment);

/* Makes pages of a reservation readable and writable; new ones are zero. */
bool moat_pages_commit(void *start, size_t size_bytes);

enum moat_pages_access { MOAT_PAGES_NONE, MOAT_PAGES_READ, MOAT_PAGES_READ_WRITE };

/* Changes what may be done with pages, keeping their contents. */
bool moat_pages_protect(void *start, size_t size_bytes, enum moat_pages_access access);

/* Drops the contents of pages, which read as zero afterwards; the addresses and rights stay. */
void moat_pages_discard(void *start, size_t size_bytes);

/* Whether an address lies in Moat's own pages. Takes no lock when `trylock` finds it held: *known is false then.
 * Context: also signal handlers. */
bool moat_pages_contains(uintptr_t address, bool *known);

/* The list of Moat's own ranges as it is now, not a copy: valid until the next map or unmap.
 * Context: the only thread. */
struct moat_range_list moat_pages_own(void);

#endif
