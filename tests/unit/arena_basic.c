/* Portable tests of arenas: blocks, marks, chunks and their source, refusals, damage.
 * May include: tests/test.h, moat/arena.h, moat/sources.h, string.h. */
#include "moat/arena.h"
#include "moat/sources.h"
#include "tests/test.h"

#include <string.h>

#define ALIGN MOAT_ARENA_ALIGNMENT_BYTES
#define WORD sizeof(uintptr_t)

static _Alignas(64) unsigned char memory[32 * 1024];

static bool fault_is(struct moat_arena *arena, const char *rule, const void *block) {
    struct moat_fault fault;
    return moat_arena_take_fault(arena, &fault) && moat_test_same(fault.rule, rule) && fault.block == (uintptr_t)block;
}

static struct moat_arena_statistics statistics_of(const struct moat_arena *arena) {
    struct moat_arena_statistics said;
    moat_arena_statistics(arena, &said);
    return said;
}

MOAT_TEST(arena, blocks_follow_one_another) {
    struct moat_arena arena;
    CHECK(moat_arena_init(&arena, memory, 1024, NULL));
    unsigned char *first = moat_arena_alloc(&arena, 10);
    unsigned char *second = moat_arena_alloc(&arena, ALIGN);
    CHECK(first == memory + MOAT_ARENA_RECORD_BYTES);
    CHECK(second == first + (10 + ALIGN - 1) / ALIGN * ALIGN);
    unsigned char *third = moat_arena_alloc(&arena, 0);
    CHECK(third == second + ALIGN);
    CHECK_EQ(moat_arena_usable(&arena, third), 1);
    CHECK_EQ(moat_arena_usable(&arena, first), 0); /* its size is not known any more */
    CHECK_EQ(statistics_of(&arena).used_bytes, (size_t)(third - first) + 1);
    CHECK(moat_arena_alloc(&arena, 1024) == NULL);
    CHECK(moat_arena_alloc(&arena, SIZE_MAX) == NULL);
    CHECK(moat_arena_alloc(&arena, SIZE_MAX / 8) == NULL);
    unsigned char *rest = moat_arena_alloc(&arena, 1024 - MOAT_ARENA_RECORD_BYTES - (size_t)(third - first) - ALIGN);
    CHECK(rest == third + ALIGN);
    CHECK(moat_arena_alloc_aligned(&arena, 1, 1, 0) == NULL);
    CHECK_EQ(statistics_of(&arena).failure_count, 4);
    CHECK_EQ(statistics_of(&arena).allocation_count, 4);
    CHECK_EQ(statistics_of(&arena).used_bytes, 1024 - MOAT_ARENA_RECORD_BYTES);
    CHECK(moat_arena_verify(&arena, NULL));
    CHECK(moat_arena_reset(&arena));
    CHECK(moat_arena_alloc(&arena, 10) == first);
    CHECK_EQ(statistics_of(&arena).used_bytes_peak, 1024 - MOAT_ARENA_RECORD_BYTES);
    CHECK(moat_arena_close(&arena));
    CHECK(moat_arena_alloc(&arena, 1) == NULL);
}

MOAT_TEST(arena, alignment_below_the_usual_packs) {
    struct moat_arena arena;
    CHECK(moat_arena_init(&arena, memory, 1024, NULL));
    unsigned char *text = moat_arena_alloc_aligned(&arena, 5, 1, 0);
    CHECK(moat_arena_alloc_aligned(&arena, 3, 1, 0) == text + 5);
    CHECK(moat_arena_alloc_aligned(&arena, 3, 2, 0) == text + 8);
    CHECK(moat_arena_alloc_aligned(&arena, 3, 4, 1) == text + 11);
    CHECK(moat_arena_alloc_aligned(&arena, 1, 3, 0) == NULL);
    CHECK(moat_arena_alloc_aligned(&arena, 1, 0, 0) == NULL);
    CHECK(moat_arena_alloc_aligned(&arena, 1, SIZE_MAX / 2 + 1, 0) == NULL);
}

