/* Portable tests of the quarantine's ring, and of the two tiers that a guard makes of two rings.
 * May include: guard/engine/quarantine.h, tests/unit/engine_world.h. */
#include "guard/engine/quarantine.h"
#include "tests/unit/engine_world.h"

static struct world world;
static _Alignas(64) unsigned char memory[4 * MIB];
static struct bank bank;

static struct moat_quarantine ring(size_t budget_bytes) {
    struct moat_quarantine quarantine;
    bank_open(&bank, memory, sizeof memory);
    moat_quarantine_init(&quarantine, budget_bytes, 0, &bank.source);
    return quarantine;
}

/* ---- the ring ---------------------------------------------------------------------------------------------------- */

MOAT_TEST(engine_quarantine, entries_come_out_in_order) {
    struct moat_quarantine quarantine = ring(10 * KIB);
    uint64_t in = 0, out = 0;
    uint64_t random = 1;
    for (unsigned i = 0; i < 20000; i++) {
        size_t footprint = 80 + 16 * (size_t)(in % 13);
        if (random_below(&random, 2) == 0 &&
            moat_quarantine_push(&quarantine, moat_quarantine_entry_make((uintptr_t)(in + 1) * 16, in, footprint))) {
            in++;
        } else if (quarantine.count != 0) {
            struct moat_quarantine_entry entry = moat_quarantine_pop(&quarantine);
            CHECK_EQ(entry.user, (uintptr_t)(out + 1) * 16);
            CHECK_EQ(entry.event, out);
            out++;
        }
        CHECK_EQ(quarantine.count, in - out);
        size_t expected = 0;
        for (uint64_t k = out; k < in; k++)
            expected += 80 + 16 * (size_t)(k % 13) + sizeof(struct moat_quarantine_entry);
        CHECK_EQ(quarantine.held_bytes, expected);
    }
}

MOAT_TEST(engine_quarantine, a_full_ring_takes_no_more) {
    struct moat_quarantine quarantine = ring(1 * KIB);
    CHECK(quarantine.capacity >= KIB / 80);
    CHECK_EQ(quarantine.capacity & (quarantine.capacity - 1), 0);
    struct moat_quarantine_entry entry = moat_quarantine_entry_make(16, 1, 80);
    size_t pushed = 0;
    while (moat_quarantine_push(&quarantine, entry))
        pushed++;
    CHECK_EQ(pushed, quarantine.capacity);
    CHECK(moat_quarantine_over(&quarantine, 0));
}

MOAT_TEST(engine_quarantine, nothing_is_held_without_budget_or_memory) {
    struct moat_quarantine quarantine = ring(0);
    struct moat_quarantine_entry entry = moat_quarantine_entry_make(16, 1, 80);
    CHECK(!moat_quarantine_push(&quarantine, entry));
    CHECK(!moat_quarantine_over(&quarantine, SIZE_MAX / 2));
    moat_quarantine_init(&quarantine, 1 * MIB, 0, NULL);
    CHECK(!moat_quarantine_push(&quarantine, entry));
    bank_open(&bank, memory, sizeof memory);
    bank.fail_at = 0;
    bank.fail_after = true;
    moat_quarantine_init(&quarantine, 1 * MIB, 0, &bank.source);
    CHECK(!moat_quarantine_push(&quarantine, entry));
}

MOAT_TEST(engine_quarantine, little_memory_gives_a_smaller_ring) {
    struct moat_quarantine quarantine;
    bank_open(&bank, memory, sizeof memory);
    bank.fail_at = 0; /* the first wish is too much */
    moat_quarantine_init(&quarantine, 1 * MIB, 0, &bank.source);
    size_t smaller = quarantine.capacity;
    CHECK(smaller != 0);
    quarantine = ring(1 * MIB);
    CHECK_EQ(quarantine.capacity, 2 * smaller);
}

