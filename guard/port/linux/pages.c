/* Raw pages for Moat's own memory, and the sorted list of them.
 * May include: the port's headers, <sys/mman.h>, <sys/auxv.h>.
 *
 * The list is one sorted array in which ranges that touch are joined. The kernel places mappings next to each other, so
 * it mostly stays a handful of entries, and inserting in the middle of it is cheap beside the system call. A mapping
 * that does not fit the list is not made: everything of Moat's must be known to the leak scan. */
#define _GNU_SOURCE
#include "guard/port/linux/pages.h"
#include "guard/port/linux/state.h"

#include <signal.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>

enum { MOAT_PAGE_LEAST_BYTES = 4096 };
#define MOAT_SOURCE_LARGE_BYTES ((size_t)1 << 20)
#define MOAT_SOURCE_ALIGNMENT ((size_t)64 << 10)

static struct moat_pages_state *const own = &moat_port_state.pages;

size_t moat_pages_size(void) {
    size_t bytes = atomic_load_explicit(&own->page_bytes, memory_order_relaxed);
    if (bytes == 0) {
        bytes = (size_t)getauxval(AT_PAGESZ);
        if (bytes < MOAT_PAGE_LEAST_BYTES)
            bytes = MOAT_PAGE_LEAST_BYTES;
        atomic_store_explicit(&own->page_bytes, bytes, memory_order_relaxed); /* the same value whoever writes it */
    }
    return bytes;
}

/* Rounds up to whole pages; 0 when that overflows or nothing was asked for. */
static size_t moat_pages_round(size_t bytes) {
    size_t page = moat_pages_size();
    if (bytes > SIZE_MAX - page)
        return 0;
    return (bytes + page - 1) & ~(page - 1);
}

/* ---- the list; its lock is held -------------------------------------------------------------------------------- */

