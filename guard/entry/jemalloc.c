/* jemalloc's extended interface, for programs that were built against it. May include: process.h, the port's output and
 * POSIX headers.
 *
 * Sizes are exact here: the size a block really has is the one that was asked for. Arenas and thread caches that flags name
 * are ignored. Blocks may be freed by free as well, and the other way round. */
#include "guard/entry/process.h"
#include "guard/port/linux/output.h"

#include <errno.h>
#include <malloc.h>
#include <string.h>

/* In `flags`: the alignment's logarithm, and whether new bytes must be zero. */
#define MALLOCX_LG_ALIGN_MASK 63
#define MALLOCX_ZERO 64

void *mallocx(size_t size_bytes, int flags);
void *rallocx(void *block, size_t size_bytes, int flags);
size_t xallocx(void *block, size_t size_bytes, size_t extra_bytes, int flags);
size_t sallocx(const void *block, int flags);
void dallocx(void *block, int flags);
void sdallocx(void *block, size_t size_bytes, int flags);
size_t nallocx(size_t size_bytes, int flags);
int mallctl(const char *name, void *old, size_t *old_bytes, void *new, size_t new_bytes);
int mallctlnametomib(const char *name, size_t *mib, size_t *mib_count);
int mallctlbymib(const size_t *mib, size_t mib_count, void *old, size_t *old_bytes, void *new, size_t new_bytes);
void malloc_stats_print(void (*write)(void *context, const char *text), void *context, const char *options);

/* Set once an xallocx left a block larger than asked for: from then on either size may be said of it when it is
 * freed, and neither is an error. */
static _Atomic(bool) sizes_differ;

/* 0: larger than any block. */
static size_t alignment_of(int flags) {
    unsigned shift = (unsigned)flags & MALLOCX_LG_ALIGN_MASK;
    return shift < 8 * sizeof(size_t) - 1 ? (size_t)1 << shift : 0;
}

static void *allocate(size_t size_bytes, int flags, uintptr_t caller) {
    size_t alignment = alignment_of(flags);
    if (alignment == 0) {
        return moat_block_refuse(MOAT_ARGUMENT_ALIGNMENT, 0, size_bytes, EINVAL, caller);
    }
    if (size_bytes > PTRDIFF_MAX - alignment) {
        return moat_block_refuse(MOAT_ARGUMENT_SIZE, size_bytes, alignment, ENOMEM, caller);
    }
    struct moat_request request = {.size_bytes = size_bytes,
                                   .alignment = alignment,
                                   .family = alignment > 1 ? MOAT_FAMILY_ALIGNED : MOAT_FAMILY_MALLOC,
                                   .zero = (flags & MALLOCX_ZERO) != 0,
                                   .caller = caller};
    return moat_block_allocate(&request);
}

static void zero_new_bytes(void *block, size_t old_bytes, size_t size_bytes, int flags) {
    if ((flags & MALLOCX_ZERO) != 0 && size_bytes > old_bytes) {
        memset((char *)block + old_bytes, 0, size_bytes - old_bytes);
    }
}

/* Resizes a block whose new place must be aligned: where it is if that will do, else by hand. */
static void *resize_aligned(void *block, size_t old_bytes, size_t size_bytes, int flags, uintptr_t caller) {
    if (((uintptr_t)block & (alignment_of(flags) - 1)) == 0 && moat_block_resize_in_place(block, size_bytes, caller)) {
        return block;
    }
    void *moved = allocate(size_bytes, flags & ~MALLOCX_ZERO, caller);
    if (moved != NULL) {
        memcpy(moved, block, old_bytes < size_bytes ? old_bytes : size_bytes);
        moat_block_free(block, MOAT_FAMILY_MALLOC, MOAT_CLAIMED_NOTHING, caller);
    }
    return moved;
}

/* ---- exported ---------------------------------------------------------------------------------------------------------- */

MOAT_EXPORT void *mallocx(size_t size_bytes, int flags) { return allocate(size_bytes, flags, MOAT_CALLER); }

