/* Portable tests of the guard's life cycle over a heap: take, claim, poison, enqueue, pop, give back, resize; counts;
 * pointers that are no live block; backends that fail or lie. Damage to blocks: engine_damage.c.
 * May include: guard/engine/guard.h, tests/unit/engine_world.h. */
#include "tests/unit/engine_world.h"

static struct world world;

static void fresh(void) {
    struct moat_guard_config config = world_config();
    world_open(&world, &config, WORLD_HEAP_BYTES);
}

static struct moat_block_facts facts_of(const void *user) {
    bool lost;
    struct moat_block_facts facts = moat_guard_facts(&world.guard, (uintptr_t)user, &lost);
    CHECK(!lost);
    return facts;
}

static unsigned state_of(const void *user) { return facts_of(user).state; }

static bool heap_is_whole(void) { return moat_heap_verify(world.heap, NULL); }

/* ---- life cycle -------------------------------------------------------------------------------------------------- */

MOAT_TEST(engine_guard, a_block_goes_through_its_states) {
    fresh();
    unsigned char *user = world_take_as(&world, 100, 1, MOAT_FAMILY_NEW);
    CHECK(user != NULL);
    struct moat_block_facts facts = facts_of(user);
    CHECK_EQ(facts.address, (uintptr_t)user);
    CHECK_EQ(facts.size_bytes, 100);
    CHECK_EQ(facts.sequence, 1);
    CHECK_EQ(facts.allocation_stack, 1000001);
    CHECK_EQ(facts.allocation_thread, 2);
    CHECK_EQ(facts.free_stack, 0);
    CHECK_EQ(facts.free_thread, 0);
    CHECK_EQ(facts.state, MOAT_BLOCK_LIVE);
    CHECK_EQ(facts.family, MOAT_FAMILY_NEW);
    for (unsigned i = 0; i < 100; i++)
        CHECK_EQ(user[i], MOAT_FILL_BYTE);

    struct moat_call call = world_call(&world, MOAT_FAMILY_NEW, MOAT_WHEN_FREE);
    size_t size_bytes = 0;
    CHECK(moat_guard_prove(&world.guard, user, &call, &size_bytes));
    CHECK_EQ(size_bytes, 100);
    CHECK_EQ(state_of(user), MOAT_BLOCK_LIVE);
    size_bytes = 0;
    CHECK(moat_guard_claim(&world.guard, user, &call, &size_bytes));
    CHECK_EQ(size_bytes, 100);
    facts = facts_of(user);
    CHECK_EQ(facts.state, MOAT_BLOCK_FILLING);
    CHECK_EQ(facts.free_stack, 1000002);
    CHECK_EQ(facts.free_thread, 3);
    CHECK_EQ(facts.allocation_stack, 1000001);
    CHECK(!moat_guard_prove(&world.guard, user, &call, &size_bytes));
    CHECK(!moat_guard_claim(&world.guard, user, &call, &size_bytes));

    moat_guard_poison(&world.guard, user, 100);
    for (unsigned i = 0; i < 100; i++)
        CHECK_EQ(user[i], MOAT_POISON_BYTE);
    struct moat_finding finding;
    CHECK(moat_guard_enqueue(&world.guard, user, &call, &finding));
    CHECK_EQ(state_of(user), MOAT_BLOCK_QUARANTINED);
    CHECK_EQ(world.faulty.frees, 0);
    struct moat_victim victims[MOAT_VICTIMS_MAX];
    CHECK_EQ(moat_guard_pop(&world.guard, 0, false, victims), 0); /* the budget is not used up */
    CHECK_EQ(moat_guard_pop(&world.guard, 0, true, victims), 1);
    CHECK(victims[0].user == user);
    CHECK_EQ(victims[0].event, 2);
    CHECK(moat_guard_victim_whole(&world.guard, &victims[0]));
    CHECK(moat_guard_give_back(&world.guard, &victims[0], &call, &finding));
    CHECK_EQ(world.faulty.frees, 1);
    CHECK_EQ(moat_guard_block_at(&world.guard, (uintptr_t)user, NULL), 0);
    CHECK(heap_is_whole());
}

