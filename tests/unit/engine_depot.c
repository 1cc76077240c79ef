/* Portable tests of the depot: a tree of stacks, each once; what does not fit is counted. Threads:
 * tests/threads/depot.c. May include: guard/engine/depot.h, tests/unit/engine_world.h. */
#include "guard/engine/depot.h"
#include "tests/unit/engine_world.h"

#define SEGMENT_NODES (1u << MOAT_DEPOT_SEGMENT_BITS)

static _Alignas(64) unsigned char memory[8 * MIB];
static struct bank bank;
static struct moat_depot depot;

static uint16_t module_of_pc(uintptr_t pc) { return (uint16_t)(pc >> 12); }

static void fresh(void) {
    memset(memory, 0xcc, sizeof memory);
    bank_open(&bank, memory, sizeof memory);
    CHECK(moat_depot_init(&depot, &bank.source, module_of_pc));
}

static uint32_t push_all(const uintptr_t *frames, size_t count) {
    uint32_t id = 0;
    for (size_t i = count; i-- > 0;)
        id = moat_depot_push(&depot, id, frames[i], false);
    return id;
}

MOAT_TEST(engine_depot, nothing_is_known_at_first) {
    fresh();
    struct moat_depot_node node;
    CHECK(!moat_depot_frame(&depot, 0, &node));
    for (uint32_t id = 1; id < 40000; id++)
        CHECK(!moat_depot_frame(&depot, id, &node));
    CHECK(!moat_depot_frame(&depot, UINT32_MAX, &node));
}

MOAT_TEST(engine_depot, equal_stacks_have_one_id_and_others_their_own) {
    fresh();
    static const uintptr_t a[] = {0x1111, 0x2222, 0x3333};
    static const uintptr_t b[] = {0x1112, 0x2222, 0x3333}; /* the innermost frame differs */
    static const uintptr_t c[] = {0x1111, 0x2222, 0x3334}; /* the outermost */
    static const uintptr_t d[] = {0x1111, 0x3333, 0x2222}; /* the order */
    uint32_t id = push_all(a, 3);
    CHECK(id != 0);
    uint32_t nodes = atomic_load(&depot.node_count);
    CHECK_EQ(nodes, 4);
    CHECK_EQ(push_all(a, 3), id);
    CHECK_EQ(atomic_load(&depot.node_count), nodes);
    uint32_t others[] = {push_all(b, 3), push_all(c, 3), push_all(d, 3), push_all(a, 2), push_all(a, 1)};
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        CHECK(others[i] != 0 && others[i] != id);
        for (size_t k = 0; k < i; k++)
            CHECK(others[k] != others[i]);
    }
    /* New nodes: b one, sharing two of a; c and d three each; 2222 under nothing for the fourth, 1111 for the fifth. */
    CHECK_EQ(atomic_load(&depot.node_count), 4 + 1 + 3 + 3 + 1 + 1);
    CHECK_EQ(atomic_load(&depot.lost), 0);
}

MOAT_TEST(engine_depot, a_stack_comes_out_as_it_went_in) {
    enum { DEPTH = 300 };
    fresh();
    uintptr_t frames[DEPTH];
    uint64_t random = 3;
    for (size_t i = 0; i < DEPTH; i++)
        frames[i] = (uintptr_t)random_next(&random) | 1;
    uint32_t id = push_all(frames, DEPTH);
    for (size_t i = 0; i < DEPTH; i++) {
        struct moat_depot_node node;
        CHECK(moat_depot_frame(&depot, id, &node));
        CHECK_EQ(node.pc, frames[i]);
        CHECK_EQ(node.module, module_of_pc(frames[i]));
        CHECK_EQ(node.incomplete, 0);
        id = node.parent;
    }
    CHECK_EQ(id, 0);
}

MOAT_TEST(engine_depot, incomplete_stacks_say_so) {
    fresh();
    uint32_t outer = moat_depot_push(&depot, 0, 0x5000, true);
    uint32_t inner = moat_depot_push(&depot, outer, 0x6000, false);
    struct moat_depot_node node;
    CHECK(moat_depot_frame(&depot, inner, &node));
    CHECK_EQ(node.incomplete, 0);
    CHECK(moat_depot_frame(&depot, outer, &node));
    CHECK_EQ(node.incomplete, 1);
}