MOAT_TEST(engine_quarantine, huge_blocks_count_the_same_in_and_out) {
    struct moat_quarantine quarantine = ring(1 * MIB);
    CHECK(moat_quarantine_push(&quarantine, moat_quarantine_entry_make(64, 1, SIZE_MAX)));
    CHECK(moat_quarantine_push(&quarantine, moat_quarantine_entry_make(32, UINT64_MAX, 80)));
    CHECK_EQ(moat_quarantine_pop(&quarantine).user, 64);
    CHECK_EQ(moat_quarantine_pop(&quarantine).event, (UINT64_C(1) << 40) - 1);
    CHECK_EQ(quarantine.held_bytes, 0);
}

/* ---- the guard's two tiers --------------------------------------------------------------------------------------- */

static size_t held(const struct moat_quarantine *quarantine) {
    size_t bytes = 0;
    for (size_t i = 0; i < quarantine->count; i++)
        bytes += moat_quarantine_bytes(&quarantine->entries[(quarantine->head + i) & (quarantine->capacity - 1)]);
    return bytes;
}

MOAT_TEST(engine_quarantine, at_most_two_leave_at_a_time_and_the_budget_holds) {
    struct moat_guard_config config = world_config();
    world_open(&world, &config, WORLD_HEAP_BYTES);
    uint64_t random = 2;
    static void *freed[20000];
    size_t in = 0, out = 0;
    for (unsigned i = 0; i < 20000; i++) {
        size_t size = random_below(&random, 300);
        void *user = world_take(&world, size);
        CHECK(user != NULL);
        CHECK(world_free(&world, user));
        freed[in++] = user;
        CHECK(world.victim_count <= MOAT_VICTIMS_MAX);
        for (size_t k = 0; k < world.victim_count; k++)
            CHECK(world.victims[k].user == freed[out++]);
        CHECK_EQ(world.victim_findings_count, 0);
        CHECK_EQ(world.guard.near.held_bytes, held(&world.guard.near));
        /* Two steps out for one in: with sizes this alike the newest block is all that may be too much. */
        CHECK(world.guard.near.held_bytes <= config.near_bytes + 500);
    }
    CHECK_EQ(in - out, world.guard.near.count);
    CHECK(world.guard.near.held_bytes > config.near_bytes - 1000);
    CHECK_EQ(world.faulty.frees, out);
}

/* A hash chooses about one in far_one_in; every block leaves exactly once, the chosen ones later. */
MOAT_TEST(engine_quarantine, a_sample_goes_on_into_the_far_tier) {
    enum { BLOCKS = 20000 };
    struct moat_guard_config config = world_config();
    config.near_bytes = 8 * KIB;
    config.far_bytes = 64 * KIB;
    config.far_one_in = 8;
    world_open(&world, &config, WORLD_HEAP_BYTES);
    size_t left = 0, far_before = 0, entered_far = 0, left_far = 0;
    for (unsigned i = 0; i < BLOCKS; i++) {
        void *user = world_take(&world, 24 + i % 100);
        uintptr_t far_oldest = world.guard.far.count == 0 ? 0 : world.guard.far.entries[world.guard.far.head].user;
        CHECK(world_free(&world, user));
        left += world.victim_count;
        for (size_t k = 0; k < world.victim_count; k++)
            left_far += (uintptr_t)world.victims[k].user == far_oldest;
        entered_far = world.guard.far.count + left_far;
        CHECK(world.guard.far.held_bytes <= config.far_bytes + config.far_bytes / 16);
        far_before = world.guard.far.count;
    }
    CHECK_EQ(left + world.guard.near.count + world.guard.far.count, BLOCKS);
    CHECK_EQ(world.faulty.frees, left);
    CHECK(far_before > 300);
    /* 20,000 / 8 = 2,500, standard deviation 47; five of them. */
    CHECK(entered_far > 2500 - 235 && entered_far < 2500 + 235);
    size_t findings;
    CHECK_EQ(world_drain(&world, &findings), BLOCKS - left);
    CHECK_EQ(findings, 0);
    CHECK_EQ(world.faulty.frees, BLOCKS);
    CHECK_EQ(world.guard.near.held_bytes + world.guard.far.held_bytes, 0);
}