MOAT_TEST(engine_guard, fill_goes_as_far_as_told) {
    struct moat_guard_config config = world_config();
    config.fill_bytes = 10;
    world_open(&world, &config, WORLD_HEAP_BYTES);
    unsigned char *user = world_take(&world, 100);
    for (unsigned i = 0; i < 10; i++)
        CHECK_EQ(user[i], MOAT_FILL_BYTE);
    for (unsigned i = 32; i < 100; i++)
        CHECK_EQ(user[i], 0x11); /* what the heap's memory held before */
}

/* Every size and alignment: aligned as asked, both zones at the user's bytes, writable to the last byte, freed without
 * complaint. */
MOAT_TEST(engine_guard, sizes_and_alignments) {
    struct moat_guard_config config = world_config();
    config.near_bytes = 1 * KIB; /* there are but sixteen places with the largest alignment */
    world_open(&world, &config, WORLD_HEAP_BYTES);
    for (size_t alignment = 1; alignment <= 64 * KIB; alignment *= 2) {
        for (size_t size = 0; size < 200; size = size < 40 ? size + 1 : size + 53) {
            unsigned char *user = world_take_as(&world, size, alignment, MOAT_FAMILY_ALIGNED);
            CHECK(user != NULL);
            CHECK_EQ((uintptr_t)user % alignment, 0);
            CHECK_EQ((uintptr_t)user % (2 * sizeof(void *)), 0);
            for (unsigned i = 1; i <= MOAT_FRONT_BYTES; i++)
                CHECK_EQ(user[-(ptrdiff_t)i], moat_zone_byte(world.config.secret, (uintptr_t)user - i));
            size_t rear = world_rear(&world, user);
            CHECK(rear >= world.config.rear_bytes);
            for (size_t i = size; i < size + rear; i++)
                CHECK_EQ(user[i], moat_zone_byte(world.config.secret, (uintptr_t)user + i));
            memset(user, 0, size);
            CHECK(world_free(&world, user));
            CHECK_EQ(world.findings.count, 0);
            CHECK_EQ(world.victim_findings_count, 0);
        }
    }
    CHECK(heap_is_whole());
}

MOAT_TEST(engine_guard, every_least_rear_zone) {
    for (size_t rear = 1; rear <= 4096; rear = rear < 40 ? rear + 1 : rear * 3) {
        struct moat_guard_config config = world_config();
        config.rear_bytes = rear;
        world_open(&world, &config, WORLD_HEAP_BYTES);
        unsigned char *user = world_take(&world, 33);
        CHECK(world_rear(&world, user) >= rear);
        user[33 + rear - 1] ^= 1;
        CHECK(!world_free(&world, user));
        CHECK_EQ(world.findings.item[0].first, 33 + rear - 1);
    }
}

MOAT_TEST(engine_guard, impossible_sizes_get_nothing) {
    fresh();
    uint64_t allocs = world.faulty.allocs;
    for (size_t less = 0; less < 100; less++)
        CHECK(world_take(&world, SIZE_MAX - less) == NULL);
    if (sizeof(size_t) == 8) {
        CHECK(world_take(&world, (size_t)(UINT64_C(1) << 48)) == NULL);
        CHECK_EQ(world.faulty.allocs, allocs); /* the backend is not even asked */
        CHECK(world_take(&world, (size_t)((UINT64_C(1) << 48) - 1)) == NULL);
    }
    CHECK(world_take(&world, WORLD_HEAP_BYTES) == NULL);
    CHECK_EQ(world.guard.counts.allocations, 0);
    CHECK(heap_is_whole());
}

MOAT_TEST(engine_guard, counts_are_exact) {
    fresh();
    enum { BLOCKS = 50 };
    void *blocks[BLOCKS];
    uint64_t bytes = 0;
    for (unsigned i = 0; i < BLOCKS; i++) {
        blocks[i] = world_take(&world, i * 7);
        bytes += i * 7;
        CHECK_EQ(world.guard.counts.live_blocks, i + 1);
        CHECK_EQ(world.guard.counts.live_bytes, bytes);
        CHECK_EQ(world.guard.counts.peak_bytes, bytes);
    }
    uint64_t peak = bytes;
    for (unsigned i = 0; i < BLOCKS; i++) {
        CHECK(world_free(&world, blocks[i]));
        bytes -= i * 7;
        CHECK_EQ(world.guard.counts.live_blocks, BLOCKS - 1 - i);
        CHECK_EQ(world.guard.counts.live_bytes, bytes);
        CHECK_EQ(world.guard.counts.frees, i + 1);
        CHECK_EQ(world.guard.counts.peak_bytes, peak);
    }
    CHECK_EQ(world.guard.counts.allocations, BLOCKS);
    CHECK_EQ(world.guard.counts.retired_blocks, 0);
}

