/* Portable tests of what the guard says of damaged blocks: kind, offsets, counts, dump, window, one finding for one
 * bug, and what becomes of the block afterwards.
 * May include: guard/engine/guard.h, tests/unit/engine_world.h. */
#include "tests/unit/engine_world.h"

#define FOUND_MOST 16u

static struct world world;
static struct moat_finding found[FOUND_MOST];

static void fresh(void) {
    struct moat_guard_config config = world_config();
    config.near_bytes = 256 * KIB;
    world_open(&world, &config, WORLD_HEAP_BYTES);
}

static const struct moat_finding *only_finding(void) {
    CHECK_EQ(world.findings.count, 1);
    return &world.findings.item[0];
}

static void check_damage(const struct moat_finding *finding, unsigned kind, const void *user, int64_t first,
                         int64_t last) {
    CHECK_EQ(finding->kind, kind);
    CHECK_EQ(finding->block.address, (uintptr_t)user);
    CHECK_EQ(finding->first, first);
    CHECK_EQ(finding->last, last);
    CHECK_EQ(finding->header_lost, 0);
}

static bool is_retired(const void *user) {
    return moat_header_state(moat_header_of((uintptr_t)user)) == MOAT_BLOCK_RETIRED;
}

/* Empties the quarantine; all findings of the blocks that leave it. */
static size_t drain(void) {
    struct moat_call call = world_call(&world, MOAT_FAMILY_MALLOC, MOAT_WHEN_CALL);
    size_t count = 0;
    while ((world.victim_count = moat_guard_pop(&world.guard, 0, true, world.victims)) != 0) {
        world_victims(&world, &call);
        for (size_t i = 0; i < world.victim_findings_count; i++) {
            CHECK(count < FOUND_MOST);
            found[count++] = world.victim_findings[i];
        }
    }
    return count;
}

/* ---- zones ------------------------------------------------------------------------------------------------------- */

/* Each single byte of the rear zone with each value but its own, at the free and in a sweep. */
MOAT_TEST(engine_damage, every_byte_and_value_of_an_overflow) {
    for (size_t size = 0; size < 20; size += size < 9 ? 1 : 5) {
        for (size_t offset = 0; offset < 16; offset++) {
            for (unsigned change = 1; change < 256; change += offset == 0 ? 1 : 37) {
                fresh();
                unsigned char *user = world_take(&world, size);
                user[size + offset] ^= (unsigned char)change;
                bool sweep = change % 2 == 0;
                if (sweep) {
                    CHECK_EQ(world_sweep(&world, found, FOUND_MOST), 1);
                    CHECK_EQ(found[0].when, MOAT_WHEN_CHECK);
                } else {
                    CHECK(!world_free(&world, user));
                    found[0] = *only_finding();
                    CHECK_EQ(found[0].when, MOAT_WHEN_FREE);
                }
                int64_t at = (int64_t)(size + offset);
                check_damage(&found[0], MOAT_HEAP_BUFFER_OVERFLOW, user, at, at);
                CHECK_EQ(found[0].bad_count, 1);
                CHECK_EQ(found[0].block.size_bytes, size);
                CHECK_EQ(found[0].block.state, MOAT_BLOCK_LIVE);
            }
        }
    }
}

MOAT_TEST(engine_damage, every_byte_and_value_of_an_underflow) {
    for (int offset = 1; offset <= 16; offset++) {
        for (unsigned change = 1; change < 256; change += 7) {
            fresh();
            unsigned char *user = world_take(&world, 33);
            user[-offset] ^= (unsigned char)change;
            CHECK(!world_free(&world, user));
            check_damage(only_finding(), MOAT_HEAP_BUFFER_UNDERFLOW, user, -offset, -offset);
            CHECK_EQ(only_finding()->bad_count, 1);
        }
    }
}

/* First and last are exact, and bytes between them that happen to be right are not counted. */
MOAT_TEST(engine_damage, scattered_bytes_are_counted_singly) {
    fresh();
    unsigned char *user = world_take(&world, 5);
    size_t rear = world_rear(&world, user);
    user[5 + 2] ^= 1;
    user[5 + 7] ^= 1;
    user[5 + rear - 1] ^= 1;
    CHECK(!world_free(&world, user));
    check_damage(only_finding(), MOAT_HEAP_BUFFER_OVERFLOW, user, 7, (int64_t)(5 + rear - 1));
    CHECK_EQ(only_finding()->bad_count, 3);
}