MOAT_TEST(arena, alignment_with_lead) {
    for (size_t sized = 0; sized < 2; sized++) {
        struct moat_arena arena;
        struct moat_arena_config config = {.sized_blocks = sized != 0};
        CHECK(moat_arena_init(&arena, memory + 8, sizeof memory - 8, &config));
        for (size_t alignment = 1; alignment <= 1024; alignment *= 2) {
            for (size_t lead = 0; lead <= 5 * ALIGN; lead += ALIGN) {
                unsigned char *block = moat_arena_alloc_aligned(&arena, 40, alignment, lead);
                CHECK(block != NULL);
                CHECK_EQ(((uintptr_t)block + lead) % alignment, 0);
                CHECK_EQ(sized ? (uintptr_t)block % ALIGN : 0, 0);
                CHECK(moat_arena_usable(&arena, block) >= 40);
                memset(block, 0xff, moat_arena_usable(&arena, block));
            }
        }
        CHECK(moat_arena_verify(&arena, NULL));
        CHECK(!sized || moat_arena_alloc_aligned(&arena, 1, 64, 1) == NULL);
    }
}

MOAT_TEST(arena, resizes_the_latest_block) {
    for (size_t sized = 0; sized < 2; sized++) {
        struct moat_arena arena;
        struct moat_arena_config config = {.sized_blocks = sized != 0};
        CHECK(moat_arena_init(&arena, memory, 1024, &config));
        unsigned char *first = moat_arena_alloc(&arena, 100);
        unsigned char *second = moat_arena_alloc(&arena, 100);
        CHECK(!moat_arena_resize(&arena, first, 200));
        CHECK(moat_arena_resize(&arena, first, 50) == (sized != 0));
        CHECK(moat_arena_resize(&arena, second, 200));
        CHECK(moat_arena_usable(&arena, second) >= 200);
        CHECK(!moat_arena_resize(&arena, second, 2000));
        CHECK(!moat_arena_resize(&arena, second, SIZE_MAX));
        CHECK(moat_arena_resize(&arena, second, 8));
        unsigned char *third = moat_arena_alloc(&arena, 8);
        CHECK(third > second && third <= second + 2 * ALIGN + WORD);
        CHECK(!moat_arena_resize(&arena, NULL, 8));
        CHECK(moat_arena_verify(&arena, NULL));
    }
}

MOAT_TEST(arena, marks_nest) {
    struct moat_arena arena;
    CHECK(moat_arena_init(&arena, memory, 1024, NULL));
    (void)moat_arena_alloc(&arena, 16);
    struct moat_arena_mark outer = moat_arena_mark(&arena);
    void *a = moat_arena_alloc(&arena, 16);
    struct moat_arena_mark inner = moat_arena_mark(&arena);
    void *b = moat_arena_alloc(&arena, 16);
    CHECK(moat_arena_rewind(&arena, inner));
    CHECK(moat_arena_alloc(&arena, 16) == b);
    CHECK(moat_arena_rewind(&arena, inner)); /* as often as one likes */
    CHECK(moat_arena_rewind(&arena, outer));
    CHECK(!moat_arena_rewind(&arena, inner));
    CHECK(fault_is(&arena, "a mark is one that was not rewound past", b));
    CHECK(moat_arena_alloc(&arena, 16) == a);
    CHECK(moat_arena_verify(&arena, NULL));
}

MOAT_TEST(arena, a_mark_seals_what_is_before_it) {
    struct moat_arena arena;
    CHECK(moat_arena_init(&arena, memory, 1024, NULL));
    unsigned char *block = moat_arena_alloc(&arena, 16);
    struct moat_arena_mark mark = moat_arena_mark(&arena);
    CHECK(!moat_arena_resize(&arena, block, 100));
    CHECK(!moat_arena_resize(&arena, block, 1));
    CHECK(moat_arena_alloc(&arena, 16) == block + 16);
    CHECK(moat_arena_rewind(&arena, mark));
    CHECK(!moat_arena_resize(&arena, block, 100));
}

MOAT_TEST(arena, refuses_marks_of_others) {
    struct moat_arena arenas[2];
    CHECK(moat_arena_init(&arenas[0], memory, 1024, NULL));
    CHECK(moat_arena_init(&arenas[1], memory + 1024, 1024, NULL));
    struct moat_arena_mark mark = moat_arena_mark(&arenas[0]);
    (void)moat_arena_alloc(&arenas[1], 100);
    CHECK(!moat_arena_rewind(&arenas[1], mark));
    mark = moat_arena_mark(&arenas[1]);
    (void)moat_arena_alloc(&arenas[1], 100);
    struct moat_arena_mark bent = mark;
    bent.next += 4;
    CHECK(!moat_arena_rewind(&arenas[1], bent));
    bent = mark;
    bent.used_bytes -= 4;
    CHECK(!moat_arena_rewind(&arenas[1], bent));
    CHECK(moat_arena_rewind(&arenas[1], mark));
}

