/* jemalloc's extended interface, as its manual defines it. Linked without it: run under Moat with on_error=continue.
 * May include: the C library and moat.h. */
#define MOAT_OPTIONAL
#include "moat.h"

#include "verdict.h"

#include <errno.h>
#include <malloc.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* As jemalloc's header spells flags. */
#define LG_ALIGN(shift) ((int)(shift))
#define ALIGN(bytes) ((int)__builtin_ctzl(bytes))
#define ZERO 0x40
#define TCACHE(index) ((int)(((index) + 2) << 8))
#define ARENA(index) ((((int)(index)) + 1) << 20)

#define WEAK __attribute__((weak))
WEAK void *mallocx(size_t size, int flags);
WEAK void *rallocx(void *block, size_t size, int flags);
WEAK size_t xallocx(void *block, size_t size, size_t extra, int flags);
WEAK size_t sallocx(const void *block, int flags);
WEAK void dallocx(void *block, int flags);
WEAK void sdallocx(void *block, size_t size, int flags);
WEAK size_t nallocx(size_t size, int flags);
WEAK int mallctl(const char *name, void *old, size_t *old_bytes, void *new, size_t new_bytes);
WEAK int mallctlnametomib(const char *name, size_t *mib, size_t *mib_count);
WEAK int mallctlbymib(const size_t *mib, size_t mib_count, void *old, size_t *old_bytes, void *new, size_t new_bytes);
WEAK void malloc_stats_print(void (*write)(void *context, const char *text), void *context, const char *options);

static unsigned told;
static int told_argument;

void moat_on_finding(const struct moat_finding *finding) {
    told++;
    told_argument = finding->argument;
}

static bool all_zero(const char *bytes, size_t first, size_t end) {
    for (size_t i = first; i < end; i++) {
        if (bytes[i] != 0) {
            return false;
        }
    }
    return true;
}

static bool all_are(const char *bytes, char value, size_t count) {
    for (size_t i = 0; i < count; i++) {
        if (bytes[i] != value) {
            return false;
        }
    }
    return true;
}

static void test_allocation(void) {
    for (unsigned shift = 0; shift <= 16; shift++) {
        char *block = mallocx(1000, LG_ALIGN(shift) | ZERO | TCACHE(3) | ARENA(5));
        verdict(((uintptr_t)block & (((uintptr_t)1 << shift) - 1)) == 0, "aligned as asked");
        verdict(all_zero(block, 0, 1000), "zero as asked");
        verdict(sallocx(block, 0) == 1000 && malloc_usable_size(block) == 1000, "exact size");
        memset(block, 'x', 1000);
        if (shift % 2 == 0) {
            dallocx(block, LG_ALIGN(shift));
        } else {
            sdallocx(block, 1000, LG_ALIGN(shift));
        }
    }
    EXPECT(ALIGN(4096) == LG_ALIGN(12));
    EXPECT(nallocx(1000, 0) == 1000 && nallocx(1, ALIGN(4096)) >= 1);
    EXPECT(nallocx(SIZE_MAX, 0) == 0 && nallocx((size_t)PTRDIFF_MAX + 1, 0) == 0);
    EXPECT(mallocx((size_t)PTRDIFF_MAX + 1, 0) == NULL);
    EXPECT(mallocx(SIZE_MAX, ALIGN(4096)) == NULL);
    EXPECT(mallocx(1, LG_ALIGN(63)) == NULL);
    void *plain = malloc(50);
    dallocx(plain, 0); /* either kind may be freed by the other */
    free(mallocx(50, 0));
    free(mallocx(50, ALIGN(256)));
}

static void test_resize(size_t from, size_t to, int flags) {
    char *block = mallocx(from, flags);
    memset(block, 'a', from);
    char *moved = rallocx(block, to, flags | ZERO);
    size_t kept = from < to ? from : to;
    uintptr_t mask = ((uintptr_t)1 << (flags & 63)) - 1;
    verdict(moved != NULL && ((uintptr_t)moved & mask) == 0, "resized, aligned");
    verdict(sallocx(moved, 0) == to, "resized to exactly that");
    verdict(all_are(moved, 'a', kept) && all_zero(moved, kept, to), "old bytes kept, new ones zero");
    sdallocx(moved, to, flags);
}

static void test_resizes(void) {
    static const size_t sizes[] = {1, 17, 1000, 5000, 300000, 3000000};
    for (unsigned i = 0; i < 36; i++) {
        test_resize(sizes[i / 6], sizes[i % 6], 0);
        test_resize(sizes[i / 6], sizes[i % 6], ALIGN(4096));
    }
    char *block = mallocx(100, 0);
    memset(block, 'b', 100);
    EXPECT(rallocx(block, (size_t)PTRDIFF_MAX + 1, 0) == NULL);
    EXPECT(rallocx(block, SIZE_MAX, ALIGN(64)) == NULL);
    EXPECT(all_are(block, 'b', 100) && sallocx(block, 0) == 100);
    dallocx(block, 0);
}

static void test_in_place(void) {
    static const size_t sizes[] = {1, 100, 5000, 100000, 2000000};
    for (unsigned i = 0; i < 25; i++) {
        size_t from = sizes[i / 5];
        size_t to = sizes[i % 5];
        char *block = mallocx(from, 0);
        memset(block, 'c', from);
        size_t real = xallocx(block, to, 64, ZERO);
        verdict(real == sallocx(block, 0), "xallocx gives the size that the block has");
        verdict(real == from || (real >= to && real <= to + 64), "grown to what was asked for, or not at all");
        verdict(all_are(block, 'c', from < real ? from : real) && all_zero(block, from < real ? from : real, real),
                "the same bytes, new ones zero");
        memset(block, 'd', real);
        sdallocx(block, real, 0);
    }
    char *block = mallocx(100, 0);
    EXPECT(xallocx(block, SIZE_MAX, 0, 0) == 100);
    dallocx(block, 0);
}

static void count_text(void *context, const char *text) { *(size_t *)context += strlen(text); }

static void test_control(void) {
    size_t value = 42;
    size_t bytes = sizeof value;
    size_t mib[4] = {1, 2, 3, 4};
    size_t mib_count = 4;
    size_t text_bytes = 0;
    EXPECT(mallctl("stats.allocated", &value, &bytes, NULL, 0) == ENOENT);
    EXPECT(mallctlnametomib("arenas.narenas", mib, &mib_count) == ENOENT);
    EXPECT(mallctlbymib(mib, 2, &value, &bytes, NULL, 0) == ENOENT);
    EXPECT(value == 42 && bytes == sizeof value && mib_count == 4 && mib[0] == 1);
    malloc_stats_print(count_text, &text_bytes, "J");
    EXPECT(text_bytes > 0);
}

int main(void) {
    if (mallocx == NULL) {
        EXPECT(!"served by Moat");
        return 1;
    }
    test_allocation();
    test_resizes();
    test_control();
    EXPECT(told == 0);
    void *volatile block = mallocx(100, 0);
    sdallocx(block, 99, 0);
    EXPECT(told == 1 && told_argument == MOAT_ARGUMENT_SIZED_DELETE);
    told = 0;
    test_in_place();
    EXPECT(told == 0);
    dallocx(block, 0);
    EXPECT(told == 1); /* freed twice */
    return 0;
}