/* The two that leave for one that comes may be much smaller than it: then the far tier must still keep its budget, and
 * further pops bring the near one back to it, down to the newest block. */
MOAT_TEST(engine_quarantine, large_blocks_after_small_ones_do_not_pile_up) {
    struct moat_guard_config config = world_config();
    config.near_bytes = 16 * KIB;
    config.far_bytes = 16 * KIB;
    config.far_one_in = 1; /* all go on */
    world_open(&world, &config, WORLD_HEAP_BYTES);
    for (unsigned i = 0; i < 1000; i++)
        CHECK(world_free(&world, world_take(&world, 1)));
    CHECK(world.guard.near.count > 100 && world.guard.far.count > 100);
    for (unsigned i = 0; i < 200; i++) {
        CHECK(world_free(&world, world_take(&world, 6 * KIB)));
        CHECK(world.guard.far.held_bytes <= config.far_bytes + config.far_bytes / 16);
        struct moat_call call = world_call(&world, MOAT_FAMILY_MALLOC, MOAT_WHEN_FREE);
        for (unsigned more = 0; more < 3; more++) {
            world.victim_count = moat_guard_pop(&world.guard, 0, false, world.victims);
            world_victims(&world, &call);
        }
    }
    CHECK(world.guard.near.held_bytes <= config.near_bytes);
    /* One that is larger than all of the budget is held until the next comes. */
    void *user = world_take(&world, 50 * KIB);
    CHECK(world_free(&world, user));
    while ((world.victim_count = moat_guard_pop(&world.guard, 0, false, world.victims)) != 0) {
        struct moat_call call = world_call(&world, MOAT_FAMILY_MALLOC, MOAT_WHEN_FREE);
        for (size_t i = 0; i < world.victim_count; i++)
            CHECK(world.victims[i].user != user);
        world_victims(&world, &call);
    }
    CHECK_EQ(world.guard.near.count, 1);
    CHECK_EQ(world.guard.near.entries[world.guard.near.head].user, (uintptr_t)user);
}

/* Many threads may have popped before they enqueue: then the ring can be full, and the block goes back at once. */
MOAT_TEST(engine_quarantine, a_block_that_finds_the_ring_full_goes_back) {
    struct moat_guard_config config = world_config();
    config.near_bytes = 400; /* a ring of eight */
    world_open(&world, &config, WORLD_HEAP_BYTES);
    size_t capacity = world.guard.near.capacity;
    size_t size;
    struct moat_finding finding;
    for (size_t i = 0; i < capacity + 5; i++) {
        void *user = world_take(&world, 10);
        struct moat_call call = world_call(&world, MOAT_FAMILY_MALLOC, MOAT_WHEN_FREE);
        CHECK(moat_guard_claim(&world.guard, user, &call, &size));
        moat_guard_poison(&world.guard, user, size);
        CHECK(moat_guard_enqueue(&world.guard, user, &call, &finding));
    }
    CHECK_EQ(world.guard.near.count, capacity);
    CHECK_EQ(world.faulty.frees, 5);
}

MOAT_TEST(engine_quarantine, without_quarantine_blocks_go_back_at_once) {
    struct moat_guard_config config = world_config();
    config.near_bytes = 0;
    world_open(&world, &config, WORLD_HEAP_BYTES);
    void *user = world_take(&world, 100);
    CHECK(world_free(&world, user));
    CHECK_EQ(world.faulty.frees, 1);
    CHECK_EQ(world.victim_findings_count, 0);
    /* Also then a backend that refuses is heard of. */
    user = world_take(&world, 100);
    world.faulty.refuse_free = true;
    CHECK(world_free(&world, user));
    CHECK_EQ(world.victim_findings_count, 1);
    CHECK_EQ(world.victim_findings[0].kind, MOAT_CORRUPTED_METADATA);
}
