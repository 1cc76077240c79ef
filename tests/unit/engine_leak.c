/* Portable tests of the leak scan: what reaches what, definite and indirect, groups, inherited blocks, little memory;
 * random graphs beside a naive model. May include: guard/engine/leak.h, tests/unit/engine_world.h. */
#include "guard/engine/leak.h"
#include "tests/unit/engine_world.h"

#define SCAN_BYTES (8 * MIB)

static struct world world;
static struct moat_leak_scan scan;
static _Alignas(64) unsigned char scan_memory[SCAN_BYTES];
static struct bank bank;

static void fresh(void) {
    struct moat_guard_config config = world_config();
    config.fill_bytes = 0;
    world_open(&world, &config, WORLD_HEAP_BYTES);
}

static void **take(size_t size_bytes, uint32_t stack) {
    struct moat_call call = world_call(&world, MOAT_FAMILY_MALLOC, MOAT_WHEN_CALL);
    call.stack = stack;
    void **user = moat_guard_take(&world.guard, size_bytes, 1, &call);
    CHECK(user != NULL);
    memset(user, 0, size_bytes);
    return user;
}

static void begin(uint64_t since) {
    bank_open(&bank, scan_memory, sizeof scan_memory);
    scan = (struct moat_leak_scan){.memory = &bank.source, .guards = {&world.guard}, .guard_count = 1, .since = since};
    CHECK(moat_leak_begin(&scan));
}

static void end(void) {
    moat_leak_end(&scan);
    CHECK_EQ(bank.pieces, 0);
}

static void run(const void *roots, size_t roots_bytes) {
    begin(0);
    moat_leak_root(&scan, (uintptr_t)roots, roots_bytes);
    CHECK(moat_leak_finish(&scan));
}

static void check_totals(uint64_t definite, uint64_t indirect) {
    CHECK_EQ(scan.definite_blocks, definite);
    CHECK_EQ(scan.indirect_blocks, indirect);
    uint64_t blocks = 0, bytes = 0, indirect_blocks = 0, indirect_bytes = 0;
    for (size_t i = 0; i < scan.group_count; i++) {
        blocks += scan.groups[i].blocks;
        bytes += scan.groups[i].bytes;
        indirect_blocks += scan.groups[i].indirect_blocks;
        indirect_bytes += scan.groups[i].indirect_bytes;
    }
    CHECK_EQ(blocks, definite);
    CHECK_EQ(bytes, scan.definite_bytes);
    CHECK_EQ(indirect_blocks, indirect);
    CHECK_EQ(indirect_bytes, scan.indirect_bytes);
}

/* ---- what a pointer reaches -------------------------------------------------------------------------------------- */

MOAT_TEST(engine_leak, nothing_is_lost_of_nothing) {
    fresh();
    run(NULL, 0);
    check_totals(0, 0);
    end();
}

MOAT_TEST(engine_leak, a_pointer_to_any_byte_reaches_the_block_and_no_other_does) {
    fresh();
    unsigned char *before = (unsigned char *)take(100, 1);
    unsigned char *user = (unsigned char *)take(100, 2);
    unsigned char *after = (unsigned char *)take(100, 3);
    void *roots[3] = {before, NULL, after};
    for (ptrdiff_t offset = -64; offset < 164; offset++) {
        roots[1] = user + offset;
        run(roots, sizeof roots);
        check_totals(offset >= 0 && offset < 100 ? 0 : 1, 0);
        end();
    }
}

/* Of a block without bytes only its start can be pointed to. */
MOAT_TEST(engine_leak, empty_blocks_can_be_reached) {
    fresh();
    void *root = take(0, 1);
    run(&root, sizeof root);
    check_totals(0, 0);
    end();
    root = (char *)root + 1;
    run(&root, sizeof root);
    check_totals(1, 0);
    CHECK_EQ(scan.definite_bytes, 0);
    end();
}