/* A block whose header is destroyed has lost its size: what is live may then be counted too high, never below
 * nothing. */
MOAT_TEST(engine_guard, counts_do_not_wrap_when_a_size_is_lost) {
    fresh();
    unsigned char *user = world_take(&world, 5);
    memset(user - MOAT_LEAD_BYTES, 0, MOAT_HEADER_BYTES);
    CHECK(!world_free(&world, user));
    CHECK_EQ(world.findings.count, 1);
    CHECK_EQ(world.guard.counts.live_blocks, 0);
    CHECK_EQ(world.guard.counts.frees, 1);
    CHECK(world.guard.counts.live_bytes <= 5);
    CHECK(world_free(&world, world_take(&world, 1)));
    CHECK(world.guard.counts.peak_bytes <= 6);
}

/* ---- pointers that are no live block ----------------------------------------------------------------------------- */

static void check_double_free(void *user, unsigned state) {
    CHECK(!world_free(&world, user));
    CHECK_EQ(world.findings.count, 1);
    const struct moat_finding *finding = &world.findings.item[0];
    CHECK_EQ(finding->kind, MOAT_DOUBLE_FREE);
    CHECK_EQ(finding->when, MOAT_WHEN_FREE);
    CHECK_EQ(finding->address, (uintptr_t)user);
    CHECK_EQ(finding->block.address, (uintptr_t)user);
    CHECK_EQ(finding->block.state, state);
    CHECK_EQ(finding->found_stack, world.event + 1000000);
    CHECK(finding->block.free_stack != 0 || state == MOAT_BLOCK_RETIRED);
}

MOAT_TEST(engine_guard, double_free_in_every_state) {
    fresh();
    unsigned char *filling = world_take(&world, 10);
    struct moat_call call = world_call(&world, MOAT_FAMILY_MALLOC, MOAT_WHEN_FREE);
    size_t size_bytes;
    CHECK(moat_guard_claim(&world.guard, filling, &call, &size_bytes));
    check_double_free(filling, MOAT_BLOCK_FILLING);
    check_double_free(filling, MOAT_BLOCK_FILLING);

    unsigned char *quarantined = world_take(&world, 10);
    CHECK(world_free(&world, quarantined));
    check_double_free(quarantined, MOAT_BLOCK_QUARANTINED);
    CHECK_EQ(world.findings.item[0].block.size_bytes, 10);
    check_double_free(quarantined, MOAT_BLOCK_QUARANTINED);

    unsigned char *retired = world_take(&world, 10);
    retired[10] ^= 1;
    CHECK(!world_free(&world, retired));
    check_double_free(retired, MOAT_BLOCK_RETIRED);
    check_double_free(retired, MOAT_BLOCK_RETIRED);
    CHECK_EQ(world.guard.counts.frees, 3);
}

/* A realloc of a freed block is a double free too. */
MOAT_TEST(engine_guard, a_freed_block_cannot_be_proved) {
    fresh();
    unsigned char *user = world_take(&world, 2000);
    CHECK(world_free(&world, user));
    struct moat_call call = world_call(&world, MOAT_FAMILY_MALLOC, MOAT_WHEN_REALLOC);
    size_t size_bytes;
    CHECK(!moat_guard_prove(&world.guard, user, &call, &size_bytes));
    CHECK(!moat_guard_diagnose_call(&world.guard, user, &call, &world.findings));
    CHECK_EQ(world.findings.count, 1);
    CHECK_EQ(world.findings.item[0].kind, MOAT_DOUBLE_FREE);
    CHECK_EQ(world.findings.item[0].when, MOAT_WHEN_REALLOC);
}

