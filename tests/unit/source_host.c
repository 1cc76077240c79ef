/* Tests of sbrk and mmap as sources, for Linux.
 * May include: tests/test.h, moat/heap.h, moat/sources.h and POSIX. */
#include "moat/heap.h"
#include "moat/sources.h"
#include "tests/test.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#define KIB ((size_t)1024)
#define MIB (1024 * KIB)

/* Runs a check in a process of its own, where limits and the break may be changed; it says what failed by its exit status. */
static int in_child(int (*check)(void)) {
    pid_t child = fork();
    if (child == 0)
        _exit(check());
    int status = 0;
    CHECK(child > 0 && waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status));
    return WEXITSTATUS(status);
}

#define CHILD_CHECK(condition)                                                                                         \
    do {                                                                                                               \
        if (!(condition))                                                                                              \
            return __LINE__ % 255 + 1; /* which line, as far as a status can tell */                                   \
    } while (0)

/* ---- sbrk ---------------------------------------------------------------------------------------------------------- */

static int sbrk_pieces_follow_one_another(void) {
    struct moat_sbrk_source state;
    const struct moat_source *source = moat_sbrk_source_init(&state, 0);
    size_t got = 0;
    errno = 123;
    unsigned char *first = source->acquire(source->context, 1, &got);
    CHILD_CHECK(first != NULL && got == 4 * KIB && (uintptr_t)first % (4 * KIB) == 0);
    memset(first, 1, got);
    unsigned char *second = source->acquire(source->context, 10000, &got);
    CHILD_CHECK(second == first + 4 * KIB && got == 12 * KIB);
    memset(second, 2, got);
    CHILD_CHECK(!source->release(source->context, first, 4 * KIB));
    CHILD_CHECK(source->release(source->context, second + 8 * KIB, 4 * KIB));
    CHILD_CHECK(sbrk(0) == second + 8 * KIB);
    CHILD_CHECK(source->acquire(source->context, SIZE_MAX, &got) == NULL);
    CHILD_CHECK(sizeof got == 4 ||
                source->acquire(source->context, SIZE_MAX / 4, &got) == NULL); /* the kernel refuses */
    CHILD_CHECK(source->acquire(source->context, 0, &got) == NULL);
    CHILD_CHECK(errno == 123);
    return 0;
}

MOAT_TEST(source_sbrk, pieces_follow_one_another) { CHECK_EQ(in_child(sbrk_pieces_follow_one_another), 0); }

static int sbrk_tolerates_others(void) {
    struct moat_sbrk_source state;
    struct moat_heap_config config = {.source = moat_sbrk_source_init(&state, 0), .grow_bytes = 64 * KIB};
    struct moat_heap *heap = moat_heap_create_from_source(&config);
    struct moat_heap_statistics statistics;
    CHILD_CHECK(heap != NULL);
    CHILD_CHECK(moat_heap_alloc(heap, 100 * KIB) != NULL);
    moat_heap_statistics(heap, &statistics);
    CHILD_CHECK(statistics.region_count == 1);
    unsigned char *foreign = sbrk(333);
    memset(foreign, 0x77, 333);
    unsigned char *block = moat_heap_alloc(heap, 200 * KIB);
    CHILD_CHECK(block > foreign);
    memset(block, 1, 200 * KIB);
    moat_heap_statistics(heap, &statistics);
    CHILD_CHECK(statistics.region_count == 2);
    for (int i = 0; i < 333; i++)
        CHILD_CHECK(foreign[i] == 0x77);
    CHILD_CHECK(moat_heap_verify(heap, NULL));
    CHILD_CHECK(moat_heap_free(heap, block));
    void *end = sbrk(0);
    CHILD_CHECK(moat_heap_trim(heap, 0) >= 192 * KIB); /* the upper region goes; the lower one is not at the break */
    CHILD_CHECK((unsigned char *)sbrk(0) < (unsigned char *)end);
    CHILD_CHECK(moat_heap_verify(heap, NULL));
    return 0;
}

MOAT_TEST(source_sbrk, tolerates_others_who_move_the_break) { CHECK_EQ(in_child(sbrk_tolerates_others), 0); }

/* ---- mmap ---------------------------------------------------------------------------------------------------------- */

MOAT_TEST(source_mmap, chunks_are_aligned_and_zeroed) {
    struct moat_mmap_source state;
    const struct moat_source *source = moat_mmap_source_init(&state, 0);
    unsigned char *piece[8];
    size_t got[8];
    errno = 123;
    for (size_t i = 0; i < 8; i++) {
        piece[i] = source->acquire(source->context, i % 3 * 3 * MIB + 1, &got[i]);
        CHECK(piece[i] != NULL);
        CHECK_EQ((uintptr_t)piece[i] % MOAT_CHUNK_BYTES, 0);
        CHECK_EQ(got[i], (i % 3 * 3 * MIB + MOAT_CHUNK_BYTES) / MOAT_CHUNK_BYTES * MOAT_CHUNK_BYTES);
        for (size_t at = 0; at < got[i]; at += 4 * KIB)
            CHECK_EQ(piece[i][at], 0);
        memset(piece[i], (int)i, got[i]);
    }
    for (size_t i = 0; i < 8; i++) {
        CHECK_EQ(piece[i][got[i] - 1], i);
        CHECK(source->release(source->context, piece[i], got[i]));
    }
    CHECK_EQ(errno, 123);
}