MOAT_TEST(engine_leak, only_aligned_whole_words_count) {
    fresh();
    void *user = take(100, 1);
    static _Alignas(8) unsigned char roots[4 * sizeof(void *)];
    for (size_t at = 0; at <= sizeof roots - sizeof(void *); at++) {
        for (size_t from = 0; from <= at; from++) {
            memset(roots, 0, sizeof roots);
            memcpy(roots + at, &user, sizeof user);
            run(roots + from, sizeof roots - from);
            check_totals(at % sizeof(void *) == 0 ? 0 : 1, 0);
            end();
            run(roots + from, at + sizeof(void *) - 1 - from); /* one byte short of it */
            check_totals(1, 0);
            end();
        }
    }
}

MOAT_TEST(engine_leak, freed_blocks_neither_leak_nor_lead_anywhere) {
    fresh();
    void **freed = take(100, 1);
    void **user = take(100, 2);
    void *root = freed;
    CHECK(world_free(&world, freed));
    freed[3] = user; /* a write after free, which is another finding's business */
    run(&root, sizeof root);
    check_totals(1, 0);
    CHECK_EQ(scan.groups[0].stack, 2);
    end();
}

/* What a zone or a header happens to hold is no pointer. */
MOAT_TEST(engine_leak, only_the_users_bytes_are_searched) {
    fresh();
    void **holder = take(sizeof(void *) * 2, 1);
    void *user = take(100, 2);
    void *root = holder;
    memcpy((unsigned char *)holder + sizeof(void *) * 2, &user, sizeof user); /* in the rear zone */
    run(&root, sizeof root);
    check_totals(1, 0);
    end();
    holder[1] = user;
    run(&root, sizeof root);
    check_totals(0, 0);
    end();
}

MOAT_TEST(engine_leak, a_long_chain_takes_no_stack) {
    fresh();
    void **first = take(2 * sizeof(void *), 1), **last = first;
    uint64_t links = 0;
    for (;; links++) {
        struct moat_call call = world_call(&world, MOAT_FAMILY_MALLOC, MOAT_WHEN_CALL);
        void **next = moat_guard_take(&world.guard, 2 * sizeof(void *), 1, &call);
        if (next == NULL)
            break;
        next[0] = next[1] = NULL;
        last[1] = next;
        last = next;
    }
    CHECK(links > 8000);
    void *root = first;
    run(&root, sizeof root);
    check_totals(0, 0);
    end();
    root = first[1];
    run(&root, sizeof root);
    check_totals(1, 0);
    end();
    run(NULL, 0);
    check_totals(1, links);
    end();
}

/* ---- definite and indirect --------------------------------------------------------------------------------------- */

MOAT_TEST(engine_leak, what_a_lost_block_holds_is_indirect) {
    fresh();
    void **holder = take(64, 7);
    holder[0] = take(10, 8);
    holder[1] = (char *)take(20, 9) + 5;
    holder[2] = holder; /* pointing to itself changes nothing */
    run(NULL, 0);
    check_totals(1, 2);
    CHECK_EQ(scan.group_count, 1);
    CHECK_EQ(scan.groups[0].stack, 7);
    CHECK_EQ(scan.groups[0].bytes, 64);
    CHECK_EQ(scan.groups[0].indirect_bytes, 30);
    CHECK_EQ(scan.groups[0].example.address, (uintptr_t)holder);
    end();
}

MOAT_TEST(engine_leak, a_ring_has_one_definite_block) {
    fresh();
    void **ring[6];
    for (unsigned i = 0; i < 6; i++)
        ring[i] = take(16, 1);
    for (unsigned i = 0; i < 6; i++)
        ring[i][0] = ring[(i + 1) % 6];
    run(NULL, 0);
    check_totals(1, 5);
    end();
    /* One that points into the ring from outside owns all of it, wherever it lies and whatever it points to. */
    for (unsigned into = 0; into < 6; into++) {
        void **outside = take(16, 2);
        outside[0] = ring[into];
        run(NULL, 0);
        check_totals(1, 6);
        CHECK_EQ(scan.groups[0].stack, 2);
        end();
        outside[0] = NULL;
        CHECK(world_free(&world, outside));
    }
    /* A root into it frees it from all suspicion. */
    void *root = ring[3];
    run(&root, sizeof root);
    check_totals(0, 0);
    end();
}