MOAT_TEST(engine_depot, no_module_without_one_to_ask) {
    bank_open(&bank, memory, sizeof memory);
    CHECK(moat_depot_init(&depot, &bank.source, NULL));
    struct moat_depot_node node;
    CHECK(moat_depot_frame(&depot, moat_depot_push(&depot, 0, 0x77, false), &node));
    CHECK_EQ(node.module, MOAT_DEPOT_NO_MODULE);
}

/* Without memory for the table, stacks are none, never a crash. */
MOAT_TEST(engine_depot, without_buckets_every_stack_is_none) {
    bank_open(&bank, memory, sizeof memory);
    bank.fail_at = 0;
    CHECK(!moat_depot_init(&depot, &bank.source, NULL));
    CHECK_EQ(moat_depot_push(&depot, 0, 0x1234, false), 0);
    struct moat_depot_node node;
    CHECK(!moat_depot_frame(&depot, 1, &node));
}

/* The first segment only: what does not fit is counted, what is in it is still found. */
MOAT_TEST(engine_depot, a_full_depot_counts_what_is_lost) {
    fresh();
    bank.fail_at = 2; /* after the buckets and one segment */
    bank.fail_after = true;
    static uint32_t ids[SEGMENT_NODES];
    for (uint32_t i = 1; i < SEGMENT_NODES; i++) {
        ids[i] = moat_depot_push(&depot, i % 7 == 0 ? ids[i - 1] : 0, (uintptr_t)i * 16, false);
        CHECK(ids[i] != 0);
    }
    for (uint32_t i = 0; i < 1000; i++)
        CHECK_EQ(moat_depot_push(&depot, ids[1 + i % 50], (uintptr_t)(i + 1) * 16 + 1, false), 0);
    CHECK_EQ(atomic_load(&depot.lost), 1000);
    struct moat_depot_node node;
    for (uint32_t i = 1; i < SEGMENT_NODES; i++) {
        CHECK_EQ(moat_depot_push(&depot, i % 7 == 0 ? ids[i - 1] : 0, (uintptr_t)i * 16, false), ids[i]);
        CHECK(moat_depot_frame(&depot, ids[i], &node));
        CHECK_EQ(node.pc, (uintptr_t)i * 16);
    }
    CHECK(!moat_depot_frame(&depot, SEGMENT_NODES + 3, &node)); /* handed out, but never there */
    /* When there is memory again, further stacks are kept. */
    bank.fail_after = false;
    CHECK(moat_depot_push(&depot, 0, 0xabcde, false) != 0);
}

/* Random trees beside a list: as many nodes as there are different ones, each with the right parent. */
MOAT_TEST(engine_depot, random_trees_match_a_model) {
    enum { PUSHES = 60000, MODEL = 65536 };
    static struct {
        uint32_t parent, id;
        uintptr_t pc;
    } model[MODEL]; /* open addressing by parent and pc; id 0: free */
    fresh();
    memset(model, 0, sizeof model);
    uint64_t random = 9;
    uint32_t highest = 0;
    for (unsigned i = 0; i < PUSHES; i++) {
        uint32_t parent = (uint32_t)random_below(&random, highest + 1);
        uintptr_t pc = 0x1000 + random_below(&random, 16);
        size_t at = (parent * 31u + pc) % MODEL;
        while (model[at].id != 0 && (model[at].parent != parent || model[at].pc != pc))
            at = (at + 1) % MODEL;
        uint32_t id = moat_depot_push(&depot, parent, pc, false);
        CHECK(id != 0);
        if (model[at].id == 0) {
            CHECK(id > highest);
            highest = id;
            model[at].parent = parent;
            model[at].pc = pc;
            model[at].id = id;
        }
        CHECK_EQ(model[at].id, id);
        if (highest > MODEL / 2)
            break;
    }
    CHECK_EQ(atomic_load(&depot.node_count), highest + 1);
}
