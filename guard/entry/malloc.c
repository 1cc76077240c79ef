/* The C allocation functions, as ISO C, POSIX and glibc define them. May include: process.h and POSIX headers.
 *
 * What ISO C leaves open is decided as glibc does: malloc(0) gives a block of its own, realloc(p, 0) frees and gives NULL. */
#include "guard/entry/process.h"
#include "guard/port/linux/pages.h"

#include <errno.h>
#include <stdlib.h>

static void *allocate(size_t size_bytes, size_t alignment, unsigned family, bool zero, uintptr_t caller) {
    struct moat_request request = {
        .size_bytes = size_bytes, .alignment = alignment, .family = (uint8_t)family, .zero = zero, .caller = caller};
    return moat_block_allocate(&request);
}

static void *allocate_array(size_t count, size_t size_bytes, uintptr_t caller) {
    size_t total_bytes;
    if (__builtin_mul_overflow(count, size_bytes, &total_bytes)) {
        return moat_block_refuse(MOAT_ARGUMENT_PRODUCT, count, size_bytes, ENOMEM, caller);
    }
    return allocate(total_bytes, MOAT_ANY_ALIGNMENT, MOAT_FAMILY_MALLOC, true, caller);
}

static void *resize(void *block, size_t size_bytes, uintptr_t caller) {
    if (block == NULL) {
        return allocate(size_bytes, MOAT_ANY_ALIGNMENT, MOAT_FAMILY_MALLOC, false, caller);
    }
    if (size_bytes == 0) {
        moat_block_free(block, MOAT_FAMILY_MALLOC, MOAT_CLAIMED_NOTHING, caller);
        return NULL;
    }
    return moat_block_resize(block, size_bytes, caller);
}

static void *resize_array(void *block, size_t count, size_t size_bytes, uintptr_t caller) {
    size_t total_bytes;
    if (__builtin_mul_overflow(count, size_bytes, &total_bytes)) {
        return moat_block_refuse(MOAT_ARGUMENT_PRODUCT, count, size_bytes, ENOMEM, caller);
    }
    return resize(block, total_bytes, caller);
}

static bool is_power_of_two(size_t value) { return value != 0 && (value & (value - 1)) == 0; }

/* memalign and aligned_alloc take any alignment in glibc: it is rounded up to a power of two. */
static void *allocate_aligned(size_t alignment, size_t size_bytes, uintptr_t caller) {
    if (alignment > SIZE_MAX / 2 + 1) {
        return moat_block_refuse(MOAT_ARGUMENT_ALIGNMENT, alignment, size_bytes, EINVAL, caller);
    }
    size_t rounded = 1;
    while (rounded < alignment) {
        rounded *= 2;
    }
    if (size_bytes > PTRDIFF_MAX - rounded) {
        return moat_block_refuse(MOAT_ARGUMENT_SIZE, size_bytes, alignment, ENOMEM, caller);
    }
    return allocate(size_bytes, rounded, MOAT_FAMILY_ALIGNED, false, caller);
}

static void *allocate_pages(size_t size_bytes, bool whole_pages, uintptr_t caller) {
    size_t page = moat_pages_size();
    if (size_bytes > PTRDIFF_MAX - 2 * page) {
        return moat_block_refuse(MOAT_ARGUMENT_SIZE, size_bytes, page, ENOMEM, caller);
    }
    size_t rounded_bytes = whole_pages ? (size_bytes + page - 1) & ~(page - 1) : size_bytes;
    return allocate(rounded_bytes, page, MOAT_FAMILY_ALIGNED, false, caller);
}

static int allocate_posix(void **result, size_t alignment, size_t size_bytes, uintptr_t caller) {
    int error = errno;
    if (!is_power_of_two(alignment) || alignment % sizeof(void *) != 0) {
        moat_block_refuse(MOAT_ARGUMENT_ALIGNMENT, alignment, size_bytes, EINVAL, caller);
        errno = error;
        return EINVAL;
    }
    void *block = size_bytes > PTRDIFF_MAX - alignment
                      ? moat_block_refuse(MOAT_ARGUMENT_SIZE, size_bytes, alignment, ENOMEM, caller)
                      : allocate(size_bytes, alignment, MOAT_FAMILY_ALIGNED, false, caller);
    errno = error;
    if (block == NULL) {
        return ENOMEM;
    }
    *result = block;
    return 0;
}

