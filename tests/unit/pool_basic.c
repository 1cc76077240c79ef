/* Portable tests of pools: static and made at run time, exhaustion, order, statistics, refusals, locks.
 * May include: tests/test.h, moat/pool.h, string.h. */
#include "moat/pool.h"
#include "tests/test.h"

#include <string.h>

#define ALIGN MOAT_POOL_ALIGNMENT_BYTES
#define MANY                                                                                                           \
    5000u /* three levels where words have 32 bits, two and more than a word at the top's level below with 64 */

MOAT_POOL_DEFINE(small_pool, 20, 5);
MOAT_POOL_DEFINE(line_pool, 64, 33);
MOAT_POOL_DEFINE(many_pool, 3 * sizeof(void *), MANY);
MOAT_POOL_DEFINE(odd_pool, 11 * 2 * sizeof(void *), 100);
MOAT_POOL_DEFINE(single_pool, 1, 1);

static bool fault_is(const struct moat_pool *pool, const char *rule, const void *block) {
    struct moat_fault fault;
    return moat_pool_take_fault(pool, &fault) && moat_test_same(fault.rule, rule) && fault.block == (uintptr_t)block;
}

MOAT_TEST(pool, static_pool_is_ready_at_once) {
    unsigned char *blocks[5];
    for (size_t i = 0; i < 5; i++) {
        blocks[i] = moat_pool_alloc(&small_pool);
        CHECK(blocks[i] != NULL);
        CHECK_EQ((uintptr_t)blocks[i] % ALIGN, 0);
        CHECK(i == 0 || blocks[i] == blocks[i - 1] + (20 + ALIGN - 1) / ALIGN * ALIGN);
        memset(blocks[i], 0xff, 20);
    }
    CHECK(moat_pool_alloc(&small_pool) == NULL);
    struct moat_pool_statistics said;
    moat_pool_statistics(&small_pool, &said);
    CHECK_EQ(said.block_count, 5);
    CHECK_EQ(said.block_size_bytes, (20 + ALIGN - 1) / ALIGN * ALIGN);
    CHECK_EQ(said.used_count, 5);
    CHECK_EQ(said.used_count_peak, 5);
    CHECK_EQ(said.allocation_count, 5);
    CHECK_EQ(said.failure_count, 1);
    CHECK_EQ(said.refusal_count, 0);
    CHECK(moat_pool_free(&small_pool, blocks[3]));
    CHECK(moat_pool_free(&small_pool, blocks[1]));
    CHECK(moat_pool_alloc(&small_pool) == blocks[1]); /* the lowest */
    CHECK(moat_pool_alloc(&small_pool) == blocks[3]);
    for (size_t i = 0; i < 5; i++)
        CHECK(moat_pool_free(&small_pool, blocks[i]));
    moat_pool_statistics(&small_pool, &said);
    CHECK_EQ(said.used_count, 0);
    CHECK_EQ(said.used_count_peak, 5);
    CHECK(moat_pool_verify(&small_pool, NULL));
}

MOAT_TEST(pool, blocks_are_aligned_to_what_divides_their_size) {
    for (size_t i = 0; i < 33; i++)
        CHECK_EQ((uintptr_t)moat_pool_alloc(&line_pool) % 64, 0);
    CHECK(moat_pool_alloc(&line_pool) == NULL);
    CHECK(moat_pool_alloc(&single_pool) != NULL);
    CHECK(moat_pool_alloc(&single_pool) == NULL);
}

/* Every block once, in order, then freed in another order and taken again by address. */
MOAT_TEST(pool, large_pool_finds_every_block) {
    static unsigned char *blocks[MANY];
    for (size_t i = 0; i < MANY; i++) {
        blocks[i] = moat_pool_alloc(&many_pool);
        CHECK(blocks[i] == blocks[0] + i * ((3 * sizeof(void *) + ALIGN - 1) / ALIGN * ALIGN));
    }
    CHECK(moat_pool_alloc(&many_pool) == NULL);
    CHECK(moat_pool_verify(&many_pool, NULL));
    size_t step = 1237; /* prime, so all indices come by */
    for (size_t i = 0, at = 0; i < MANY; i++, at = (at + step) % MANY) {
        CHECK(moat_pool_free(&many_pool, blocks[at]));
        CHECK(i % 7 != 0 || moat_pool_alloc(&many_pool) != NULL);
        CHECK(i % 7 != 0 || moat_pool_verify(&many_pool, NULL));
    }
}