static void check_stranger(uintptr_t address, unsigned place, uintptr_t block) {
    CHECK(!world_free(&world, (void *)address));
    CHECK_EQ(world.findings.count, 1);
    const struct moat_finding *finding = &world.findings.item[0];
    CHECK_EQ(finding->kind, MOAT_INVALID_FREE);
    CHECK_EQ(finding->place, place);
    CHECK_EQ(finding->address, address);
    CHECK_EQ(finding->block.address, block);
    if (block != 0) {
        CHECK_EQ(finding->first, (int64_t)(address - block));
        CHECK_EQ(finding->last, finding->first);
    }
}

MOAT_TEST(engine_guard, interior_and_foreign_pointers) {
    fresh();
    world_take(&world, 40);
    unsigned char *user = world_take(&world, 3000);
    unsigned char *freed = world_take(&world, 3000);
    world_take(&world, 40);
    CHECK(world_free(&world, freed));
    uint64_t live = world.guard.counts.live_blocks;
    size_t rear = world_rear(&world, user);
    for (size_t offset = 1; offset < 3000 + rear; offset += offset < 40 || offset > 2950 ? 1 : 97) {
        check_stranger((uintptr_t)user + offset, MOAT_PLACE_BLOCK, (uintptr_t)user);
        check_stranger((uintptr_t)freed + offset, MOAT_PLACE_BLOCK, (uintptr_t)freed);
    }
    for (size_t before = 1; before <= MOAT_LEAD_BYTES; before++) {
        CHECK(!world_free(&world, user - before));
        CHECK_EQ(world.findings.item[0].kind, MOAT_INVALID_FREE);
        CHECK_EQ(world.findings.item[0].block.address, (uintptr_t)user);
        CHECK_EQ(world.findings.item[0].first, -(int64_t)before);
    }
    check_stranger((uintptr_t)world_heap_memory + sizeof world_heap_memory - 256, MOAT_PLACE_FREE, 0);
    check_stranger((uintptr_t)&world, MOAT_PLACE_UNKNOWN, 0);
    check_stranger((uintptr_t)&rear, MOAT_PLACE_UNKNOWN, 0);
    check_stranger(1, MOAT_PLACE_UNKNOWN, 0);
    check_stranger(UINTPTR_MAX, MOAT_PLACE_UNKNOWN, 0);
    CHECK_EQ(world.guard.counts.live_blocks, live);
    CHECK(world_free(&world, user));
    CHECK_EQ(world.findings.count, 0);
}

/* What was given back is the heap's: a pointer into it is no block any more. */
MOAT_TEST(engine_guard, a_pointer_to_a_block_given_back_is_invalid) {
    fresh();
    unsigned char *user = world_take(&world, 100);
    CHECK(world_free(&world, user));
    size_t findings;
    CHECK_EQ(world_drain(&world, &findings), 1);
    check_stranger((uintptr_t)user, MOAT_PLACE_FREE, 0);
}

MOAT_TEST(engine_guard, every_pair_of_families) {
    for (unsigned block = 0; block < MOAT_FAMILY_COUNT; block++) {
        for (unsigned caller = 0; caller < MOAT_FAMILY_COUNT; caller++) {
            fresh();
            unsigned char *user = world_take_as(&world, 20, 1, block);
            bool fits = block == caller || (block == MOAT_FAMILY_ALIGNED && caller == MOAT_FAMILY_MALLOC);
            struct moat_call call = world_call(&world, caller, MOAT_WHEN_FREE);
            size_t size_bytes;
            CHECK_EQ(moat_guard_prove(&world.guard, user, &call, &size_bytes), fits);
            CHECK(world_free_as(&world, user, caller, MOAT_WHEN_FREE)); /* freed in any case */
            CHECK_EQ(world.findings.count, fits ? 0 : 1);
            if (!fits) {
                CHECK_EQ(world.findings.item[0].kind, MOAT_ALLOC_DEALLOC_MISMATCH);
                CHECK_EQ(world.findings.item[0].block.family, block);
                CHECK_EQ(world.findings.item[0].block.state, MOAT_BLOCK_LIVE);
                CHECK_EQ(world.findings.item[0].caller_family, caller);
                CHECK_EQ(world.findings.item[0].address, (uintptr_t)user);
            }
            CHECK_EQ(state_of(user), MOAT_BLOCK_QUARANTINED);
            size_t findings;
            CHECK_EQ(world_drain(&world, &findings), 1);
            CHECK_EQ(findings, 0);
        }
    }
}

