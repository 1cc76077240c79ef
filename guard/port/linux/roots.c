/* Roots of the leak scan, and reading memory that may not be there.
 * May include: the port's headers, <sys/uio.h>, <signal.h>.
 *
 * /proc/self/pagemap tells for every page whether this process ever had contents there. With it, untouched parts of
 * huge reservations, pages of files behind their end and clean file pages are passed over, and pages made read-only
 * after they were written (what the loader relocates, for one) are found as well. Without it, private memory is shown
 * whole and the rest is probed page by page. */
#define _GNU_SOURCE
#include "guard/port/linux/roots.h"
#include "guard/port/linux/maps.h"
#include "guard/port/linux/state.h"
#include "guard/port/linux/text.h"

#include <sys/uio.h>

/* ---- memory that may not be there ------------------------------------------------------------------------------ */

/* Whether the 8-byte word at a multiple of 8 can be read. The kernel reads a signal set from there before it looks at
 * the operation asked for, which is none: so nothing happens but the reading. */
static bool moat_word_is_readable(uintptr_t address) {
    enum { MOAT_NO_OPERATION = 0x7fff };
    /* An address of 0 would mean that there is no set to read. */
    return address != 0 &&
           moat_syscall(SYS_rt_sigprocmask, MOAT_NO_OPERATION, (long)address, 0, sizeof(uint64_t), 0, 0) != -EFAULT;
}

bool moat_memory_is_readable(uintptr_t address, size_t bytes) {
    uintptr_t page = moat_pages_size(), last = address + (bytes ? bytes - 1 : 0);
    if (last < address)
        return false;
    for (uintptr_t at = address & ~(uintptr_t)7;; at = (at & ~(page - 1)) + page) {
        if (!moat_word_is_readable(at))
            return false;
        if (last - (at & ~(page - 1)) < page)
            return true;
    }
}

size_t moat_memory_copy(void *to, uintptr_t from, size_t bytes) {
    size_t page = moat_pages_size(), copied = 0;
    long pid = moat_syscall(SYS_getpid, 0, 0, 0, 0, 0, 0);
    while (copied < bytes && from + copied >= from) {
        size_t piece = page - ((from + copied) & (page - 1));
        piece = piece < bytes - copied ? piece : bytes - copied;
        struct iovec local = {(unsigned char *)to + copied, piece}, remote = {(void *)(from + copied), piece};
        long got = moat_syscall(SYS_process_vm_readv, pid, (long)(uintptr_t)&local, 1, (long)(uintptr_t)&remote, 1, 0);
        if (got == -EFAULT)
            break;
        if (got != (long)piece) { /* a filter forbids the call */
            if (!moat_memory_is_readable(from + copied, piece))
                break;
            memcpy(local.iov_base, remote.iov_base, piece);
        }
        copied += piece;
    }
    return copied;
}

/* ---- threads --------------------------------------------------------------------------------------------------- */

size_t moat_thread_count(void) {
    enum { MOAT_STATUS_BYTES = 4096 };
    static const char label[] = "\nThreads:";
    char status[MOAT_STATUS_BYTES];
    long descriptor = moat_sys_open("/proc/self/status", O_RDONLY, 0);
    if (moat_sys_failed(descriptor))
        return 0;
    long got = moat_sys_read(descriptor, status, sizeof status - 1);
    moat_sys_close(descriptor);
    if (got <= 0)
        return 0;
    status[got] = '\0';
    const char *at = strstr(status, label);
    if (!at)
        return 0;
    size_t count = 0;
    for (at += sizeof label - 1; *at == ' ' || *at == '\t' || (*at >= '0' && *at <= '9'); at++)
        if (*at >= '0')
            count = count * 10 + (size_t)(*at - '0');
    return count;
}

/* ---- roots ----------------------------------------------------------------------------------------------------- */

struct moat_roots_walk {
    void (*root)(void *context, uintptr_t start, size_t bytes);
    void *context;
    const struct moat_range_list *exclude;
    uintptr_t stack_pointer;
    long pagemap; /* descriptor; negative: there is none */
    size_t page_bytes;
};

/* What a page of a mapping needs to be a root. */
enum moat_page_need {
    MOAT_PAGE_NEEDS_CONTENTS, /* the mapping is writable: any page that was ever touched */
    MOAT_PAGE_NEEDS_CHANGE    /* it is not any more: only pages that differ from the file's, or have none */
};

#define MOAT_PAGEMAP_PRESENT ((uint64_t)1 << 63)
#define MOAT_PAGEMAP_SWAPPED ((uint64_t)1 << 62)
#define MOAT_PAGEMAP_FILE ((uint64_t)1 << 61) /* the file's own page, or shared memory */

static bool moat_page_counts(uint64_t entry, enum moat_page_need need) {
    if (entry & MOAT_PAGEMAP_SWAPPED)
        return true;
    return (entry & MOAT_PAGEMAP_PRESENT) && (need == MOAT_PAGE_NEEDS_CONTENTS || !(entry & MOAT_PAGEMAP_FILE));
}

/* Pages are shown in runs. */
struct moat_page_run {
    const struct moat_roots_walk *walk;
    uintptr_t start, end; /* of the run; start == end: none open */
};

static void moat_page_run_close(struct moat_page_run *run) {
    if (run->start < run->end)
        run->walk->root(run->walk->context, run->start, run->end - run->start);
    run->start = run->end = 0;
}

static void moat_page_run_add(struct moat_page_run *run, uintptr_t start, uintptr_t end) {
    if (run->end != start) {
        moat_page_run_close(run);
        run->start = start;
    }
    run->end = end;
}

