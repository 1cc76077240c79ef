/* Anonymous mappings as a source, in aligned chunks or plain pages.
 * May include: moat/sources.h, errno.h, sys/mman.h, unistd.h and freestanding headers. */
#include "moat/sources.h"

#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

/* How many chunk boundaries below a place that is free are tried for a piece smaller than a chunk. */
#define BOUNDARY_TRIES 8

/* ---- mappings, with errno left as it was; 0 for none --------------------------------------------------------------- */

static uintptr_t map(uintptr_t hint, size_t bytes) {
    int saved = errno;
    void *start = mmap((void *)hint, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    errno = saved;
    return start == MAP_FAILED ? 0 : (uintptr_t)start;
}

static bool unmap(uintptr_t start, size_t bytes) {
    int saved = errno;
    bool done = bytes == 0 || munmap((void *)start, bytes) == 0;
    errno = saved;
    return done;
}

/* ---- pieces -------------------------------------------------------------------------------------------------------- */

/* Maps `bytes`, a multiple of the chunk, on a chunk's boundary: first where it would touch the last piece, then with room to
 * cut it out of. */
static uintptr_t map_chunks(struct moat_mmap_source *source, size_t bytes) {
    uintptr_t mask = source->chunk_bytes - 1;
    uintptr_t hint = source->hint > bytes ? source->hint - bytes : 0;
    uintptr_t start = map(hint, bytes);
    if (start == 0 || (start & mask) == 0)
        return start;
    if (!unmap(start, bytes))
        return 0;
    size_t slack = source->chunk_bytes - source->page_bytes;
    if (bytes > SIZE_MAX - slack)
        return 0;
    uintptr_t room = map(0, bytes + slack);
    if (room == 0)
        return 0;
    start = (room + mask) & ~mask;
    size_t front = start - room;
    (void)unmap(room, front);
    (void)unmap(start + bytes, slack - front);
    return start;
}

/* Maps whole pages, on a chunk's boundary when there is one near a free place. */
static uintptr_t map_short(const struct moat_mmap_source *source, size_t bytes) {
    uintptr_t mask = source->chunk_bytes - 1;
    uintptr_t anywhere = map(0, bytes);
    if (anywhere == 0 || (anywhere & mask) == 0)
        return anywhere;
    if (!unmap(anywhere, bytes))
        return anywhere;
    uintptr_t boundary = anywhere & ~mask;
    for (int tries = 0; tries < BOUNDARY_TRIES && boundary > source->chunk_bytes; tries++) {
        uintptr_t start = map(boundary, bytes);
        if (start == 0 || start == boundary)
            return start;
        (void)unmap(start, bytes);
        boundary -= source->chunk_bytes;
    }
    return map(0, bytes);
}

static void *acquire(void *context, size_t size_bytes, size_t *got_bytes) {
    struct moat_mmap_source *source = context;
    size_t unit = source->chunk_bytes != 0 ? source->chunk_bytes : source->page_bytes;
    if (size_bytes == 0 || size_bytes > (size_t)PTRDIFF_MAX - unit)
        return NULL;
    size_t pages = (size_bytes + source->page_bytes - 1) & ~(source->page_bytes - 1);
    size_t chunks = (size_bytes + unit - 1) & ~(unit - 1);
    uintptr_t start = source->chunk_bytes != 0 ? map_chunks(source, chunks) : map(0, pages);
    *got_bytes = chunks;
    if (start == 0 && source->chunk_bytes != 0) {
        start = map_short(source, pages);
        *got_bytes = pages;
    }
    if (start != 0)
        source->hint = start;
    return (void *)start;
}

static bool release(void *context, void *start, size_t size_bytes) {
    const struct moat_mmap_source *source = context;
    uintptr_t begin = (uintptr_t)start;
    if (size_bytes == 0 || ((begin | size_bytes) & (source->page_bytes - 1)) != 0)
        return false;
    return unmap(begin, size_bytes);
}

const struct moat_source *moat_mmap_source_init(struct moat_mmap_source *source, size_t chunk_bytes) {
    (void)moat_mmap_source_init_pages(source);
    source->chunk_bytes = chunk_bytes != 0 ? chunk_bytes : MOAT_CHUNK_BYTES;
    return &source->source;
}

const struct moat_source *moat_mmap_source_init_pages(struct moat_mmap_source *source) {
    *source = (struct moat_mmap_source){{acquire, release, source}, 0, (size_t)sysconf(_SC_PAGESIZE), 0};
    return &source->source;
}