MOAT_TEST(engine_damage, both_zones_are_two_findings) {
    fresh();
    unsigned char *user = world_take(&world, 5);
    user[5] = 0;
    user[6] = 0;
    user[-3] = 0;
    CHECK(!world_free(&world, user));
    CHECK_EQ(world.findings.count, 2);
    check_damage(&world.findings.item[0], MOAT_HEAP_BUFFER_OVERFLOW, user, 5, 6);
    CHECK_EQ(world.findings.item[0].bad_count, 2);
    check_damage(&world.findings.item[1], MOAT_HEAP_BUFFER_UNDERFLOW, user, -3, -3);
    CHECK_EQ(world.findings.item[1].bad_count, 1);
    CHECK(is_retired(user));
    CHECK_EQ(world.guard.counts.retired_blocks, 1);
}

/* ---- the dump ---------------------------------------------------------------------------------------------------- */

MOAT_TEST(engine_damage, dump_shows_and_marks_the_bytes) {
    fresh();
    unsigned char *user = world_take(&world, 21);
    size_t rear = world_rear(&world, user);
    for (unsigned i = 0; i < 21; i++)
        user[i] = (unsigned char)('a' + i);
    unsigned char before[3] = {user[21], user[22], user[24]};
    user[21] = 'X';
    user[22] = 'Y';
    user[24] = 0;
    unsigned char bytes[128];
    memcpy(bytes, user - 16, 16 + 21 + rear);
    CHECK(!world_free(&world, user));
    const struct moat_dump *dump = &only_finding()->dump;
    CHECK_EQ(dump->offset, 0); /* 21 rounded down to 16, and 16 more before it */
    CHECK_EQ(dump->length, 21 + rear < 64 ? 21 + rear : 64);
    CHECK(memcmp(dump->bytes, bytes + 16, dump->length) == 0);
    CHECK_EQ(dump->bad, UINT64_C(1) << 21 | UINT64_C(1) << 22 | UINT64_C(1) << 24);
    CHECK_EQ(dump->expected[21], before[0]);
    CHECK_EQ(dump->expected[22], before[1]);
    CHECK_EQ(dump->expected[24], before[2]);
    uint64_t outside = ~(~UINT64_C(0) << dump->length) & ~(~UINT64_C(0) << 21 ^ ~UINT64_C(0));
    CHECK_EQ(dump->outside, outside);
}

/* The dump stays within the dressed block, and covers the first bad byte. */
MOAT_TEST(engine_damage, dump_never_leaves_the_block) {
    for (size_t size = 0; size < 300; size += 13) {
        for (int64_t offset = -16; offset < (int64_t)size + 16; offset++) {
            if (offset >= 0 && offset < (int64_t)size)
                continue;
            fresh();
            unsigned char *user = world_take(&world, size);
            size_t rear = world_rear(&world, user);
            user[offset] ^= 0x10;
            CHECK(!world_free(&world, user));
            const struct moat_dump *dump = &only_finding()->dump;
            CHECK(dump->offset >= -16 && dump->offset % 8 == 0);
            CHECK(dump->offset + (int64_t)dump->length <= (int64_t)(size + rear));
            CHECK(offset >= dump->offset && offset < dump->offset + (int64_t)dump->length);
            CHECK_EQ(dump->bad, UINT64_C(1) << (offset - dump->offset));
            CHECK_EQ(dump->expected[offset - dump->offset] ^ dump->bytes[offset - dump->offset], 0x10);
            for (uint32_t i = 0; i < dump->length; i++) {
                int64_t at = dump->offset + (int64_t)i;
                CHECK_EQ(dump->outside >> i & 1, at < 0 || at >= (int64_t)size);
            }
        }
    }
}

/* ---- freed blocks ------------------------------------------------------------------------------------------------ */

MOAT_TEST(engine_damage, a_write_to_any_byte_after_free) {
    for (size_t size = 0; size < 120; size += size < 18 ? 1 : 29) {
        for (int64_t offset = -16; offset < (int64_t)size + 16; offset++) {
            fresh();
            unsigned char *user = world_take(&world, size);
            CHECK(world_free(&world, user));
            user[offset] ^= 4;
            CHECK_EQ(drain(), 1);
            check_damage(&found[0], MOAT_HEAP_USE_AFTER_FREE, user, offset, offset);
            CHECK_EQ(found[0].bad_count, 1);
            CHECK_EQ(found[0].when, MOAT_WHEN_QUARANTINE);
            CHECK_EQ(found[0].block.state, MOAT_BLOCK_QUARANTINED);
            CHECK(found[0].block.free_stack != 0);
            CHECK_EQ(world.faulty.frees, 0); /* it stays out of use */
        }
    }
}