/* How many ranges start at or before an address. */
static size_t moat_range_after(uintptr_t address) {
    size_t low = 0, high = own->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (own->range[middle].start <= address)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static void moat_range_make_room(size_t at) {
    memmove(&own->range[at + 1], &own->range[at], (own->count - at) * sizeof own->range[0]);
    own->count++;
}

static void moat_range_close_gap(size_t at) {
    own->count--;
    memmove(&own->range[at], &own->range[at + 1], (own->count - at) * sizeof own->range[0]);
}

static bool moat_range_add(uintptr_t start, size_t bytes) {
    size_t at = moat_range_after(start);
    bool joins_before = at > 0 && own->range[at - 1].start + own->range[at - 1].bytes == start;
    bool joins_after = at < own->count && start + bytes == own->range[at].start;
    if (joins_before && joins_after) {
        own->range[at - 1].bytes += bytes + own->range[at].bytes;
        moat_range_close_gap(at);
    } else if (joins_before) {
        own->range[at - 1].bytes += bytes;
    } else if (joins_after) {
        own->range[at].start = start;
        own->range[at].bytes += bytes;
    } else {
        if (own->count == MOAT_PAGES_RANGES_MAX)
            return false;
        moat_range_make_room(at);
        own->range[at] = (struct moat_range){start, bytes};
    }
    return true;
}

/* Takes [start, start + bytes) out, which must lie within one range. False when the split it needs has no room. */
static bool moat_range_remove(uintptr_t start, size_t bytes) {
    size_t at = moat_range_after(start);
    if (at == 0)
        return false;
    struct moat_range *range = &own->range[at - 1];
    uintptr_t range_end = range->start + range->bytes, end = start + bytes;
    if (end < start || end > range_end)
        return false;
    if (range->start == start && range_end == end) {
        moat_range_close_gap(at - 1);
    } else if (range->start == start) {
        range->start = end;
        range->bytes -= bytes;
    } else if (range_end == end) {
        range->bytes -= bytes;
    } else {
        if (own->count == MOAT_PAGES_RANGES_MAX)
            return false;
        moat_range_make_room(at);
        own->range[at - 1].bytes = start - own->range[at - 1].start;
        own->range[at] = (struct moat_range){end, range_end - end};
    }
    return true;
}

/* ---- the kernel's calls ---------------------------------------------------------------------------------------- */

static void *moat_sys_map(void *where, size_t bytes, int access, int flags) {
    long result = moat_syscall(MOAT_SYS_MMAP, (long)(uintptr_t)where, (long)bytes, access,
                               MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);
    return moat_sys_failed(result) ? NULL : (void *)(uintptr_t)result;
}

static bool moat_sys_unmap(uintptr_t start, size_t bytes) {
    return bytes == 0 || !moat_sys_failed(moat_syscall(SYS_munmap, (long)start, (long)bytes, 0, 0, 0, 0));
}

static bool moat_sys_protect(uintptr_t start, size_t bytes, int access) {
    return !moat_sys_failed(moat_syscall(SYS_mprotect, (long)start, (long)bytes, access, 0, 0, 0));
}

/* A signal whose handler allocates must not find the list locked by the very call that it interrupted. Next to the call that
 * maps, two more cost little. */
static void moat_list_lock(uint64_t *signals) {
    const uint64_t all = ~UINT64_C(0);
    (void)moat_syscall(SYS_rt_sigprocmask, SIG_BLOCK, (long)(uintptr_t)&all, (long)(uintptr_t)signals, sizeof all, 0,
                       0);
    moat_lock_take(&own->lock);
}

static void moat_list_unlock(const uint64_t *signals) {
    moat_lock_give(&own->lock);
    (void)moat_syscall(SYS_rt_sigprocmask, SIG_SETMASK, (long)(uintptr_t)signals, 0, sizeof *signals, 0, 0);
}

/* Maps `bytes` (whole pages) at a multiple of `alignment`, and lists them. */
static void *moat_pages_map_listed(size_t bytes, size_t alignment, int access, int flags) {
    size_t page = moat_pages_size();
    size_t spare = alignment > page ? alignment - page : 0;
    if (bytes == 0 || bytes > PTRDIFF_MAX - spare)
        return NULL;
    uint64_t signals;
    moat_list_lock(&signals);
    uintptr_t start = (uintptr_t)moat_sys_map(NULL, bytes + spare, access, flags);
    if (start && spare) {
        uintptr_t aligned = (start + alignment - 1) & ~(uintptr_t)(alignment - 1);
        size_t before = aligned - start;
        (void)moat_sys_unmap(start, before); /* a refusal leaves address space mapped, and nothing wrong */
        (void)moat_sys_unmap(aligned + bytes, spare - before);
        start = aligned;
    }
    if (start && !moat_range_add(start, bytes)) {
        (void)moat_sys_unmap(start, bytes);
        start = 0;
    }
    moat_list_unlock(&signals);
    return (void *)start;
}

/* ---- what others call ------------------------------------------------------------------------------------------ */

void *moat_pages_map(size_t size_bytes, size_t alignment) {
    return moat_pages_map_listed(moat_pages_round(size_bytes), alignment, PROT_READ | PROT_WRITE, 0);
}

void *moat_pages_reserve(size_t size_bytes, size_t alignment) {
    return moat_pages_map_listed(moat_pages_round(size_bytes), alignment, PROT_NONE,
                                 0); /* counted when committed: what cannot be had must fail */
}

bool moat_pages_commit(void *start, size_t size_bytes) {
    return moat_sys_protect((uintptr_t)start, moat_pages_round(size_bytes), PROT_READ | PROT_WRITE);
}

bool moat_pages_protect(void *start, size_t size_bytes, enum moat_pages_access access) {
    static const int rights[] = {
        [MOAT_PAGES_NONE] = PROT_NONE, [MOAT_PAGES_READ] = PROT_READ, [MOAT_PAGES_READ_WRITE] = PROT_READ | PROT_WRITE};
    return moat_sys_protect((uintptr_t)start, moat_pages_round(size_bytes), rights[access]);
}

void moat_pages_discard(void *start, size_t size_bytes) {
    (void)moat_syscall(SYS_madvise, (long)(uintptr_t)start, (long)moat_pages_round(size_bytes), MADV_DONTNEED, 0, 0, 0);
}

bool moat_pages_unmap(void *start, size_t size_bytes) {
    size_t bytes = moat_pages_round(size_bytes);
    uint64_t signals;
    moat_list_lock(&signals);
    /* Off the list first, since that is what can fail without a trace; under the lock nobody else gets the addresses.
     */
    bool done = bytes != 0 && moat_range_remove((uintptr_t)start, bytes);
    if (done && !moat_sys_unmap((uintptr_t)start, bytes)) {
        (void)moat_range_add((uintptr_t)start, bytes); /* fits: it was on the list a moment ago */
        done = false;
    }
    moat_list_unlock(&signals);
    return done;
}

void *moat_pages_map_guarded(size_t size_bytes, size_t alignment) {
    size_t page = moat_pages_size(), bytes = moat_pages_round(size_bytes);
    if (bytes == 0 || bytes > PTRDIFF_MAX - page)
        return NULL;
    /* All of it without access first, so that there is no moment in which the guard page can be touched. */
    unsigned char *start = moat_pages_reserve(bytes + page, alignment);
    if (start && !moat_pages_commit(start, bytes)) {
        (void)moat_pages_unmap(start, bytes + page);
        start = NULL;
    }
    return start;
}

bool moat_pages_conceal(void *start, size_t size_bytes) {
    /* A new mapping over the old one drops the contents and the rights in one step. */
    return moat_sys_map(start, moat_pages_round(size_bytes), PROT_NONE, MAP_FIXED) != NULL;
}

void moat_pages_unmap_guarded(void *start, size_t size_bytes) {
    size_t bytes = moat_pages_round(size_bytes) + moat_pages_size();
    /* When the kernel refuses (a process at its limit of mappings cannot even unmap the middle of one) the addresses
     * stay taken and listed, without access. */
    if (!moat_pages_unmap(start, bytes))
        (void)moat_pages_conceal(start, bytes);
}

bool moat_pages_contains(uintptr_t address, bool *known) {
    *known = moat_lock_try(&own->lock);
    if (!*known)
        return false;
    size_t at = moat_range_after(address);
    bool inside = at > 0 && address - own->range[at - 1].start < own->range[at - 1].bytes;
    moat_lock_give(&own->lock);
    return inside;
}

struct moat_range_list moat_pages_own(void) {
    return (struct moat_range_list){own->range, own->count};
}

/* ---- as a source ----------------------------------------------------------------------------------------------- */

static void *moat_source_acquire(void *context, size_t size_bytes, size_t *got_bytes) {
    (void)context;
    size_t bytes = moat_pages_round(size_bytes);
    void *start = moat_pages_map(bytes, bytes >= MOAT_SOURCE_LARGE_BYTES ? MOAT_SOURCE_ALIGNMENT : 0);
    if (start)
        *got_bytes = bytes;
    return start;
}

static bool moat_source_release(void *context, void *start, size_t size_bytes) {
    (void)context;
    size_t mask = moat_pages_size() - 1;
    if (((uintptr_t)start & mask) || (size_bytes & mask))
        return false; /* a part of a page cannot go back */
    return moat_pages_unmap(start, size_bytes);
}

const struct moat_source *moat_pages_source(void) {
    static const struct moat_source source = {moat_source_acquire, moat_source_release, NULL};
    return &source;
}