/* Only multiples of the size are starts, however the size divides. */
MOAT_TEST(pool, only_starts_are_blocks) {
    unsigned char *first = moat_pool_alloc(&odd_pool);
    size_t size = 11 * ALIGN;
    for (size_t i = 1; i < 100; i++)
        CHECK(moat_pool_alloc(&odd_pool) == first + i * size);
    for (size_t offset = 0; offset < 100 * size; offset++) {
        bool is_start = offset % size == 0;
        CHECK_EQ(moat_pool_usable(&odd_pool, first + offset), is_start ? size : 0);
        CHECK(is_start || !moat_pool_free(&odd_pool, first + offset));
        CHECK(is_start || fault_is(&odd_pool, "a block is freed by its start", first + offset));
        CHECK(moat_pool_holds(&odd_pool, first + offset));
    }
    CHECK(!moat_pool_holds(&odd_pool, first - 1));
    CHECK(!moat_pool_holds(&odd_pool, first + 100 * size));
}

MOAT_TEST(pool, refuses_what_is_no_used_block) {
    static unsigned char buffer[1000];
    struct moat_pool pool;
    CHECK(moat_pool_init(&pool, buffer, sizeof buffer, 40, NULL) > 5);
    unsigned char *one = moat_pool_alloc(&pool);
    unsigned char *two = moat_pool_alloc(&pool);
    memset(two, 0x5a, 40);
    CHECK(!moat_pool_free(&pool, buffer));
    CHECK(fault_is(&pool, "a block lies in this pool", buffer));
    CHECK(!moat_pool_free(&pool, buffer + sizeof buffer));
    CHECK(!moat_pool_free(&pool, (void *)(uintptr_t)UINTPTR_MAX));
    CHECK(!moat_pool_free(&pool, (void *)(uintptr_t)8));
    CHECK(!moat_pool_free(&pool, one + 1));
    CHECK(fault_is(&pool, "a block is freed by its start", one + 1));
    CHECK(moat_pool_free(&pool, one));
    CHECK(!moat_pool_free(&pool, one));
    CHECK(fault_is(&pool, "a block that is freed is in use", one));
    CHECK(!moat_pool_free(&pool, two + 48)); /* never handed out */
    CHECK(moat_pool_free(&pool, NULL));
    struct moat_pool_statistics said;
    moat_pool_statistics(&pool, &said);
    CHECK_EQ(said.refusal_count, 7);
    CHECK_EQ(said.used_count, 1);
    for (size_t i = 0; i < 40; i++)
        CHECK_EQ(two[i], 0x5a);
    CHECK(moat_pool_verify(&pool, NULL));
}

MOAT_TEST(pool, refuses_another_pools_block) {
    static unsigned char buffers[2][600];
    struct moat_pool pools[2];
    CHECK(moat_pool_init(&pools[0], buffers[0], sizeof buffers[0], 32, NULL) > 3);
    CHECK(moat_pool_init(&pools[1], buffers[1], sizeof buffers[1], 32, NULL) > 3);
    void *block = moat_pool_alloc(&pools[0]);
    CHECK(!moat_pool_free(&pools[1], block));
    CHECK(fault_is(&pools[1], "a block lies in this pool", block));
    CHECK(moat_pool_free(&pools[0], block));
    struct moat_fault fault;
    CHECK(!moat_pool_take_fault(&pools[0], &fault));
}

/* Any buffer, however it is aligned, and however small: what is handed out stays inside, and as many blocks as the
 * contract's layout leaves room for are there. */