MOAT_TEST(engine_damage, a_write_to_freed_memory_is_one_finding_wherever_it_goes) {
    fresh();
    unsigned char *user = world_take(&world, 40);
    CHECK(world_free(&world, user));
    user[-1] ^= 1;
    user[7] = 0;
    user[41] ^= 1;
    CHECK_EQ(world_sweep(&world, found, FOUND_MOST), 1);
    check_damage(&found[0], MOAT_HEAP_USE_AFTER_FREE, user, -1, 41);
    CHECK_EQ(found[0].bad_count, 3);
    CHECK_EQ(drain(), 0); /* reported once */
    CHECK_EQ(world.faulty.frees, 0);
}

/* ---- header ------------------------------------------------------------------------------------------------------ */

static void check_lost(const struct moat_finding *finding, const void *user, unsigned kind) {
    CHECK_EQ(finding->kind, kind);
    CHECK_EQ(finding->block.address, (uintptr_t)user);
    CHECK_EQ(finding->header_lost, 1);
    CHECK_EQ(finding->first, -48);
    CHECK_EQ(finding->block.size_bytes, 0); /* nothing in it is believed */
    CHECK_EQ(finding->block.allocation_stack, 0);
}

MOAT_TEST(engine_damage, every_byte_of_the_header) {
    for (unsigned at = 0; at < MOAT_HEADER_BYTES; at++) {
        for (unsigned way = 0; way < 3; way++) {
            fresh();
            unsigned char *user = world_take(&world, 70);
            world_take(&world, 70);
            if (way == 2)
                CHECK(world_free(&world, user));
            user[-48 + (int)at] ^= (unsigned char)(1u << at % 8);
            if (way == 0) {
                CHECK(!world_free(&world, user));
                found[0] = *only_finding();
            } else if (way == 1) {
                CHECK_EQ(world_sweep(&world, found, FOUND_MOST), 1);
            } else {
                CHECK_EQ(drain(), 1);
            }
            check_lost(&found[0], user, MOAT_CORRUPTED_METADATA);
            CHECK_EQ(found[0].last, -17);
            CHECK_EQ(found[0].bad_count, 32);
            CHECK_TEXT(found[0].rule, "guard header's checksum");
            CHECK_EQ(found[0].block.state, way == 2 ? MOAT_BLOCK_QUARANTINED : MOAT_BLOCK_LIVE);
            CHECK_EQ(world.guard.counts.retired_blocks, 1);
            CHECK_EQ(world_sweep(&world, found, FOUND_MOST), 0);
        }
    }
}

MOAT_TEST(engine_damage, an_underflow_through_the_front_zone_into_the_header) {
    fresh();
    unsigned char *user = world_take(&world, 70);
    memset(user - 20, 0x5a, 18);
    CHECK(!world_free(&world, user));
    check_lost(only_finding(), user, MOAT_HEAP_BUFFER_UNDERFLOW);
    CHECK_EQ(only_finding()->last, -3);
}

/* A header that says absurd things is never followed. */
MOAT_TEST(engine_damage, random_headers_are_never_followed) {
    uint64_t random = 1;
    for (unsigned i = 0; i < 3000; i++) {
        fresh();
        unsigned char *blocks[3] = {world_take(&world, 100), world_take(&world, 50), world_take(&world, 30)};
        bool freed = i % 2 == 0;
        if (freed)
            CHECK(world_free(&world, blocks[1]));
        for (unsigned k = 0; k < MOAT_HEADER_BYTES; k++)
            blocks[1][-48 + (int)k] = (unsigned char)random_next(&random);
        struct moat_block_facts facts;
        CHECK_EQ(moat_guard_block_at(&world.guard, (uintptr_t)blocks[1], &facts), (uintptr_t)blocks[1]);
        CHECK_EQ(facts.size_bytes, 0);
        moat_guard_neighbours(&world.guard, (uintptr_t)blocks[1], found[0].neighbour);
        CHECK_EQ(found[0].neighbour[1].address, (uintptr_t)blocks[2]);
        CHECK_EQ(world_sweep(&world, found, FOUND_MOST), 1);
        check_lost(&found[0], blocks[1], MOAT_CORRUPTED_METADATA);
        CHECK(world_free(&world, blocks[0]) && world_free(&world, blocks[2]));
        CHECK_EQ(drain(), 0);
        CHECK_EQ(world.faulty.frees, 2);
    }
}