/* ---- exported ---------------------------------------------------------------------------------------------------------- */

/* The linker's aliases would share one symbol's address; separate functions keep each caller's own return address. */
#define MOAT_FAMILY_OF_NAMES(prefix)                                                                                   \
    MOAT_EXPORT void *prefix##malloc(size_t size_bytes) {                                                              \
        return allocate(size_bytes, MOAT_ANY_ALIGNMENT, MOAT_FAMILY_MALLOC, false, MOAT_CALLER);                       \
    }                                                                                                                  \
    MOAT_EXPORT void prefix##free(void *block) {                                                                       \
        moat_block_free(block, MOAT_FAMILY_MALLOC, MOAT_CLAIMED_NOTHING, MOAT_CALLER);                                 \
    }                                                                                                                  \
    MOAT_EXPORT void *prefix##calloc(size_t count, size_t size_bytes) {                                                \
        return allocate_array(count, size_bytes, MOAT_CALLER);                                                         \
    }                                                                                                                  \
    MOAT_EXPORT void *prefix##realloc(void *block, size_t size_bytes) {                                                \
        return resize(block, size_bytes, MOAT_CALLER);                                                                 \
    }                                                                                                                  \
    MOAT_EXPORT void *prefix##memalign(size_t alignment, size_t size_bytes) {                                          \
        return allocate_aligned(alignment, size_bytes, MOAT_CALLER);                                                   \
    }                                                                                                                  \
    MOAT_EXPORT void *prefix##valloc(size_t size_bytes) { return allocate_pages(size_bytes, false, MOAT_CALLER); }     \
    MOAT_EXPORT void *prefix##pvalloc(size_t size_bytes) { return allocate_pages(size_bytes, true, MOAT_CALLER); }

void *__libc_malloc(size_t size_bytes);
void __libc_free(void *block);
void *__libc_calloc(size_t count, size_t size_bytes);
void *__libc_realloc(void *block, size_t size_bytes);
void *__libc_memalign(size_t alignment, size_t size_bytes);
void *__libc_valloc(size_t size_bytes);
void *__libc_pvalloc(size_t size_bytes);
void *memalign(size_t alignment, size_t size_bytes);
void *valloc(size_t size_bytes);
void *pvalloc(size_t size_bytes);
void cfree(void *block);
void free_sized(void *block, size_t size_bytes);
void free_aligned_sized(void *block, size_t alignment, size_t size_bytes);
void __libc_cfree(void *block);
int __posix_memalign(void **result, size_t alignment, size_t size_bytes);

MOAT_FAMILY_OF_NAMES()
MOAT_FAMILY_OF_NAMES(__libc_)

MOAT_EXPORT void *reallocarray(void *block, size_t count, size_t size_bytes) {
    return resize_array(block, count, size_bytes, MOAT_CALLER);
}

MOAT_EXPORT void *aligned_alloc(size_t alignment, size_t size_bytes) {
    return allocate_aligned(alignment, size_bytes, MOAT_CALLER);
}

MOAT_EXPORT int posix_memalign(void **result, size_t alignment, size_t size_bytes) {
    return allocate_posix(result, alignment, size_bytes, MOAT_CALLER);
}

MOAT_EXPORT int __posix_memalign(void **result, size_t alignment, size_t size_bytes) {
    return allocate_posix(result, alignment, size_bytes, MOAT_CALLER);
}

MOAT_EXPORT void cfree(void *block) { moat_block_free(block, MOAT_FAMILY_MALLOC, MOAT_CLAIMED_NOTHING, MOAT_CALLER); }

MOAT_EXPORT void __libc_cfree(void *block) {
    moat_block_free(block, MOAT_FAMILY_MALLOC, MOAT_CLAIMED_NOTHING, MOAT_CALLER);
}

MOAT_EXPORT void free_sized(void *block, size_t size_bytes) {
    moat_block_free(block, MOAT_FAMILY_MALLOC, (struct moat_claimed){size_bytes, 0}, MOAT_CALLER);
}

MOAT_EXPORT void free_aligned_sized(void *block, size_t alignment, size_t size_bytes) {
    moat_block_free(block, MOAT_FAMILY_MALLOC, (struct moat_claimed){size_bytes, alignment}, MOAT_CALLER);
}
