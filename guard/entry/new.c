/* The C++ allocation functions, all forms, without linking the C++ library. May include: process.h and POSIX headers.
 *
 * When memory runs out the new-handler is called and std::bad_alloc thrown as the standard says, through the C++ library that the
 * program has loaded, found only then. Fully static programs reach it through weak references. */
#define _GNU_SOURCE 1 /* RTLD_DEFAULT */
#include "guard/entry/process.h"

#include <dlfcn.h>
#include <stdlib.h>

/* How the C++ ABI spells size_t. */
#if __SIZEOF_SIZE_T__ == __SIZEOF_LONG__ && __SIZEOF_LONG__ == 8
#define Z "m"
#else
#define Z "j"
#endif

typedef void handler(void);
extern handler *weak_get_new_handler(void) __asm__("_ZSt15get_new_handlerv") __attribute__((weak));
extern void weak_throw_bad_alloc(void) __asm__("_ZSt17__throw_bad_allocv") __attribute__((weak));

/* Weak, so that static programs need no loader. dlopen is looked up, not named: naming it makes static links warn. */
#pragma weak dlsym

/* A function of the program's C++ library; NULL when it has none. */
static void *cxx_symbol(const char *name) {
    static const char *const libraries[] = {"libstdc++.so.6", "libc++.so.1", "libc++abi.so.1"};
    void *(*open_library)(const char *name, int how) = NULL;
    if (dlsym == NULL) {
        return NULL;
    }
    *(void **)&open_library = dlsym(RTLD_DEFAULT, "dlopen");
    void *symbol = dlsym(RTLD_DEFAULT, name);
    for (size_t i = 0; symbol == NULL && open_library != NULL && i < sizeof libraries / sizeof libraries[0]; i++) {
        void *library = open_library(libraries[i], RTLD_NOW | RTLD_NOLOAD); /* a handle to what is loaded already */
        symbol = library == NULL ? NULL : dlsym(library, name);
    }
    return symbol;
}

static handler *new_handler(void) {
    handler *(*get)(void) = weak_get_new_handler;
    if (get == NULL) {
        *(void **)&get = cxx_symbol("_ZSt15get_new_handlerv");
    }
    return get == NULL ? NULL : get();
}

/* Runs the new-handler once. False when there is none. It may throw. */
static bool run_new_handler(void) {
    handler *found = new_handler();
    if (found != NULL) {
        found();
    }
    return found != NULL;
}

static void throw_bad_alloc(void) {
    void (*raise_it)(void) = weak_throw_bad_alloc;
    if (raise_it == NULL) {
        *(void **)&raise_it = cxx_symbol("_ZSt17__throw_bad_allocv");
    }
    if (raise_it != NULL) {
        raise_it();
    }
    abort(); /* operator new must not return NULL, and there is nobody to throw for us */
}

static void *allocate(size_t size_bytes, size_t alignment, unsigned family, uintptr_t caller) {
    struct moat_request request = {
        .size_bytes = size_bytes, .alignment = alignment, .family = (uint8_t)family, .caller = caller};
    return moat_block_allocate(&request);
}

static void *allocate_or_throw(size_t size_bytes, size_t alignment, unsigned family, uintptr_t caller) {
    void *block;
    while (__builtin_expect((block = allocate(size_bytes, alignment, family, caller)) == NULL, 0)) {
        if (!run_new_handler()) {
            throw_bad_alloc();
        }
    }
    return block;
}

/* The nothrow forms: a handler that throws means NULL, and only C++ can catch. The library's own nothrow form does: it calls the
 * throwing operator, which is ours again, and catches. Without it, or without a handler, memory that is out stays out. */
static __attribute__((noinline, cold)) void *allocate_failed(size_t size_bytes, const void *tag,
                                                             const char *library_form) {
    void *(*form)(size_t size, const void *nothrow);
    *(void **)&form = dlsym == NULL || new_handler() == NULL ? NULL : dlsym(RTLD_NEXT, library_form);
    return form == NULL ? NULL : form(size_bytes, tag);
}

static __attribute__((noinline, cold)) void *allocate_aligned_failed(size_t size_bytes, size_t alignment,
                                                                     const void *tag, const char *library_form) {
    void *(*form)(size_t size, size_t align, const void *nothrow);
    *(void **)&form = dlsym == NULL || new_handler() == NULL ? NULL : dlsym(RTLD_NEXT, library_form);
    return form == NULL ? NULL : form(size_bytes, alignment, tag);
}

/* ---- exported ---------------------------------------------------------------------------------------------------------- */