MOAT_TEST(engine_leak, what_two_hold_is_counted_once) {
    fresh();
    void **a = take(16, 1), **b = take(16, 2), **shared = take(100, 3);
    a[0] = b[0] = shared;
    run(NULL, 0);
    check_totals(2, 1);
    CHECK_EQ(scan.group_count, 2);
    CHECK_EQ(scan.groups[0].bytes + scan.groups[0].indirect_bytes, 116);
    CHECK_EQ(scan.groups[1].bytes + scan.groups[1].indirect_bytes, 16);
    end();
}

/* ---- groups ------------------------------------------------------------------------------------------------------ */

MOAT_TEST(engine_leak, groups_are_by_stack_and_largest_first) {
    enum { STACKS = 100 };
    fresh();
    for (unsigned i = 0; i < 1000; i++)
        take(1 + i % 13, i % STACKS * 0x10000u); /* also stack 0: no stack */
    run(NULL, 0);
    check_totals(1000, 0);
    CHECK_EQ(scan.group_count, STACKS);
    for (size_t i = 0; i < STACKS; i++) {
        uint64_t bytes = 0;
        unsigned which = scan.groups[i].stack / 0x10000u;
        for (unsigned k = which; k < 1000; k += STACKS)
            bytes += 1 + k % 13;
        CHECK_EQ(scan.groups[i].blocks, 10);
        CHECK_EQ(scan.groups[i].bytes, bytes);
        CHECK(i == 0 || scan.groups[i - 1].bytes >= scan.groups[i].bytes);
        CHECK_EQ(scan.groups[i].example.sequence, which + 1); /* the one met first */
        for (size_t k = 0; k < i; k++)
            CHECK(scan.groups[k].stack != scan.groups[i].stack);
    }
    end();
}

/* After fork, what the parent allocated is not the child's to report, but it still holds what it holds. */
MOAT_TEST(engine_leak, inherited_blocks_are_not_reported) {
    fresh();
    void **inherited = take(16, 1);
    void **inherited_too = take(16, 2);
    uint64_t since = world.event + 1;
    void **own = take(16, 3), **owned = take(16, 4);
    own[0] = inherited;   /* an own block that leads to an inherited one, */
    inherited[0] = owned; /* and through it to an own one */
    inherited_too[0] = NULL;
    begin(since);
    CHECK(moat_leak_finish(&scan));
    check_totals(1, 1);
    CHECK_EQ(scan.groups[0].stack, 3);
    end();
    /* An inherited block alone makes nothing indirect: there would be nothing to report then. */
    own[0] = NULL;
    begin(since);
    CHECK(moat_leak_finish(&scan));
    check_totals(2, 0);
    end();
}

/* Blocks whose header is lost are live, but what they are can not be said. */
MOAT_TEST(engine_leak, damaged_blocks_do_not_stop_the_scan) {
    fresh();
    void **user = take(64, 1);
    void **held = take(64, 2);
    user[0] = held;
    ((unsigned char *)user)[-40] ^= 1;
    run(NULL, 0);
    check_totals(1, 0);
    CHECK_EQ(scan.groups[0].stack, 2);
    end();
}

/* ---- memory ------------------------------------------------------------------------------------------------------ */