MOAT_TEST(pool, any_buffer_will_do) {
    static unsigned char buffer[700];
    static const size_t sizes[] = {1, 8, 24, 48, 64, 100, 1000};
    for (size_t offset = 0; offset < 16; offset++) {
        for (size_t bytes = 0; bytes + offset < sizeof buffer; bytes += 13) {
            for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
                struct moat_pool pool;
                memset(buffer, 0xa5, sizeof buffer);
                size_t count = moat_pool_init(&pool, buffer + offset, bytes, sizes[s], NULL);
                size_t rounded = (sizes[s] + ALIGN - 1) / ALIGN * ALIGN;
                size_t fixed = sizeof(struct moat_pool_state) + sizeof(uintptr_t) + 64 + 2 * sizeof(uintptr_t);
                size_t words_more = bytes / rounded / 8 / 3; /* of the bitmap, at the most */
                CHECK(bytes < fixed + words_more || count + 1 >= (bytes - fixed - words_more) / rounded);
                for (size_t i = 0; i < count; i++) {
                    unsigned char *block = moat_pool_alloc(&pool);
                    CHECK(block >= buffer + offset && block + rounded <= buffer + offset + bytes);
                    memset(block, 0, rounded);
                }
                CHECK(moat_pool_alloc(&pool) == NULL);
                CHECK(moat_pool_verify(&pool, NULL));
                CHECK_EQ(buffer[offset + bytes], 0xa5);
                CHECK(offset == 0 || buffer[offset - 1] == 0xa5);
            }
        }
    }
    struct moat_pool pool;
    CHECK_EQ(moat_pool_init(&pool, NULL, 1000, 8, NULL), 0);
    CHECK_EQ(moat_pool_init(&pool, buffer, sizeof buffer, 0, NULL), 0);
    CHECK_EQ(moat_pool_init(&pool, buffer, sizeof buffer, SIZE_MAX, NULL), 0);
    CHECK(moat_pool_alloc(&pool) == NULL);
    CHECK(!moat_pool_free(&pool, buffer));
}

/* ---- locks ------------------------------------------------------------------------------------------------------- */

static unsigned locked, lock_count, lock_errors;

static uintptr_t test_enter(void *context) {
    lock_errors += locked != 0 || context != &lock_count;
    locked = 1;
    return ++lock_count;
}

static void test_leave(void *context, uintptr_t entered) {
    lock_errors += locked != 1 || context != &lock_count || entered != lock_count;
    locked = 0;
}

static const struct moat_pool_lock test_lock = {test_enter, test_leave, &lock_count};

MOAT_POOL_DEFINE_SHARED(shared_pool, 16, 3, &test_lock);

static bool see(void *argument, const struct moat_backend_block *block) {
    size_t *counts = argument;
    lock_errors += locked != 0;
    counts[block->used]++;
    return true;
}

MOAT_TEST(pool, every_call_locks_and_unlocks) {
    struct moat_pool_statistics said;
    struct moat_fault fault;
    size_t counts[2] = {0, 0};
    CHECK(moat_pool_is_shared(&shared_pool));
    CHECK(!moat_pool_is_shared(&small_pool));
    void *block = moat_pool_alloc(&shared_pool);
    CHECK_EQ(lock_count, 1);
    (void)moat_pool_alloc(&shared_pool);
    (void)moat_pool_alloc(&shared_pool);
    CHECK(moat_pool_alloc(&shared_pool) == NULL);
    CHECK_EQ(lock_count, 4);
    CHECK(moat_pool_free(&shared_pool, block));
    CHECK(!moat_pool_free(&shared_pool, block));
    CHECK_EQ(lock_count, 6);
    CHECK(moat_pool_take_fault(&shared_pool, &fault));
    moat_pool_statistics(&shared_pool, &said);
    CHECK(moat_pool_walk(&shared_pool, see, counts));
    CHECK_EQ(counts[0], 1);
    CHECK_EQ(counts[1], 2);
    CHECK_EQ(locked, 0);
    CHECK_EQ(lock_errors, 0);
}

/* ---- damage ------------------------------------------------------------------------------------------------------ */