/* ---- between claim and enqueue ----------------------------------------------------------------------------------- */

/* A block lies open while it is poisoned outside the lock: what another thread does to it then must not be sealed as
 * right. */
MOAT_TEST(engine_damage, a_header_smashed_while_the_block_is_filled) {
    for (unsigned at = 0; at < MOAT_HEADER_BYTES; at++) {
        fresh();
        unsigned char *user = world_take(&world, 70);
        struct moat_call call = world_call(&world, MOAT_FAMILY_MALLOC, MOAT_WHEN_FREE);
        struct moat_finding finding;
        size_t size_bytes;
        CHECK(moat_guard_claim(&world.guard, user, &call, &size_bytes));
        user[-48 + (int)at] ^= 0x80;
        moat_guard_poison(&world.guard, user, size_bytes);
        CHECK(moat_guard_enqueue(&world.guard, user, &call, &finding));
        CHECK_EQ(drain(), 1);
        check_lost(&found[0], user, MOAT_CORRUPTED_METADATA);
        CHECK_EQ(world.faulty.frees, 0);
    }
}

/* A check by another thread passes a block over that is being filled; one that it has retired stays so. */
MOAT_TEST(engine_damage, a_check_while_the_block_is_filled) {
    for (unsigned smashed = 0; smashed < 2; smashed++) {
        fresh();
        unsigned char *user = world_take(&world, 70);
        struct moat_call call = world_call(&world, MOAT_FAMILY_MALLOC, MOAT_WHEN_FREE);
        struct moat_finding finding;
        size_t size_bytes;
        CHECK(moat_guard_claim(&world.guard, user, &call, &size_bytes));
        user[-30] ^= (unsigned char)smashed;
        CHECK_EQ(world_sweep(&world, found, FOUND_MOST), smashed);
        moat_guard_poison(&world.guard, user, size_bytes);
        CHECK(moat_guard_enqueue(&world.guard, user, &call, &finding));
        CHECK_EQ(is_retired(user), smashed == 1);
        CHECK_EQ(world_sweep(&world, found, FOUND_MOST), 0);
        CHECK_EQ(drain(), 0);
        CHECK_EQ(world.faulty.frees, 1 - smashed);
    }
}

/* A victim is proved outside the lock; what happens to it after that is seen when it goes back. */
MOAT_TEST(engine_damage, a_victim_damaged_after_its_proof) {
    for (unsigned retired = 0; retired < 2; retired++) {
        fresh();
        unsigned char *user = world_take(&world, 70);
        CHECK(world_free(&world, user));
        struct moat_call call = world_call(&world, MOAT_FAMILY_MALLOC, MOAT_WHEN_QUARANTINE);
        CHECK_EQ(moat_guard_pop(&world.guard, 0, true, world.victims), 1);
        CHECK(moat_guard_victim_whole(&world.guard, &world.victims[0]));
        user[-30] ^= 1;
        if (retired == 1)
            CHECK_EQ(world_sweep(&world, found, FOUND_MOST), 1);
        struct moat_finding finding = {.kind = MOAT_KIND_NONE};
        CHECK_EQ(moat_guard_give_back(&world.guard, &world.victims[0], &call, &finding), retired == 1);
        CHECK_EQ(finding.kind, retired == 1 ? MOAT_KIND_NONE : MOAT_CORRUPTED_METADATA);
        CHECK_EQ(world.faulty.frees, 0);
    }
}

/* ---- one overflow over several blocks ---------------------------------------------------------------------------- */

enum { ROW = 5 };

/* Five blocks side by side, so that nothing but a word of the heap's lies between them. */
static void row(unsigned char *blocks[ROW], const size_t *sizes) {
    fresh();
    for (unsigned i = 0; i < ROW; i++) {
        blocks[i] = world_take(&world, sizes[i]);
        if (i != 0) {
            uintptr_t end = (uintptr_t)blocks[i - 1] + sizes[i - 1] + world_rear(&world, blocks[i - 1]);
            CHECK((uintptr_t)blocks[i] - end <= MOAT_LEAD_BYTES + sizeof(uintptr_t));
        }
    }
}

static const size_t row_sizes[ROW] = {24, 24, 50, 10, 24};

/* From the second block's end on, `length` bytes; whichever block is looked at first, there is one finding, of the
 * second block. */