/* ---- chunks ------------------------------------------------------------------------------------------------------ */

static bool add_range(void *argument, void *start, size_t size_bytes) {
    size_t *sum = argument;
    memset(start, 0xee, size_bytes); /* all of it may be written to */
    *sum += size_bytes;
    return true;
}

static size_t bytes_after(const struct moat_arena *arena, struct moat_arena_mark mark) {
    size_t sum = 0;
    CHECK(moat_arena_each_range_after(arena, mark, add_range, &sum));
    return sum;
}

MOAT_TEST(arena, chains_chunks_and_gives_them_back) {
    struct moat_static_source state;
    struct moat_arena_config config = {
        .source = moat_static_source_init(&state, memory, sizeof memory), .chunk_bytes = 1024, .keep_bytes = 1};
    struct moat_arena arena;
    CHECK(moat_arena_init(&arena, NULL, 0, &config));
    CHECK_EQ(statistics_of(&arena).chunk_count, 0);
    struct moat_arena_mark nothing = moat_arena_mark(&arena);
    (void)moat_arena_alloc(&arena, 16);
    struct moat_arena_mark mark = moat_arena_mark(&arena);
    for (size_t i = 0; i < 20; i++)
        CHECK(moat_arena_alloc(&arena, 400) != NULL); /* two in each chunk */
    CHECK(moat_arena_alloc(&arena, 5000) != NULL);    /* one of its own */
    CHECK_EQ(statistics_of(&arena).chunk_count, 11);
    CHECK_EQ(bytes_after(&arena, mark), 20 * 400 + 5000);
    CHECK(moat_arena_verify(&arena, NULL));
    CHECK(moat_arena_rewind(&arena, mark));
    CHECK_EQ(statistics_of(&arena).chunk_count, 1);
    CHECK_EQ(statistics_of(&arena).spare_count, 0);
    CHECK_EQ(statistics_of(&arena).used_bytes, 16);
    CHECK_EQ(bytes_after(&arena, mark), 0);
    CHECK(moat_arena_verify(&arena, NULL));
    (void)moat_arena_alloc(&arena, 2000);
    CHECK(moat_arena_rewind(&arena, nothing));
    CHECK_EQ(statistics_of(&arena).chunk_count, 0);
    CHECK(state.next == state.start); /* the source has it all again */
    CHECK(moat_arena_close(&arena));
}

MOAT_TEST(arena, keeps_as_much_as_it_is_told) {
    static const struct {
        size_t keep_bytes, spare_count;
    } cases[] = {{0, 1}, {1, 0}, {2048, 2}, {3000, 2}, {SIZE_MAX, 4}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct moat_static_source state;
        struct moat_arena_config config = {.source =
                                               moat_static_source_init(&state, memory + 1024, sizeof memory - 1024),
                                           .chunk_bytes = 1024,
                                           .keep_bytes = cases[i].keep_bytes};
        struct moat_arena arena;
        CHECK(moat_arena_init(&arena, memory, 256, &config));
        for (size_t round = 0; round < 3; round++) {
            for (size_t n = 0; n < 4; n++)
                CHECK(moat_arena_alloc(&arena, 900) != NULL);
            CHECK_EQ(statistics_of(&arena).chunk_count, 5);
            CHECK(moat_arena_verify(&arena, NULL));
            CHECK(moat_arena_reset(&arena));
            CHECK_EQ(statistics_of(&arena).chunk_count, 1);
            CHECK_EQ(statistics_of(&arena).spare_count, cases[i].spare_count);
            CHECK_EQ(statistics_of(&arena).spare_bytes, cases[i].spare_count * 1024);
            CHECK(moat_arena_verify(&arena, NULL));
        }
        CHECK(moat_arena_alloc(&arena, 3000) != NULL); /* no spare one is large enough */
        CHECK(moat_arena_alloc(&arena, 900) != NULL);
        CHECK(moat_arena_verify(&arena, NULL));
        CHECK(moat_arena_close(&arena));
        CHECK(state.next == state.start); /* the source takes its newest piece only, so the order was right */
    }
}