#define MOAT_OPERATORS(name, new_letters, delete_letters, family, aligned_family)                                      \
    MOAT_EXPORT void *name##_new(size_t size_bytes) __asm__("_Z" new_letters Z);                                       \
    MOAT_EXPORT void *name##_new_nothrow(size_t size_bytes,                                                            \
                                         const void *tag) __asm__("_Z" new_letters Z "RKSt9nothrow_t");                \
    MOAT_EXPORT void *name##_new_aligned(size_t size_bytes,                                                            \
                                         size_t alignment) __asm__("_Z" new_letters Z "St11align_val_t");              \
    MOAT_EXPORT void *name##_new_aligned_nothrow(size_t size_bytes, size_t alignment, const void *tag) __asm__(        \
        "_Z" new_letters Z "St11align_val_tRKSt9nothrow_t");                                                           \
    MOAT_EXPORT void name##_delete(void *block) __asm__("_Z" delete_letters "Pv");                                     \
    MOAT_EXPORT void name##_delete_sized(void *block, size_t size_bytes) __asm__("_Z" delete_letters "Pv" Z);          \
    MOAT_EXPORT void name##_delete_nothrow(void *block,                                                                \
                                           const void *tag) __asm__("_Z" delete_letters "PvRKSt9nothrow_t");           \
    MOAT_EXPORT void name##_delete_aligned(void *block,                                                                \
                                           size_t alignment) __asm__("_Z" delete_letters "PvSt11align_val_t");         \
    MOAT_EXPORT void name##_delete_sized_aligned(void *block, size_t size_bytes, size_t alignment) __asm__(            \
        "_Z" delete_letters "Pv" Z "St11align_val_t");                                                                 \
    MOAT_EXPORT void name##_delete_aligned_nothrow(void *block, size_t alignment, const void *tag) __asm__(            \
        "_Z" delete_letters "PvSt11align_val_tRKSt9nothrow_t");                                                        \
                                                                                                                       \
    void *name##_new(size_t size_bytes) {                                                                              \
        return allocate_or_throw(size_bytes, MOAT_ANY_ALIGNMENT, family, MOAT_CALLER);                                 \
    }                                                                                                                  \
    void *name##_new_nothrow(size_t size_bytes, const void *tag) {                                                     \
        void *block = allocate(size_bytes, MOAT_ANY_ALIGNMENT, family, MOAT_CALLER);                                   \
        return block != NULL ? block : allocate_failed(size_bytes, tag, "_Z" new_letters Z "RKSt9nothrow_t");          \
    }                                                                                                                  \
    void *name##_new_aligned(size_t size_bytes, size_t alignment) {                                                    \
        return allocate_or_throw(size_bytes, alignment, aligned_family, MOAT_CALLER);                                  \
    }                                                                                                                  \
    void *name##_new_aligned_nothrow(size_t size_bytes, size_t alignment, const void *tag) {                           \
        void *block = allocate(size_bytes, alignment, aligned_family, MOAT_CALLER);                                    \
        return block != NULL ? block                                                                                   \
                             : allocate_aligned_failed(size_bytes, alignment, tag,                                     \
                                                       "_Z" new_letters Z "St11align_val_tRKSt9nothrow_t");            \
    }                                                                                                                  \
    void name##_delete(void *block) { moat_block_free(block, family, MOAT_CLAIMED_NOTHING, MOAT_CALLER); }             \
    void name##_delete_sized(void *block, size_t size_bytes) {                                                         \
        moat_block_free(block, family, (struct moat_claimed){size_bytes, 0}, MOAT_CALLER);                             \
    }                                                                                                                  \
    void name##_delete_nothrow(void *block, const void *tag) {                                                         \
        (void)tag;                                                                                                     \
        moat_block_free(block, family, MOAT_CLAIMED_NOTHING, MOAT_CALLER);                                             \
    }                                                                                                                  \
    void name##_delete_aligned(void *block, size_t alignment) {                                                        \
        moat_block_free(block, aligned_family, (struct moat_claimed){SIZE_MAX, alignment}, MOAT_CALLER);               \
    }                                                                                                                  \
    void name##_delete_sized_aligned(void *block, size_t size_bytes, size_t alignment) {                               \
        moat_block_free(block, aligned_family, (struct moat_claimed){size_bytes, alignment}, MOAT_CALLER);             \
    }                                                                                                                  \
    void name##_delete_aligned_nothrow(void *block, size_t alignment, const void *tag) {                               \
        (void)tag;                                                                                                     \
        moat_block_free(block, aligned_family, (struct moat_claimed){SIZE_MAX, alignment}, MOAT_CALLER);               \
    }

MOAT_OPERATORS(moat_single, "nw", "dl", MOAT_FAMILY_NEW, MOAT_FAMILY_NEW_ALIGNED)
MOAT_OPERATORS(moat_array, "na", "da", MOAT_FAMILY_NEW_ARRAY, MOAT_FAMILY_NEW_ARRAY_ALIGNED)
