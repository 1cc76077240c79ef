/* Tests of arenas and the high-water mark over the program break and mappings, for Linux.
 * May include: tests/test.h, moat's public headers and POSIX. */
#include "moat/arena.h"
#include "moat/heap.h"
#include "moat/sources.h"
#include "tests/test.h"

#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define KIB ((size_t)1024)
#define MIB (1024 * KIB)
#define BLOCK_BYTES (3 * KIB)
#define BLOCKS 1000u

/* Runs a check in a process of its own, where the break may be moved; it says what failed by its exit status. */
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

static bool fill(struct moat_arena *arena) {
    for (unsigned i = 0; i < BLOCKS; i++) {
        unsigned char *block = moat_arena_alloc(arena, BLOCK_BYTES);
        if (block == NULL)
            return false;
        memset(block, (int)i, BLOCK_BYTES);
    }
    return moat_arena_verify(arena, NULL);
}

static int arena_over_sbrk(void) {
    struct moat_sbrk_source state;
    struct moat_arena_config config = {.source = moat_sbrk_source_init(&state, 0), .keep_bytes = 1};
    struct moat_arena arena;
    unsigned char *before = sbrk(0);
    CHILD_CHECK(moat_arena_init(&arena, NULL, 0, &config));
    CHILD_CHECK(fill(&arena));
    CHILD_CHECK((unsigned char *)sbrk(0) >= before + BLOCKS * BLOCK_BYTES);
    CHILD_CHECK(moat_arena_reset(&arena));
    CHILD_CHECK((unsigned char *)sbrk(0) < before + 8 * KIB); /* all but what brought the break to a step */
    /* Somebody else's memory in between stays, and what is below it cannot go back. */
    struct moat_arena_statistics said;
    CHILD_CHECK(moat_arena_alloc(&arena, 100) != NULL);
    unsigned char *foreign = sbrk(100);
    memset(foreign, 0x77, 100);
    CHILD_CHECK(fill(&arena));
    CHILD_CHECK(moat_arena_reset(&arena));
    moat_arena_statistics(&arena, &said);
    CHILD_CHECK(said.spare_count == 1);
    CHILD_CHECK((unsigned char *)sbrk(0) < foreign + 8 * KIB);
    for (int i = 0; i < 100; i++)
        CHILD_CHECK(foreign[i] == 0x77);
    CHILD_CHECK(fill(&arena));
    CHILD_CHECK(moat_arena_close(&arena));
    return 0;
}

MOAT_TEST(arena_host, over_the_program_break) { CHECK_EQ(in_child(arena_over_sbrk), 0); }

MOAT_TEST(arena_host, over_mappings) {
    for (size_t keep_bytes = 0; keep_bytes < 2; keep_bytes++) {
        struct moat_mmap_source state;
        struct moat_arena_config config = {.source = moat_mmap_source_init_pages(&state),
                                           .keep_bytes = keep_bytes == 0 ? SIZE_MAX : 1};
        struct moat_arena arena;
        struct moat_arena_statistics said;
        CHECK(moat_arena_init(&arena, NULL, 0, &config));
        for (size_t round = 0; round < 3; round++) {
            struct moat_arena_mark mark = moat_arena_mark(&arena);
            CHECK(fill(&arena));
            CHECK(moat_arena_rewind(&arena, mark));
            moat_arena_statistics(&arena, &said);
            CHECK_EQ(said.chunk_count, 0);
            CHECK(keep_bytes == 0 ? said.spare_bytes >= BLOCKS * BLOCK_BYTES : said.spare_bytes == 0);
        }
        CHECK(moat_arena_close(&arena));
    }
}

/* ---- the heap's high-water mark ---------------------------------------------------------------------------------- */

static int high_water_over_sbrk(void) {
    struct moat_sbrk_source state;
    struct moat_heap_config config = {
        .source = moat_sbrk_source_init(&state, 0), .grow_bytes = 64 * KIB, .keep_bytes = 256 * KIB};
    struct moat_heap *heap = moat_heap_create_from_source(&config);
    unsigned char *before = sbrk(0);
    void *blocks[64];
    for (size_t i = 0; i < 64; i++)
        CHILD_CHECK((blocks[i] = moat_heap_alloc(heap, 64 * KIB)) != NULL);
    CHILD_CHECK((unsigned char *)sbrk(0) >= before + 4 * MIB - 64 * KIB);
    for (size_t i = 0; i < 64; i++)
        CHILD_CHECK(moat_heap_free(heap, blocks[i]));
    CHILD_CHECK((unsigned char *)sbrk(0) <= before + 256 * KIB + 3 * 64 * KIB);
    CHILD_CHECK(moat_heap_verify(heap, NULL));
    return 0;
}

MOAT_TEST(arena_host, high_water_over_the_program_break) { CHECK_EQ(in_child(high_water_over_sbrk), 0); }

MOAT_TEST(arena_host, high_water_over_mappings) {
    struct moat_mmap_source state;
    struct moat_heap_config config = {
        .source = moat_mmap_source_init(&state, 0), .keep_bytes = 8 * MIB, .largest_block_bytes = SIZE_MAX};
    struct moat_heap *heap = moat_heap_create_from_source(&config);
    struct moat_heap_statistics said;
    static void *blocks[5000];
    for (size_t round = 0; round < 2; round++) {
        for (size_t i = 0; i < 5000; i++)
            CHECK((blocks[i] = moat_heap_alloc(heap, 20 * KIB)) != NULL);
        moat_heap_statistics(heap, &said);
        CHECK(said.region_bytes >= 97 * MIB);
        for (size_t i = 0; i < 5000; i++)
            CHECK(moat_heap_free(heap, blocks[(i * 1237) % 5000]));
        moat_heap_statistics(heap, &said);
        CHECK(said.region_bytes <= 8 * MIB + 2 * MOAT_CHUNK_BYTES);
        CHECK(moat_heap_verify(heap, NULL));
    }
}