/* A damaged block is reported for its damage, whoever frees it. */
MOAT_TEST(engine_guard, damage_comes_before_the_family) {
    fresh();
    unsigned char *user = world_take_as(&world, 20, 1, MOAT_FAMILY_NEW);
    user[20] ^= 1;
    CHECK(!world_free(&world, user));
    CHECK_EQ(world.findings.count, 1);
    CHECK_EQ(world.findings.item[0].kind, MOAT_HEAP_BUFFER_OVERFLOW);
}

/* ---- which block is at an address -------------------------------------------------------------------------------- */

MOAT_TEST(engine_guard, block_at_answers_for_every_byte) {
    fresh();
    unsigned char *blocks[3] = {world_take(&world, 30), world_take(&world, 0), world_take(&world, 500)};
    for (unsigned i = 0; i < 3; i++) {
        size_t size = moat_header_size(moat_header_of((uintptr_t)blocks[i]));
        size_t rear = world_rear(&world, blocks[i]);
        for (ptrdiff_t offset = -(ptrdiff_t)MOAT_LEAD_BYTES; offset < (ptrdiff_t)(size + rear); offset++) {
            struct moat_block_facts facts = {.address = 0};
            CHECK_EQ(moat_guard_block_at(&world.guard, (uintptr_t)(blocks[i] + offset), &facts), (uintptr_t)blocks[i]);
            CHECK_EQ(facts.address, (uintptr_t)blocks[i]);
            CHECK_EQ(facts.size_bytes, size);
        }
    }
    CHECK_EQ(moat_guard_block_at(&world.guard, (uintptr_t)world_heap_memory + WORLD_HEAP_BYTES / 2, NULL), 0);
    CHECK_EQ(moat_guard_block_at(&world.guard, (uintptr_t)&world, NULL), 0);
}

MOAT_TEST(engine_guard, neighbours_are_the_nearest_others) {
    fresh();
    unsigned char *blocks[4];
    for (unsigned i = 0; i < 4; i++)
        blocks[i] = world_take(&world, i == 2 ? 0 : 10 * i); /* sizes 0, 10, 0, 30 */
    for (unsigned i = 0; i < 4; i++) {
        struct moat_block_facts neighbour[2];
        moat_guard_neighbours(&world.guard, (uintptr_t)blocks[i], neighbour);
        CHECK_EQ(neighbour[0].address, i == 0 ? 0 : (uintptr_t)blocks[i - 1]);
        CHECK_EQ(neighbour[1].address, i == 3 ? 0 : (uintptr_t)blocks[i + 1]);
    }
    /* One that is 4 KiB away is worth no word. */
    unsigned char *far = world_take(&world, 8 * KIB);
    unsigned char *last = world_take(&world, 1);
    struct moat_block_facts neighbour[2];
    moat_guard_neighbours(&world.guard, (uintptr_t)last, neighbour);
    CHECK_EQ(neighbour[0].address, 0);
    moat_guard_neighbours(&world.guard, (uintptr_t)far, neighbour);
    CHECK_EQ(neighbour[0].address, (uintptr_t)blocks[3]);
    CHECK_EQ(neighbour[1].address, (uintptr_t)last);
}

/* ---- resize ------------------------------------------------------------------------------------------------------ */

static bool resize(void *user, size_t size_bytes) {
    struct moat_call call = world_call(&world, MOAT_FAMILY_MALLOC, MOAT_WHEN_REALLOC);
    size_t old_bytes;
    CHECK(moat_guard_prove(&world.guard, user, &call, &old_bytes));
    return moat_guard_resize(&world.guard, user, size_bytes, &call);
}

/* After a resize in place the rear zone begins at the new size, and every byte of it counts. */
static void check_rear(unsigned char *user, size_t size) {
    CHECK_EQ(facts_of(user).size_bytes, size);
    size_t rear = world_rear(&world, user);
    CHECK(rear >= world.config.rear_bytes);
    CHECK(moat_guard_live_and_whole(&world.guard, (uintptr_t)user));
    for (size_t i = size; i < size + rear; i++) {
        user[i] ^= 1;
        CHECK(!moat_guard_live_and_whole(&world.guard, (uintptr_t)user));
        user[i] ^= 1;
    }
    memset(user, 0, size);
    CHECK(moat_guard_live_and_whole(&world.guard, (uintptr_t)user));
}

