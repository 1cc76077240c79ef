/* Where memory comes from: the seam below every heap, arena and table of Moat's.
 * May include: the C library's freestanding headers only.
 *
 * A source is a table of two functions with a context pointer first. Three come with Moat
 * (moat/sources.h): a static buffer, sbrk and mmap; a caller may bring any other. */
#ifndef MOAT_SOURCE_H
#define MOAT_SOURCE_H

#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

struct moat_source {
    /* Gives a piece of memory of at least `size_bytes`.
     * Takes:   the least size; `*got_bytes` receives the size given, which may be larger.
     * Gives:   its start, aligned for any object, or NULL. New memory may touch an earlier piece. Its contents
     *          are unspecified unless the source says otherwise.
     * Fails:   NULL when there is no more; nothing changes.
     * Owns:    the caller, until it calls release.
     * Context: the caller holds whatever lock protects the user of this source. */
    void *(*acquire)(void *context, size_t size_bytes, size_t *got_bytes);

    /* Takes back a piece, or the tail of one.
     * Takes:   a start and size that lie within pieces acquired before.
     * Gives:   true when the memory is the source's again; false when it cannot take it back, in which case the
     *          caller keeps it. May be NULL: then nothing is ever given back. */
    bool (*release)(void *context, void *start, size_t size_bytes);

    void *context;
};

#ifdef __cplusplus
}
#endif
#endif