static void check_run(size_t length, bool freed, unsigned first_looked_at) {
    unsigned char *blocks[ROW];
    row(blocks, row_sizes);
    unsigned char *culprit = blocks[1];
    size_t size = row_sizes[1];
    size_t rear = world_rear(&world, culprit);
    if (freed)
        CHECK(world_free(&world, culprit));
    uint64_t frees_before = world.guard.counts.frees;
    for (size_t i = size; i < size + length; i++)
        culprit[i] = (unsigned char)(culprit[i] ^ 0x5a);
    size_t count = 0;
    if (first_looked_at == ROW) {
        count = world_sweep(&world, found, FOUND_MOST);
    } else if (first_looked_at != 1 || !freed) {
        CHECK_EQ(world_free(&world, blocks[first_looked_at]),
                 (uintptr_t)blocks[first_looked_at] < (uintptr_t)culprit ||
                     (uintptr_t)blocks[first_looked_at] - MOAT_LEAD_BYTES >= (uintptr_t)culprit + size + length);
        count = world.findings.count;
        if (count != 0)
            found[0] = world.findings.item[0];
    }
    if (count == 0)
        count = world_sweep(&world, found, FOUND_MOST);
    CHECK_EQ(count, 1);
    check_damage(&found[0], freed ? MOAT_HEAP_USE_AFTER_FREE : MOAT_HEAP_BUFFER_OVERFLOW, culprit, (int64_t)size,
                 found[0].last);
    /* The last bad byte: exact in the zones; in a smashed header or behind it not all can be told, but never too
     * much. */
    CHECK(found[0].last < (int64_t)(size + length));
    CHECK(length > rear ? found[0].last >= (int64_t)(size + rear) - 1 : found[0].last == (int64_t)(size + length) - 1);
    CHECK(found[0].bad_count <= length);
    /* After that, silence: nothing is said of the blocks it ran over, and they can all be freed. */
    CHECK_EQ(world_sweep(&world, found, FOUND_MOST), 0);
    for (unsigned i = 0; i < ROW; i++) {
        if (i == first_looked_at || (i == 1 && freed))
            continue;
        world_free(&world, blocks[i]);
        CHECK_EQ(world.findings.count, 0);
    }
    CHECK_EQ(drain(), 0);
    CHECK_EQ(world.guard.counts.frees, frees_before + ROW - (freed ? 1 : 0));
    /* What was run over is never used again. */
    for (unsigned i = 2; i < ROW; i++) {
        if ((uintptr_t)blocks[i] - MOAT_LEAD_BYTES < (uintptr_t)culprit + size + length)
            CHECK(is_retired(blocks[i]));
    }
    CHECK(is_retired(culprit));
}

MOAT_TEST(engine_damage, an_overflow_of_every_length_is_one_finding) {
    unsigned char *blocks[ROW];
    row(blocks, row_sizes);
    size_t most = (size_t)(blocks[4] - blocks[1]) - row_sizes[1];
    for (size_t length = 1; length <= most; length++) {
        for (unsigned look = 0; look <= ROW; look++) {
            check_run(length, false, look);
            check_run(length, true, look);
        }
    }
}

/* Damage to a header that no overflow explains is the block's own, though the one before it is damaged as well. */
MOAT_TEST(engine_damage, two_bugs_side_by_side_are_two_findings) {
    unsigned char *blocks[ROW];
    row(blocks, row_sizes);
    blocks[1][row_sizes[1]] ^= 1; /* the first byte of the zone, but not its last */
    blocks[2][-40] ^= 1;
    CHECK_EQ(world_sweep(&world, found, FOUND_MOST), 2);
    check_damage(&found[0], MOAT_HEAP_BUFFER_OVERFLOW, blocks[1], 24, 24);
    check_lost(&found[1], blocks[2], MOAT_CORRUPTED_METADATA);
}

MOAT_TEST(engine_damage, damage_of_a_block_far_behind_is_its_own) {
    unsigned char *blocks[ROW];
    row(blocks, row_sizes);
    size_t rear = world_rear(&world, blocks[1]);
    for (size_t i = 0; i < rear + 30; i++) /* into the next header, no further */
        blocks[1][row_sizes[1] + i] ^= 0x5a;
    blocks[4][-40] ^= 1;
    CHECK_EQ(world_sweep(&world, found, FOUND_MOST), 2);
    CHECK_EQ(found[0].block.address, (uintptr_t)blocks[1]);
    check_lost(&found[1], blocks[4], MOAT_CORRUPTED_METADATA);
}