/* A source that gives and takes as it is told: fails at the n-th acquire, refuses every release or none. */
struct fickle {
    struct moat_static_source memory;
    struct moat_source source;
    size_t acquires_left;
    bool keeps_nothing_back;
};

static void *fickle_acquire(void *context, size_t size_bytes, size_t *got_bytes) {
    struct fickle *fickle = context;
    if (fickle->acquires_left == 0)
        return NULL;
    fickle->acquires_left--;
    return fickle->memory.source.acquire(&fickle->memory, size_bytes, got_bytes);
}

static bool fickle_release(void *context, void *start, size_t size_bytes) {
    struct fickle *fickle = context;
    return fickle->keeps_nothing_back && fickle->memory.source.release(&fickle->memory, start, size_bytes);
}

MOAT_TEST(arena, stays_consistent_whichever_acquire_fails) {
    for (size_t n = 0; n < 12; n++) {
        for (size_t takes = 0; takes < 2; takes++) {
            struct fickle fickle = {.acquires_left = n, .keeps_nothing_back = takes != 0};
            (void)moat_static_source_init(&fickle.memory, memory, sizeof memory);
            fickle.source = (struct moat_source){fickle_acquire, fickle_release, &fickle};
            struct moat_arena_config config = {.source = &fickle.source, .chunk_bytes = 512, .sized_blocks = true};
            struct moat_arena arena;
            CHECK(moat_arena_init(&arena, NULL, 0, &config));
            size_t given = 0;
            while (moat_arena_alloc(&arena, 300) != NULL)
                given++;
            CHECK_EQ(given, n);
            CHECK(moat_arena_verify(&arena, NULL));
            CHECK_EQ(statistics_of(&arena).failure_count, 1);
            CHECK(n == 0 || moat_arena_alloc(&arena, 100) != NULL); /* what there is still serves */
            CHECK(moat_arena_reset(&arena));
            CHECK(moat_arena_verify(&arena, NULL));
            CHECK_EQ(statistics_of(&arena).spare_count, takes ? n != 0 : n);
            CHECK(moat_arena_close(&arena));
        }
    }
}

MOAT_TEST(arena, init_needs_room_or_a_source) {
    struct moat_arena arena;
    CHECK(!moat_arena_init(&arena, NULL, 0, NULL));
    CHECK(!moat_arena_init(&arena, memory, MOAT_ARENA_RECORD_BYTES, NULL));
    CHECK(moat_arena_alloc(&arena, 1) == NULL);
    CHECK(moat_arena_init(&arena, memory, MOAT_ARENA_BUFFER_BYTES_MIN, NULL));
    CHECK(moat_arena_alloc(&arena, 1) != NULL);
    CHECK(moat_arena_init(&arena, memory + 1, MOAT_ARENA_BUFFER_BYTES_MIN, NULL));
    CHECK(moat_arena_alloc(&arena, 1) != NULL);
}

/* ---- sized blocks ------------------------------------------------------------------------------------------------ */

struct seen {
    size_t used_count, gap_count;
    uintptr_t last;
    bool wrong;
};

static bool see(void *argument, const struct moat_backend_block *block) {
    struct seen *seen = argument;
    seen->wrong = seen->wrong || (uintptr_t)block->start % ALIGN != 0 || (uintptr_t)block->start < seen->last;
    seen->last = (uintptr_t)block->start + block->size_bytes;
    seen->used_count += block->used;
    seen->gap_count += !block->used;
    return true;
}