MOAT_EXPORT void *rallocx(void *block, size_t size_bytes, int flags) {
    size_t old_bytes = moat_block_size(block);
    size_t alignment = alignment_of(flags);
    void *resized;
    if (alignment == 0) {
        return moat_block_refuse(MOAT_ARGUMENT_ALIGNMENT, 0, size_bytes, EINVAL, MOAT_CALLER);
    }
    if (block == NULL) {
        return allocate(size_bytes, flags, MOAT_CALLER);
    }
    if (alignment > MOAT_HEAP_ALIGNMENT_BYTES) {
        resized = resize_aligned(block, old_bytes, size_bytes, flags, MOAT_CALLER);
    } else {
        resized = moat_block_resize(block, size_bytes, MOAT_CALLER);
    }
    if (resized != NULL) {
        zero_new_bytes(resized, old_bytes, size_bytes, flags);
    }
    return resized;
}

/* The extra bytes are a wish: it is not granted, since a block that is no larger than needed shows more overflows. */
MOAT_EXPORT size_t xallocx(void *block, size_t size_bytes, size_t extra_bytes, int flags) {
    (void)extra_bytes;
    size_t old_bytes = moat_block_size(block);
    if (size_bytes == old_bytes) {
        return size_bytes;
    }
    if (size_bytes <= PTRDIFF_MAX && moat_block_resize_in_place(block, size_bytes, MOAT_CALLER)) {
        zero_new_bytes(block, old_bytes, size_bytes, flags);
        return size_bytes;
    }
    if (size_bytes < old_bytes) {
        atomic_store(&sizes_differ, true);
    }
    return old_bytes;
}

MOAT_EXPORT size_t sallocx(const void *block, int flags) {
    (void)flags;
    return moat_block_size(block);
}

MOAT_EXPORT void dallocx(void *block, int flags) {
    (void)flags;
    moat_block_free(block, MOAT_FAMILY_MALLOC, MOAT_CLAIMED_NOTHING, MOAT_CALLER);
}

MOAT_EXPORT void sdallocx(void *block, size_t size_bytes, int flags) {
    bool exact = !atomic_load(&sizes_differ);
    struct moat_claimed claimed = {exact ? size_bytes : SIZE_MAX, alignment_of(flags)};
    moat_block_free(block, MOAT_FAMILY_MALLOC, claimed, MOAT_CALLER);
}

/* The size a block of that request would really have; 0 when there can be none. */
MOAT_EXPORT size_t nallocx(size_t size_bytes, int flags) {
    size_t alignment = alignment_of(flags);
    return alignment != 0 && size_bytes <= PTRDIFF_MAX - alignment ? size_bytes : 0;
}

/* ---- its settings, of which there are none ----------------------------------------------------------------------------- */

MOAT_EXPORT int mallctl(const char *name, void *old, size_t *old_bytes, void *new, size_t new_bytes) {
    (void)name, (void)old, (void)old_bytes, (void)new, (void)new_bytes;
    return ENOENT; /* no such name */
}

MOAT_EXPORT int mallctlnametomib(const char *name, size_t *mib, size_t *mib_count) {
    (void)name, (void)mib, (void)mib_count;
    return ENOENT;
}

MOAT_EXPORT int mallctlbymib(const size_t *mib, size_t mib_count, void *old, size_t *old_bytes, void *new,
                             size_t new_bytes) {
    (void)mib, (void)mib_count, (void)old, (void)old_bytes, (void)new, (void)new_bytes;
    return ENOENT;
}

MOAT_EXPORT void malloc_stats_print(void (*write)(void *context, const char *text), void *context,
                                    const char *options) {
    static const char instead[] =
        "moat: memory is served by Moat, which has no jemalloc statistics; see malloc_info(3)\n";
    (void)options;
    if (write != NULL) {
        write(context, instead);
    } else {
        moat_output_write(instead, sizeof instead - 1);
    }
}