/* ---- after the finding ------------------------------------------------------------------------------------------- */

MOAT_TEST(engine_damage, a_live_block_retired_by_a_sweep_is_freed_without_a_word) {
    fresh();
    unsigned char *user = world_take(&world, 70);
    user[70] ^= 1;
    CHECK_EQ(world_sweep(&world, found, FOUND_MOST), 1);
    CHECK_EQ(world_sweep(&world, found, FOUND_MOST), 0);
    CHECK(is_retired(user));
    CHECK_EQ(world.guard.counts.live_blocks, 1);
    user[71] ^= 1; /* more of it is not reported either */
    CHECK(!world_free(&world, user));
    CHECK_EQ(world.findings.count, 0);
    CHECK_EQ(world.guard.counts.live_blocks, 0);
    CHECK_EQ(world.guard.counts.live_bytes, 0);
    CHECK(!world_free(&world, user));
    CHECK_EQ(only_finding()->kind, MOAT_DOUBLE_FREE);
    CHECK_EQ(world.faulty.frees, 0);
}

/* A retired block may be freed by any family: what is known of it may not be true. */
MOAT_TEST(engine_damage, a_retired_block_is_freed_by_any_family) {
    fresh();
    unsigned char *user = world_take_as(&world, 70, 1, MOAT_FAMILY_NEW);
    user[-48] ^= 1;
    CHECK_EQ(world_sweep(&world, found, FOUND_MOST), 1);
    CHECK(!world_free_as(&world, user, MOAT_FAMILY_NEW_ARRAY, MOAT_WHEN_FREE));
    CHECK_EQ(world.findings.count, 0);
}

/* ---- window ------------------------------------------------------------------------------------------------------ */

MOAT_TEST(engine_damage, window_begins_when_the_block_was_last_whole) {
    fresh();
    unsigned char *user = world_take(&world, 10); /* event 1 */
    unsigned char *other = world_take(&world, 10);
    user[10] ^= 1;
    CHECK(!world_free(&world, user)); /* event 3 */
    CHECK_EQ(only_finding()->whole_at, 1);
    CHECK_EQ(only_finding()->bad_by, 3);
    CHECK_EQ(world_sweep(&world, found, FOUND_MOST), 0); /* event 4 */
    other[10] ^= 1;
    CHECK(!world_free(&world, other)); /* event 5 */
    CHECK_EQ(only_finding()->whole_at, 4);
    CHECK_EQ(only_finding()->bad_by, 5);
    unsigned char *freed = world_take(&world, 10); /* event 6 */
    CHECK(world_free(&world, freed));              /* event 7 */
    freed[0] = 0;
    CHECK_EQ(drain(), 1); /* event 8 */
    CHECK_EQ(found[0].whole_at, 7);
    CHECK_EQ(found[0].bad_by, 8);
}

/* ---- sweep ------------------------------------------------------------------------------------------------------- */

/* However the sweep is cut up, each damaged block is met once, in address order, and it does not matter what happens
 * between. */
MOAT_TEST(engine_damage, a_sweep_finds_all_in_steps) {
    enum { BLOCKS = 300 };
    fresh();
    unsigned char *blocks[BLOCKS];
    for (unsigned i = 0; i < BLOCKS; i++)
        blocks[i] = world_take(&world, i % 50);
    for (unsigned i = 0; i < BLOCKS; i += 3)
        CHECK(world_free(&world, blocks[i]));
    for (unsigned i = 0; i < BLOCKS; i += 7) {
        if (i % 3 == 0)
            blocks[i][-1] ^= 1; /* use after free */
        else
            blocks[i][i % 50] ^= 1;
    }
    struct moat_call call = world_call(&world, MOAT_FAMILY_MALLOC, MOAT_WHEN_CHECK);
    uintptr_t cursor = 0;
    unsigned count = 0, steps = 0;
    for (bool more = true; more; steps++) {
        more = moat_guard_sweep(&world.guard, &cursor, &call, &world.findings);
        CHECK(world.findings.count <= 1);
        if (world.findings.count == 1) {
            CHECK_EQ(world.findings.item[0].block.address, (uintptr_t)blocks[7 * count]);
            count++;
        }
        world_take(&world, 20); /* the lock was released */
    }
    CHECK_EQ(count, (BLOCKS + 6) / 7);
    CHECK(steps > 5);
    CHECK_EQ(world_sweep(&world, found, FOUND_MOST), 0);
}