MOAT_TEST(engine_leak, failing_memory_means_no_check) {
    bool finished = false;
    for (uint64_t fail_at = 0; !finished; fail_at++) {
        CHECK(fail_at < 10);
        fresh();
        for (unsigned i = 0; i < 50; i++)
            take(10, i);
        bank_open(&bank, scan_memory, sizeof scan_memory);
        bank.fail_at = fail_at;
        scan = (struct moat_leak_scan){.memory = &bank.source, .guards = {&world.guard}, .guard_count = 1};
        if (moat_leak_begin(&scan)) {
            moat_leak_root(&scan, 0, 0);
            finished = moat_leak_finish(&scan);
        }
        CHECK_EQ(finished, fail_at >= bank.calls);
        end();
        /* The guard is as it was, and with memory the scan runs. */
        run(NULL, 0);
        check_totals(50, 0);
        end();
    }
}

/* ---- random graphs ----------------------------------------------------------------------------------------------- */

enum { NODES = 40, EDGES_MOST = 3, GRAPHS = 1500 };

/* Closure by repeated squaring of nothing cleverer than a matrix: reach[a][b] says that a path leads from a to b. */
static bool reach[NODES][NODES];

static void close_paths(unsigned count) {
    for (unsigned via = 0; via < count; via++) {
        for (unsigned a = 0; a < count; a++) {
            for (unsigned b = 0; reach[a][via] && b < count; b++)
                reach[a][b] = reach[a][b] || reach[via][b];
        }
    }
}

static void check_graph(uint64_t *random) {
    static void **nodes[NODES];
    static size_t sizes[NODES];
    static void *roots[3];
    fresh();
    unsigned count = 1 + (unsigned)random_below(random, NODES);
    unsigned edges = (unsigned)random_below(random, EDGES_MOST + 1);
    memset(reach, 0, sizeof reach);
    for (unsigned i = 0; i < count; i++) {
        sizes[i] = (EDGES_MOST + random_below(random, 5)) * sizeof(void *) + random_below(random, 8);
        nodes[i] = take(sizes[i], i + 1);
    }
    for (unsigned i = 0; i < count; i++) {
        for (unsigned k = 0; k < edges; k++) {
            unsigned to = (unsigned)random_below(random, count * 2); /* half of them point nowhere */
            if (to < count) {
                nodes[i][k] = (char *)nodes[to] + random_below(random, sizes[to]);
                reach[i][to] = true;
            }
        }
    }
    close_paths(count);
    bool held[NODES] = {false};
    for (unsigned r = 0; r < 3; r++) {
        unsigned to = (unsigned)random_below(random, count * 3);
        roots[r] = to < count ? nodes[to] : NULL;
        for (unsigned i = 0; to < count && i < count; i++)
            held[i] = held[i] || i == to || reach[to][i];
    }
    run(roots, sizeof roots);
    uint64_t definite = 0, indirect = 0;
    for (unsigned i = 0; i < count; i++) {
        if (held[i])
            continue;
        /* Definite: whoever reaches it is reached by it; and of such a set, one. The address order is the order of
         * taking. */
        bool own_set = true, first = true;
        for (unsigned k = 0; k < count; k++) {
            own_set = own_set && (k == i || !reach[k][i] || reach[i][k]);
            first = first && (k >= i || !reach[k][i] || !reach[i][k]);
        }
        definite += own_set && first;
        indirect += !(own_set && first);
        bool in_set = false;
        for (unsigned k = 0; k < count; k++)
            in_set = in_set || (k != i && reach[k][i] && reach[i][k]);
        /* Its group is its own, since every node has a stack of its own. */
        bool found = false;
        for (size_t g = 0; g < scan.group_count; g++)
            found = found || scan.groups[g].stack == i + 1;
        if (!in_set)
            CHECK_EQ(found, own_set);
        else
            CHECK(!found || own_set);
    }
    check_totals(definite, indirect);
    end();
}

MOAT_TEST(engine_leak, random_graphs_match_a_naive_model) {
    uint64_t random = 11;
    for (unsigned i = 0; i < GRAPHS; i++)
        check_graph(&random);
}