MOAT_TEST(engine_guard, small_blocks_move) {
    fresh();
    unsigned char *user = world_take(&world, 1024);
    CHECK(!resize(user, 1024));
    CHECK(!resize(user, 1025));
    CHECK(!resize(user, 500));
    CHECK_EQ(world.faulty.resizes, 0);
    unsigned char *larger = world_take(&world, 1025);
    CHECK(resize(larger, 1026));
    CHECK(!resize(larger, 1024)); /* it becomes small */
    check_rear(larger, 1026);
}

MOAT_TEST(engine_guard, growing_a_little_stays_and_growing_much_moves) {
    for (size_t size = 1100; size < 100 * KIB; size += size / 3) {
        fresh();
        unsigned char *user = world_take(&world, size);
        size_t now = size;
        while (resize(user, now + 1 + now / 500)) {
            now += 1 + now / 500;
            check_rear(user, now);
            CHECK_EQ(world.guard.counts.live_bytes, now);
        }
        CHECK(now >= size + size / 16 && now <= size + size / 4);
        CHECK_EQ(facts_of(user).size_bytes, now);
        /* Shrinking and growing again up to there is no growth. */
        CHECK(resize(user, 1025));
        check_rear(user, 1025);
        CHECK_EQ(world.guard.counts.live_bytes, 1025);
        CHECK(resize(user, now));
        CHECK(!resize(user, now + 1 + now / 500));
        CHECK(world.guard.counts.peak_bytes >= now);
    }
}

MOAT_TEST(engine_guard, shrinking_stays_and_redresses) {
    fresh();
    unsigned char *user = world_take(&world, 50000);
    for (size_t size = 49999; size > 1024; size -= size / 30) {
        CHECK(resize(user, size));
        check_rear(user, size);
    }
    CHECK(world_free(&world, user));
    CHECK_EQ(world.findings.count, 0);
    size_t findings;
    world_drain(&world, &findings);
    CHECK_EQ(findings, 0);
    CHECK(heap_is_whole());
}

MOAT_TEST(engine_guard, a_resize_that_does_not_fit_changes_nothing) {
    fresh();
    unsigned char *user = world_take(&world, 5000);
    world_take(&world, 1); /* right behind it */
    struct moat_block_facts before = facts_of(user);
    CHECK(!resize(user, 5200));
    struct moat_block_facts after = facts_of(user);
    CHECK(memcmp(&before, &after, sizeof before) == 0);
    CHECK(!resize(user, SIZE_MAX));
    CHECK(!resize(user, SIZE_MAX - MOAT_LEAD_BYTES - world.config.rear_bytes));
    check_rear(user, 5000);
}

MOAT_TEST(engine_guard, a_resize_tells_who_made_the_block_what_it_is) {
    fresh();
    unsigned char *user = world_take(&world, 5000);
    CHECK(resize(user, 5001));
    struct moat_block_facts facts = facts_of(user);
    CHECK_EQ(facts.sequence, 1);
    CHECK_EQ(facts.allocation_stack, world.event + 1000000);
}

MOAT_TEST(engine_guard, always_moving_is_an_option) {
    struct moat_guard_config config = world_config();
    config.realloc_always_moves = true;
    world_open(&world, &config, WORLD_HEAP_BYTES);
    unsigned char *user = world_take(&world, 5000);
    CHECK(!resize(user, 4999));
    CHECK_EQ(world.faulty.resizes, 0);
}

/* ---- backends that fail or lie ----------------------------------------------------------------------------------- */

MOAT_TEST(engine_guard, allocation_fails_at_each_call) {
    for (uint64_t fail_at = 0; fail_at < 20; fail_at++) {
        fresh();
        world.faulty.alloc_fails_at = fail_at;
        for (unsigned i = 0; i < 20; i++) {
            struct moat_guard_counts before = world.guard.counts;
            unsigned char *user = world_take(&world, 50);
            CHECK_EQ(user == NULL, i == fail_at);
            if (user == NULL)
                CHECK(memcmp(&before, &world.guard.counts, sizeof before) == 0);
            else
                CHECK(world_free(&world, user));
        }
    }
}