/* Bits flipped in the bitmap are seen by the verifier, and no call goes astray or hands out anything but a block. */
MOAT_TEST(pool, damaged_bitmap_is_seen) {
    static unsigned char buffer[20000];
    struct moat_pool pool;
    struct moat_fault fault;
    uint32_t random = 12345;
    size_t block_count = moat_pool_init(&pool, buffer, sizeof buffer, 16, NULL);
    size_t map_bits = MOAT_POOL_MAP_WORDS(block_count) * MOAT_POOL_WORD_BITS;
    for (size_t round = 0; round < 500; round++) {
        CHECK_EQ(moat_pool_init(&pool, buffer, sizeof buffer, 16, NULL), block_count);
        random = random * 1664525u + 1013904223u;
        size_t used = random >> 16 & 1 ? block_count : (random >> 8) % block_count;
        for (size_t i = 0; i < used; i++)
            CHECK(moat_pool_alloc(&pool) != NULL);
        CHECK(moat_pool_verify(&pool, NULL));
        random = random * 1664525u + 1013904223u;
        size_t bit = (random >> 4) % map_bits;
        pool.used[bit / MOAT_POOL_WORD_BITS] ^= (uintptr_t)1 << bit % MOAT_POOL_WORD_BITS;
        bool matters = !moat_pool_verify(&pool, &fault); /* bits beyond a level's end stand for nothing */
        CHECK(matters || bit % MOAT_POOL_WORD_BITS >= block_count % MOAT_POOL_WORD_BITS || bit > block_count);
        size_t given = 0;
        for (unsigned char *block; (block = moat_pool_alloc(&pool)) != NULL; given++) {
            CHECK(moat_pool_usable(&pool, block) != 0);
            CHECK(given <= block_count - used);
        }
    }
}

MOAT_TEST(pool, mends_a_summary_that_promises_too_much) {
    static unsigned char buffer[9000];
    struct moat_pool pool;
    size_t count = moat_pool_init(&pool, buffer, sizeof buffer, 16, NULL);
    while (moat_pool_alloc(&pool) != NULL) {
    }
    size_t words = MOAT_POOL_WORDS(count);
    pool.used[words] &= ~(uintptr_t)1; /* says that the first word has a free block */
    CHECK(moat_pool_alloc(&pool) == NULL);
    struct moat_fault fault;
    CHECK(moat_pool_take_fault(&pool, &fault));
    CHECK_TEXT(fault.rule, "the pool's summary fits its bitmap");
    CHECK(moat_pool_verify(&pool, NULL));
}

/* ---- backend ----------------------------------------------------------------------------------------------------- */

MOAT_TEST(pool, backend_keeps_the_tables_word) {
    static _Alignas(64) unsigned char buffer[3000];
    struct moat_pool pool;
    const struct moat_backend *backend = moat_pool_backend();
    CHECK(moat_pool_init(&pool, buffer, sizeof buffer, 96, NULL) > 20);
    void *context = moat_pool_context(&pool);
    unsigned char *block = backend->alloc(context, 96, 1, 0);
    CHECK(block != NULL && (uintptr_t)block % 32 == 0); /* 32 divides 96 */
    CHECK(backend->alloc(context, 97, 1, 0) == NULL);
    CHECK(backend->alloc(context, 96, 0, 0) == NULL);
    CHECK(backend->alloc(context, 96, 3, 0) == NULL);
    CHECK(backend->alloc(context, 96, 64, 0) == NULL); /* every other block only */
    unsigned char *other = backend->alloc(context, 10, 32, 64);
    CHECK(other != NULL && ((uintptr_t)other + 64) % 32 == 0);
    CHECK(backend->alloc(context, 10, 32, 8) == NULL);
    CHECK_EQ(backend->usable(context, block), 96);
    CHECK(backend->resize(context, block, 96));
    CHECK(backend->resize(context, block, 1));
    CHECK(!backend->resize(context, block, 97));
    CHECK(!backend->resize(context, block + 16, 1));
    CHECK(backend->free(context, block));
    CHECK(!backend->free(context, block));
    struct moat_fault fault;
    CHECK(backend->fault(context, &fault));
    CHECK_EQ(fault.fault_count, 1);
    CHECK(!backend->fault(context, &fault));
    size_t counts[2] = {0, 0};
    CHECK(backend->walk(context, see, counts));
    CHECK_EQ(counts[1], 1);
}