/* The part of [start, end) in the page at `page`, which need not be whole. */
static void moat_page_run_add_page(struct moat_page_run *run, uintptr_t page, uintptr_t start, uintptr_t end) {
    uintptr_t page_end = page + run->walk->page_bytes;
    moat_page_run_add(run, page > start ? page : start, page_end - 1 < end - 1 ? page_end : end);
}

static bool moat_roots_by_pagemap(const struct moat_roots_walk *walk, uintptr_t start, uintptr_t end,
                                  enum moat_page_need need) {
    struct moat_page_run run = {walk, 0, 0};
    uint64_t *const entries = moat_port_state.roots.entries;
    uintptr_t page = start & ~(uintptr_t)(walk->page_bytes - 1);
    while (page < end && page >= (start & ~(uintptr_t)(walk->page_bytes - 1))) {
        size_t count = (end - page + walk->page_bytes - 1) / walk->page_bytes;
        count = count < MOAT_ROOTS_ENTRIES ? count : MOAT_ROOTS_ENTRIES;
        if (!moat_sys_read_at(walk->pagemap, entries, count * sizeof *entries,
                              (uint64_t)(page / walk->page_bytes) * sizeof *entries))
            return false;
        for (size_t i = 0; i < count; i++, page += walk->page_bytes)
            if (moat_page_counts(entries[i], need))
                moat_page_run_add_page(&run, page, start, end);
    }
    moat_page_run_close(&run);
    return true;
}

static void moat_roots_by_probe(const struct moat_roots_walk *walk, uintptr_t start, uintptr_t end) {
    struct moat_page_run run = {walk, 0, 0};
    uintptr_t first = start & ~(uintptr_t)(walk->page_bytes - 1);
    for (uintptr_t page = first; page < end && page >= first; page += walk->page_bytes)
        if (moat_word_is_readable(page))
            moat_page_run_add_page(&run, page, start, end);
    moat_page_run_close(&run);
}

/* Shows one piece of a mapping from which everything to leave out was cut. */
static void moat_roots_piece(const struct moat_roots_walk *walk, const struct moat_map *map, uintptr_t start,
                             uintptr_t end) {
    enum moat_page_need need = map->writable ? MOAT_PAGE_NEEDS_CONTENTS : MOAT_PAGE_NEEDS_CHANGE;
    if (start >= end)
        return;
    if (walk->pagemap >= 0 && moat_roots_by_pagemap(walk, start, end, need))
        return;
    if (!map->writable)
        return;
    if (map->inode == 0 && !map->shared)
        walk->root(walk->context, start, end - start);
    else
        moat_roots_by_probe(walk, start, end);
}

static void moat_roots_without_state(const struct moat_roots_walk *walk, const struct moat_map *map, uintptr_t start,
                                     uintptr_t end) {
    uintptr_t state = (uintptr_t)&moat_port_state, state_end = state + sizeof moat_port_state;
    if (state_end <= start || state >= end) {
        moat_roots_piece(walk, map, start, end);
        return;
    }
    moat_roots_piece(walk, map, start, state);
    moat_roots_piece(walk, map, state_end, end);
}

/* Cuts the excluded ranges out of [start, end). */
static void moat_roots_without_excluded(const struct moat_roots_walk *walk, const struct moat_map *map, uintptr_t start,
                                        uintptr_t end) {
    const struct moat_range_list *list = walk->exclude;
    size_t low = 0, high = list ? list->count : 0;
    while (low < high) { /* the first range that ends behind `start` */
        size_t middle = low + (high - low) / 2;
        if (list->ranges[middle].start + list->ranges[middle].bytes <= start)
            low = middle + 1;
        else
            high = middle;
    }
    for (; list && low < list->count && list->ranges[low].start < end; low++) {
        if (list->ranges[low].start > start)
            moat_roots_without_state(walk, map, start, list->ranges[low].start);
        start = list->ranges[low].start + list->ranges[low].bytes;
    }
    if (start < end)
        moat_roots_without_state(walk, map, start, end);
}

/* Reading a device's memory may do things. /dev/zero and /dev/shm are plain memory. */
static bool moat_roots_is_device(const char *path) {
    return moat_text_starts(path, "/dev/") && !moat_text_starts(path, "/dev/zero") &&
           !moat_text_starts(path, "/dev/shm/");
}

static bool moat_roots_visit(void *context, const struct moat_map *map) {
    const struct moat_roots_walk *walk = context;
    uintptr_t start = map->start;
    if (!map->readable || (!map->writable && map->shared) || moat_roots_is_device(map->path) ||
        moat_text_starts(map->path, "[v"))
        return true; /* "[v": the kernel's own pages, [vvar], [vdso] and [vsyscall] */
    /* Below the stack pointer lie the leavings of calls that returned. Only on the main stack is it sure that nothing
     * else is below it in the same mapping. */
    if (strcmp(map->path, "[stack]") == 0 && walk->stack_pointer > start && walk->stack_pointer < map->end)
        start = walk->stack_pointer & ~(uintptr_t)(sizeof(void *) - 1);
    moat_roots_without_excluded(walk, map, start, map->end);
    return true;
}

bool moat_roots_each(void (*root)(void *context, uintptr_t start, size_t bytes), void *context,
                     const struct moat_range_list *exclude, uintptr_t stack_pointer) {
    struct moat_roots_walk walk = {
        root, context, exclude, stack_pointer, moat_sys_open("/proc/self/pagemap", O_RDONLY, 0), moat_pages_size()};
    bool whole = moat_maps_each(moat_roots_visit, &walk);
    if (walk.pagemap >= 0)
        moat_sys_close(walk.pagemap);
    return whole;
}