MOAT_TEST(source_mmap, plain_pages_are_as_few_as_asked_for) {
    struct moat_mmap_source state;
    const struct moat_source *source = moat_mmap_source_init_pages(&state);
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t got = 0;
    unsigned char *piece = source->acquire(source->context, page + 1, &got);
    CHECK(piece != NULL);
    CHECK_EQ(got, 2 * page);
    piece[0] = piece[got - 1] = 1;
    CHECK(!source->release(source->context, piece + 1, page));
    CHECK(!source->release(source->context, piece, page - 1));
    CHECK(!source->release(source->context, piece, 0));
    CHECK(source->release(source->context, piece + page, page));
    CHECK(source->release(source->context, piece, page));
    errno = 123;
    CHECK(source->acquire(source->context, 0, &got) == NULL);
    CHECK(source->acquire(source->context, SIZE_MAX, &got) == NULL);
    CHECK(source->acquire(source->context, SIZE_MAX / 2, &got) == NULL);
    CHECK(sizeof got == 4 || source->acquire(source->context, SIZE_MAX / 4, &got) == NULL); /* the kernel refuses */
    CHECK_EQ(errno, 123);
}

/* Under `ulimit -v` the last memory comes in pages. The limit leaves less than a chunk. */
static int short_of_address_space(void) {
    struct moat_mmap_source state;
    const struct moat_source *source = moat_mmap_source_init(&state, 0);
    size_t got = 0;
    long pages = 0;
    char text[64];
    CHILD_CHECK(source->acquire(source->context, 1, &got) != NULL);
    FILE *statm = fopen("/proc/self/statm", "r");
    CHILD_CHECK(statm != NULL && fgets(text, sizeof text, statm) != NULL);
    for (const char *at = text; *at >= '0' && *at <= '9'; at++)
        pages = pages * 10 + (*at - '0');
    struct rlimit limit = {(rlim_t)pages * 4096 + 3 * MIB, RLIM_INFINITY};
    CHILD_CHECK(setrlimit(RLIMIT_AS, &limit) == 0);
    for (int i = 0; i < 2; i++) { /* of an odd size, so that the kernel has no reason of its own to align it */
        unsigned char *piece = source->acquire(source->context, MIB + 4 * KIB, &got);
        CHILD_CHECK(piece != NULL && got == MIB + 4 * KIB && (uintptr_t)piece % MOAT_CHUNK_BYTES == 0);
        memset(piece, 1, got);
    }
    CHILD_CHECK(source->acquire(source->context, MIB + 4 * KIB, &got) == NULL);
    CHILD_CHECK(source->acquire(source->context, 512 * KIB, &got) != NULL && got == 512 * KIB);
    return 0;
}

MOAT_TEST(source_mmap, falls_back_to_pages_when_address_space_is_short) {
    CHECK_EQ(in_child(short_of_address_space), 0);
}

MOAT_TEST(source_mmap, feeds_a_heap_in_few_regions) {
    struct moat_mmap_source state;
    struct moat_heap_config config = {.source = moat_mmap_source_init(&state, 0), .largest_block_bytes = SIZE_MAX >> 3};
    struct moat_heap *heap = moat_heap_create_from_source(&config);
    CHECK(heap != NULL);
    unsigned char *last = NULL;
    for (int i = 0; i < 3000; i++) {
        unsigned char *block = moat_heap_alloc(heap, 30 * KIB);
        CHECK(block != NULL);
        memcpy(block, &last, sizeof last);
        last = block;
    }
    unsigned char *large = moat_heap_alloc(heap, 100 * MIB);
    CHECK(large != NULL);
    large[100 * MIB - 1] = 1;
    struct moat_heap_statistics statistics;
    moat_heap_statistics(heap, &statistics);
    CHECK(statistics.region_count <= 20);
    CHECK(moat_heap_verify(heap, NULL));
    CHECK(moat_heap_free(heap, large));
    while (last != NULL) {
        unsigned char *next;
        memcpy(&next, last, sizeof next);
        CHECK(moat_heap_free(heap, last));
        last = next;
    }
    size_t given = moat_heap_trim(heap, 0);
    CHECK(given >= 180 * MIB);
    moat_heap_statistics(heap, &statistics);
    CHECK(statistics.region_bytes <= MIB);
    CHECK(moat_heap_verify(heap, NULL));
    CHECK(moat_heap_alloc(heap, 5 * MIB) != NULL);
    CHECK(moat_heap_verify(heap, NULL));
}
