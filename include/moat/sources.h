/* The sources that come with Moat: a static buffer, sbrk and mmap.
 * May include: moat/source.h and the C library's freestanding headers.
 *
 * Each is a struct in memory of the caller's, set up by its init function, which gives the table to hand on. A source does
 * not lock: who shares one locks around it. None changes errno. */
#ifndef MOAT_SOURCES_H
#define MOAT_SOURCES_H

#include "moat/source.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- static buffer: portable --------------------------------------------------------------------------------------- */

/* Hands out a buffer from its start upwards; what was handed out last can be taken back. Private to source_static.c. */
struct moat_static_source {
    struct moat_source source;
    uintptr_t start;
    uintptr_t next;
    uintptr_t end;
};

/* Sets the source up.
 * Takes:   any buffer; it is used from its first address that suits any object.
 * Gives:   &source->source. A request gets what it asked for, rounded up to alignment.
 * Owns:    the caller keeps both until nothing uses the source any more. */
const struct moat_source *moat_static_source_init(struct moat_static_source *source, void *buffer, size_t bytes);

/* ---- sbrk: POSIX systems and C libraries for devices --------------------------------------------------------------- */

struct moat_sbrk_source {
    struct moat_source source;
    size_t step_bytes;
};

/* Sets the source up.
 * Takes:   step_bytes, a power of two: the break moves by multiples of it; 0: 4 KiB.
 * Gives:   &source->source. Pieces follow one another as long as nobody else moves the break; where somebody did, the next
 *          piece simply does not touch. Memory at the break is taken back, other memory is refused. */
const struct moat_source *moat_sbrk_source_init(struct moat_sbrk_source *source, size_t step_bytes);

/* ---- mmap: the host's default -------------------------------------------------------------------------------------- */

#define MOAT_CHUNK_BYTES ((size_t)4 << 20)

struct moat_mmap_source {
    struct moat_source source;
    size_t chunk_bytes; /* 0: plain pages */
    size_t page_bytes;
    uintptr_t hint; /* where the next piece would touch the last one */
};

/* Sets the source up in chunks: every piece is a multiple of chunk_bytes and aligned to it. Only where the address space is too
 * short for that, a piece is of whole pages: it starts on a chunk's boundary if one can be had, anywhere otherwise.
 * Takes:   chunk_bytes, a power of two of at least a page; 0: MOAT_CHUNK_BYTES.
 * Gives:   &source->source. Memory is zeroed. Any range of whole pages is taken back, at once and for good. */
const struct moat_source *moat_mmap_source_init(struct moat_mmap_source *source, size_t chunk_bytes);

/* Sets the source up in plain pages: a piece is as many pages as asked for, anywhere. For tables and other metadata. */
const struct moat_source *moat_mmap_source_init_pages(struct moat_mmap_source *source);

#ifdef __cplusplus
}
#endif
#endif