MOAT_TEST(arena, sized_blocks_are_known) {
    struct moat_arena arena;
    struct moat_arena_config config = {.sized_blocks = true};
    CHECK(moat_arena_init(&arena, memory, sizeof memory, &config));
    unsigned char *blocks[50];
    for (size_t i = 0; i < 50; i++) {
        blocks[i] = i % 5 == 0 ? moat_arena_alloc_aligned(&arena, i * 3, 256, 0) : moat_arena_alloc(&arena, i * 3);
        memset(blocks[i], 0xff, moat_arena_usable(&arena, blocks[i]));
    }
    for (size_t i = 0; i < 50; i++) {
        size_t usable = moat_arena_usable(&arena, blocks[i]);
        CHECK(usable >= i * 3 && usable < i * 3 + ALIGN + WORD + (i == 0));
        CHECK_EQ(moat_arena_usable(&arena, blocks[i] + 1), 0);
    }
    struct seen seen = {0};
    CHECK(moat_arena_walk(&arena, see, &seen));
    CHECK(!seen.wrong);
    CHECK_EQ(seen.used_count, 50);
    CHECK(seen.gap_count > 5);
    CHECK_EQ(moat_arena_usable(&arena, memory), 0);
    CHECK_EQ(moat_arena_usable(&arena, memory + sizeof memory), 0);
    CHECK_EQ(moat_arena_usable(&arena, NULL), 0);
    /* A smashed size is noticed, and what lies behind is not misread. */
    for (size_t i = 0; i < 2; i++) {
        uintptr_t wrong = i == 0 ? sizeof memory - WORD : 12345;
        memcpy(blocks[20] - WORD, &wrong, WORD);
        CHECK_EQ(moat_arena_usable(&arena, blocks[20]), 0);
        CHECK(!moat_arena_walk(&arena, see, &seen));
    }
    struct moat_fault fault;
    CHECK(!moat_arena_verify(&arena, &fault));
    CHECK_TEXT(fault.rule, "a block's size leads to the next block");
    CHECK_EQ(fault.block, (uintptr_t)blocks[20]);
}

/* ---- damage ------------------------------------------------------------------------------------------------------ */

/* A chunk's record overwritten: nothing follows it, everything says so. */
MOAT_TEST(arena, damaged_record_is_not_followed) {
    for (size_t byte = 0; byte < MOAT_ARENA_RECORD_BYTES; byte++) {
        struct moat_static_source state;
        struct moat_arena_config config = {.source = moat_static_source_init(&state, memory, sizeof memory),
                                           .chunk_bytes = 512};
        struct moat_arena arena;
        CHECK(moat_arena_init(&arena, NULL, 0, &config));
        (void)moat_arena_alloc(&arena, 300);
        struct moat_arena_mark mark = moat_arena_mark(&arena);
        unsigned char *record = (unsigned char *)moat_arena_alloc(&arena, 300) - MOAT_ARENA_RECORD_BYTES;
        (void)moat_arena_alloc(&arena, 300);
        record[byte] ^= 0x10;
        size_t sum = 0;
        struct moat_fault fault;
        CHECK(!moat_arena_each_range_after(&arena, mark, add_range, &sum));
        CHECK_EQ(sum, 0);
        CHECK(!moat_arena_verify(&arena, &fault));
        CHECK_TEXT(fault.rule, "a chunk's record is as it was written");
        CHECK(!moat_arena_rewind(&arena, mark));
        CHECK(fault_is(&arena, "a chunk's record is as it was written", record));
        CHECK(!moat_arena_close(&arena));
        CHECK(moat_arena_alloc(&arena, 10) != NULL);
    }
}

MOAT_TEST(arena, backend_frees_nothing_singly) {
    struct moat_arena arena;
    struct moat_fault fault;
    const struct moat_backend *backend = moat_arena_backend();
    CHECK(moat_arena_init(&arena, memory, 1024, NULL));
    void *block = backend->alloc(&arena, 20, 1, 0);
    CHECK_EQ((uintptr_t)block % ALIGN, 0);
    CHECK_EQ(backend->usable(&arena, block), 20);
    CHECK(!backend->free(&arena, block));
    CHECK(backend->fault(&arena, &fault));
    CHECK_TEXT(fault.rule, "arena blocks are not freed singly");
    CHECK_EQ(fault.block, (uintptr_t)block);
    CHECK(!backend->fault(&arena, &fault));
    CHECK(backend->resize(&arena, block, 40));
    unsigned char *other = backend->alloc(&arena, 20, 128, 3 * ALIGN);
    CHECK_EQ(((uintptr_t)other + 3 * ALIGN) % 128, 0);
    CHECK_EQ((uintptr_t)other % ALIGN, 0);
    CHECK(backend->alloc(&arena, 20, 128, 4) == NULL);
    CHECK(backend->free(&arena, NULL));
}
