/* What the heap says of itself: mallinfo and its family, and moat.h. Run under Moat with on_error=continue
 * and without far quarantine, of which malloc_trim's effect would depend.
 * Usage: info_calls XML-FILE; `info_calls mallopt` prints what mallopt answers, for comparison with glibc's.
 * May include: the C library and moat.h. */
#define MOAT_OPTIONAL
#include "moat.h"

#include "verdict.h"

#include <errno.h>
#include <malloc.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK_COUNT 1000u
#define BLOCK_BYTES 500u
#define LARGE_BYTES (8u << 20)

static unsigned told;
static int told_kind;

/* Exported by -rdynamic: Moat calls it with each finding. */
void moat_on_finding(const struct moat_finding *finding) {
    told++;
    told_kind = finding->kind;
    free(malloc(10)); /* allowed here */
}

static void print_mallopt(void) {
    static const int values[] = {-1, 0, 1, 64, 160, 161, 1 << 20, 32 << 20, (32 << 20) + 1};
    static const int parameters[] = {M_MXFAST,     M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD, M_MMAP_MAX, M_PERTURB,
                                     M_ARENA_TEST, M_ARENA_MAX,      M_NLBLKS,  M_GRAIN,          M_KEEP};
    for (size_t i = 0; i < sizeof parameters / sizeof *parameters; i++) {
        for (size_t j = 0; j < sizeof values / sizeof *values; j++) {
            printf("%d %d: %d\n", parameters[i], values[j], mallopt(parameters[i], values[j]));
        }
    }
}

static void test_mallinfo(void) {
    static char *blocks[BLOCK_COUNT];
    struct mallinfo2 before = mallinfo2();
    for (unsigned i = 0; i < BLOCK_COUNT; i++) {
        blocks[i] = malloc(BLOCK_BYTES);
    }
    struct mallinfo2 during = mallinfo2();
    struct mallinfo narrow = mallinfo();
    EXPECT(during.uordblks - before.uordblks == (size_t)BLOCK_COUNT * BLOCK_BYTES);
    EXPECT(during.arena >= during.uordblks + during.fordblks);
    EXPECT((size_t)narrow.uordblks == during.uordblks && (size_t)narrow.arena == during.arena);
    for (unsigned i = 0; i < BLOCK_COUNT; i++) {
        free(blocks[i]);
    }
    struct mallinfo2 after = mallinfo2();
    EXPECT(after.uordblks == before.uordblks);
    EXPECT(after.smblks > before.smblks && after.fsmblks >= (after.smblks - 1) * BLOCK_BYTES);
    void *large = malloc(LARGE_BYTES);
    struct mallinfo2 with_large = mallinfo2();
    EXPECT(with_large.hblks == after.hblks + 1 && with_large.hblkhd == after.hblkhd + LARGE_BYTES);
    free(large);
    EXPECT(mallinfo2().hblkhd == after.hblkhd);
}

static void test_sizes(void) {
    void *none = NULL;
    EXPECT(malloc_usable_size(none) == 0);
    for (size_t size = 0; size <= 4u << 20; size = size * 3 + 1) {
        void *block = malloc(size);
        verdict(malloc_usable_size(block) == size, "usable size is the requested one");
        free(block);
    }
}

static void test_trim(void) {
    static void *blocks[64];
    for (unsigned i = 0; i < 64; i++) {
        blocks[i] = malloc(512 << 10); /* 32 MiB in all, below the size that gets pages of its own */
    }
    size_t mapped = mallinfo2().arena;
    for (unsigned i = 0; i < 64; i++) {
        free(blocks[i]);
    }
    EXPECT(mallinfo2().arena == mapped);
    EXPECT(malloc_trim(SIZE_MAX) == 0);
    EXPECT(malloc_trim(0) == 1);
    EXPECT(mallinfo2().arena < mapped); /* not all of it: used blocks lie between */
    EXPECT(malloc_trim(0) == 0);
}

static void test_malloc_info(const char *path) {
    FILE *file = fopen(path, "w");
    void *large = malloc(LARGE_BYTES);
    EXPECT(malloc_info(1, file) == EINVAL);
    EXPECT(ftell(file) == 0);
    EXPECT(malloc_info(0, file) == 0);
    EXPECT(fclose(file) == 0);
    free(large);
}

static void test_check(void) {
    EXPECT(strcmp(moat_version(), MOAT_VERSION) == 0);
    errno = ENOTTY;
    EXPECT(moat_check() == 0);
    EXPECT(errno == ENOTTY);
    char *volatile block = malloc(24);
    char *volatile freed = malloc(40);
    free(freed);
    freed[3] = 1;
    block[24] = 'x';
    EXPECT(moat_check() == 2);
    EXPECT(told == 2);
    EXPECT(told_kind == MOAT_HEAP_BUFFER_OVERFLOW || told_kind == MOAT_HEAP_USE_AFTER_FREE);
    EXPECT(moat_check() == 0); /* each block is reported once */
    free(block);
    EXPECT(told == 2);
}

int main(int argc, char **argv) {
    if (argc == 2 && strcmp(argv[1], "mallopt") == 0) {
        print_mallopt();
        return 0;
    }
    EXPECT(moat_check != NULL && moat_version != NULL);
    EXPECT(mallopt(M_CHECK_ACTION, 3) == 1);
    EXPECT(mallopt(12345, 1) == 0);
    test_trim();
    test_mallinfo();
    test_sizes();
    test_malloc_info(argv[1]);
    malloc_stats();
    test_check();
    return 0;
}