MOAT_TEST(engine_guard, a_block_smaller_than_promised_is_not_used) {
    fresh();
    world.faulty.usable_minus = 100;
    CHECK(world_take(&world, 50) == NULL);
    CHECK_EQ(world.guard.counts.allocations, 0);
    CHECK_EQ(world.faulty.frees, 1); /* it went back */
    world.faulty.usable_minus = 0;
    unsigned char *user = world_take(&world, 5000);
    world.faulty.usable_minus = 1000;
    CHECK(!resize(user, 4999));
    world.faulty.usable_minus = 0;
    CHECK_EQ(facts_of(user).size_bytes, 5000);
}

/* Before a block goes back, its size is compared with what the backend believes: nothing is handed out twice. */
MOAT_TEST(engine_guard, a_block_whose_size_the_backend_disputes_stays) {
    for (unsigned way = 0; way < 3; way++) {
        fresh();
        unsigned char *user = world_take(&world, 50);
        CHECK(world_free(&world, user));
        world.faulty.usable_plus = way == 0 ? 16 : 0;
        world.faulty.usable_minus = way == 1 ? 16 : 0;
        world.faulty.refuse_free = way == 2;
        size_t findings;
        CHECK_EQ(world_drain(&world, &findings), 1);
        CHECK_EQ(findings, 1);
        CHECK_EQ(world.faulty.frees, 0);
        const struct moat_finding *finding = &world.victim_findings[0];
        CHECK_EQ(finding->kind, MOAT_CORRUPTED_METADATA);
        CHECK_EQ(finding->when, MOAT_WHEN_QUARANTINE);
        CHECK_EQ(finding->block.address, (uintptr_t)user);
        CHECK_EQ(finding->block.size_bytes, 50);
        CHECK(finding->rule[0] != '\0');
        CHECK_EQ(state_of(user), MOAT_BLOCK_RETIRED);
        CHECK_EQ(world.guard.counts.retired_blocks, 1);
        world.faulty.usable_plus = world.faulty.usable_minus = 0;
        world.faulty.refuse_free = false;
        check_double_free(user, MOAT_BLOCK_RETIRED);
        struct moat_finding found[4];
        CHECK_EQ(world_sweep(&world, found, 4), 0); /* reported once */
    }
}

MOAT_TEST(engine_guard, memory_the_map_does_not_know_is_not_used) {
    fresh();
    CHECK(moat_map_remove(&world.map, &world.guard, (uintptr_t)world_heap_memory, WORLD_HEAP_BYTES));
    CHECK(world_take(&world, 50) == NULL);
    CHECK_EQ(world.faulty.frees, 1);
    CHECK(heap_is_whole());
}

/* The quarantine is drained before an allocation fails, and then all of the memory is there again. */
MOAT_TEST(engine_guard, quarantine_never_causes_out_of_memory) {
    struct moat_guard_config config = world_config();
    config.near_bytes = 16 * MIB;
    config.far_bytes = 1 * MIB;
    world_open(&world, &config, 64 * KIB);
    size_t largest = 64 * KIB;
    unsigned char *all;
    while ((all = world_take(&world, largest)) == NULL)
        largest -= 16;
    CHECK(largest > 60 * KIB - 4 * KIB);
    CHECK(world_free(&world, all));
    for (unsigned round = 0; round < 200; round++) {
        size_t size = round % 10 == 0 ? largest : 1 + round * 37 % 5000;
        unsigned char *user = world_take(&world, size);
        while (user == NULL) {
            struct moat_call call = world_call(&world, MOAT_FAMILY_MALLOC, MOAT_WHEN_CALL);
            world.victim_count = moat_guard_pop(&world.guard, 0, true, world.victims);
            CHECK(world.victim_count != 0);
            world_victims(&world, &call);
            CHECK_EQ(world.victim_findings_count, 0);
            user = world_take(&world, size);
        }
        CHECK(world_free(&world, user));
    }
    CHECK(heap_is_whole());
}
