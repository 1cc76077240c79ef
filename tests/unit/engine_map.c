/* Portable tests of the block map: ranges that come, go, straddle windows and are cut; scans beside a naive model.
 * May include: guard/engine/map.h, tests/unit/engine_world.h. The addresses are invented: the map never reads through
 * them. */
#include "tests/unit/engine_world.h"

#define GRANULE ((uintptr_t)1 << MOAT_GRANULE_SHIFT)
#define PAGE ((uintptr_t)4096)
/* Far from either end of the address space, at a window's start. */
#define BASE ((uintptr_t)0x40000000)

static _Alignas(64) unsigned char memory[32 * MIB];
static struct bank bank;
static struct moat_block_map map;
static struct moat_guard guards[3];

static void fresh(void) {
    bank_open(&bank, memory, sizeof memory);
    moat_map_init(&map, &bank.source);
}

static struct moat_guard *owner_of(uintptr_t address) {
    struct moat_span *span = moat_map_find(&map, address);
    return span == NULL ? NULL : atomic_load(&span->guard);
}

static void mark(uintptr_t user, bool live) {
    struct moat_span *span = moat_map_find(&map, user);
    CHECK(span != NULL);
    moat_bit_set(span->starts, moat_span_index(span, user));
    if (live)
        moat_bit_set(span->live, moat_span_index(span, user));
}

static bool marked(uintptr_t user) {
    struct moat_span *span = moat_map_find(&map, user);
    return span != NULL && moat_span_is_start(span, user);
}

static bool marked_live(uintptr_t user) {
    struct moat_span *span = moat_map_find(&map, user);
    return span != NULL && moat_span_is_start(span, user) && moat_bit(span->live, moat_span_index(span, user));
}

/* ---- ranges ------------------------------------------------------------------------------------------------------ */

MOAT_TEST(engine_map, empty_map_knows_no_address) {
    fresh();
    uint64_t random = 1;
    CHECK(moat_map_find(&map, 0) == NULL);
    CHECK(moat_map_find(&map, UINTPTR_MAX) == NULL);
    for (unsigned i = 0; i < 10000; i++)
        CHECK(moat_map_find(&map, (uintptr_t)random_next(&random)) == NULL);
    CHECK(moat_map_next(&map, &guards[0], 0) == NULL);
    CHECK_EQ(bank.calls, 0); /* a look takes no memory */
}

MOAT_TEST(engine_map, finds_a_range_and_nothing_beside_it) {
    fresh();
    CHECK(moat_map_add(&map, &guards[0], BASE + PAGE, 3 * PAGE));
    CHECK(owner_of(BASE + PAGE - 1) == NULL);
    CHECK(owner_of(BASE + PAGE) == &guards[0]);
    CHECK(owner_of(BASE + 4 * PAGE - 1) == &guards[0]);
    CHECK(owner_of(BASE + 4 * PAGE) == NULL);
    CHECK(owner_of(BASE + PAGE + MOAT_WINDOW_BYTES) == NULL);
    CHECK(owner_of(BASE + PAGE - MOAT_WINDOW_BYTES) == NULL);
}

MOAT_TEST(engine_map, ranges_straddle_windows) {
    fresh();
    uintptr_t start = BASE + MOAT_WINDOW_BYTES - 2 * PAGE;
    size_t size = 2 * MOAT_WINDOW_BYTES + 5 * PAGE;
    CHECK(moat_map_add(&map, &guards[1], start, size));
    CHECK(owner_of(start - 1) == NULL);
    for (uintptr_t at = start; at < start + size; at += PAGE) {
        CHECK(owner_of(at) == &guards[1]);
        CHECK(owner_of(at + PAGE - 1) == &guards[1]);
    }
    CHECK(owner_of(start + size) == NULL);
    /* One span to each window touched, in order and without a gap. */
    unsigned spans = 0;
    uintptr_t at = start;
    for (struct moat_span *span; (span = moat_map_next(&map, &guards[1], at)) != NULL; spans++) {
        CHECK_EQ(moat_span_start(span), at);
        at = moat_span_end(span);
    }
    CHECK_EQ(at, start + size);
    CHECK_EQ(spans, 4);
}

MOAT_TEST(engine_map, last_window_of_the_address_space) {
    fresh();
    uintptr_t top = sizeof(void *) == 8 ? (uintptr_t)((UINT64_C(1) << 48) - PAGE) : (uintptr_t)0 - PAGE;
    CHECK(moat_map_add(&map, &guards[0], top, PAGE));
    CHECK(owner_of(top) == &guards[0]);
    CHECK(owner_of(top + PAGE - 1) == &guards[0]);
    CHECK(owner_of(top + PAGE) == NULL);
    CHECK(moat_map_next(&map, &guards[0], 0) == moat_map_find(&map, top));
    CHECK(moat_map_remove(&map, &guards[0], top, PAGE));
    CHECK(owner_of(top) == NULL);
    if (sizeof(void *) == 8) {
        CHECK(!moat_map_add(&map, &guards[0], top + PAGE, PAGE)); /* no user-space address */
        CHECK(owner_of(top + PAGE) == NULL);
    }
}

MOAT_TEST(engine_map, removed_ranges_are_reused_clean) {
    fresh();
    for (unsigned round = 0; round < 100; round++) {
        struct moat_guard *guard = &guards[round % 3];
        uintptr_t start = BASE + round % 7 * 16 * PAGE;
        CHECK(moat_map_add(&map, guard, start, 64 * PAGE));
        CHECK(owner_of(start) == guard);
        CHECK(!marked(start + 5 * GRANULE));
        CHECK(!marked_live(start + 5 * GRANULE));
        mark(start + 5 * GRANULE, true);
        CHECK(moat_map_remove(&map, guard, start, 64 * PAGE));
        CHECK(owner_of(start) == NULL);
    }
    CHECK_EQ(bank.pieces, 2); /* a leaf, and one record for all rounds */
}

MOAT_TEST(engine_map, another_guards_range_is_not_removed) {
    fresh();
    CHECK(moat_map_add(&map, &guards[0], BASE, PAGE));
    CHECK(moat_map_remove(&map, &guards[1], BASE, PAGE));
    CHECK(owner_of(BASE) == &guards[0]);
}

MOAT_TEST(engine_map, ranges_of_several_guards_share_a_window) {
    fresh();
    for (unsigned i = 0; i < 9; i++)
        CHECK(moat_map_add(&map, &guards[i % 3], BASE + i * 4 * PAGE, 4 * PAGE));
    for (unsigned i = 0; i < 9; i++) {
        CHECK(owner_of(BASE + i * 4 * PAGE) == &guards[i % 3]);
        CHECK(owner_of(BASE + i * 4 * PAGE + 4 * PAGE - 1) == &guards[i % 3]);
    }
    for (unsigned g = 0; g < 3; g++) {
        uintptr_t at = 0;
        for (unsigned i = g; i < 9; i += 3) {
            struct moat_span *span = moat_map_next(&map, &guards[g], at);
            CHECK(span != NULL);
            CHECK_EQ(moat_span_start(span), BASE + i * 4 * PAGE);
            at = moat_span_end(span);
        }
        CHECK(moat_map_next(&map, &guards[g], at) == NULL);
    }
}

MOAT_TEST(engine_map, failing_memory_adds_nothing) {
    for (uint64_t fail_at = 0; fail_at < 5; fail_at++) {
        fresh();
        bank.fail_at = fail_at;
        uintptr_t start = BASE + MOAT_WINDOW_BYTES - PAGE; /* two windows: a leaf at most and two records */
        bool added = moat_map_add(&map, &guards[0], start, 2 * PAGE);
        CHECK_EQ(added, fail_at >= 3);
        CHECK((owner_of(start) != NULL) == added);
        CHECK((owner_of(start + PAGE) != NULL) == added);
        bank.fail_at = NEVER;
        CHECK(added || moat_map_add(&map, &guards[0], start, 2 * PAGE));
        CHECK(owner_of(start) == &guards[0] && owner_of(start + PAGE) == &guards[0]);
    }
}

/* ---- cutting: a heap gives back the tail, the head or the middle of what it was given ---------------------------- */

static void check_cut(uintptr_t start, size_t size, uintptr_t cut_start, uintptr_t cut_end) {
    fresh();
    CHECK(moat_map_add(&map, &guards[0], start, size));
    /* A block in every page that stays; every third is not live. */
    for (uintptr_t page = start; page < start + size; page += PAGE) {
        if (page < cut_start || page >= cut_end)
            mark(page + (page / PAGE % 200 + 1) * GRANULE, page / PAGE % 3 != 0);
    }
    CHECK(moat_map_remove(&map, &guards[0], cut_start, cut_end - cut_start));
    for (uintptr_t page = start; page < start + size; page += PAGE) {
        uintptr_t user = page + (page / PAGE % 200 + 1) * GRANULE;
        bool stays = page < cut_start || page >= cut_end;
        CHECK(owner_of(page) == (stays ? &guards[0] : NULL));
        CHECK(owner_of(page + PAGE - 1) == (stays ? &guards[0] : NULL));
        CHECK_EQ(marked(user), stays);
        CHECK_EQ(marked_live(user), stays && page / PAGE % 3 != 0);
    }
    /* The hole can be another guard's, and everything is visited in order. */
    CHECK(moat_map_add(&map, &guards[1], cut_start, cut_end - cut_start));
    uintptr_t at = 0;
    size_t visited = 0;
    for (struct moat_span *span; (span = moat_map_next(&map, &guards[0], at)) != NULL; at = moat_span_end(span)) {
        CHECK(moat_span_start(span) >= at);
        visited += moat_span_size(span);
    }
    CHECK_EQ(visited, size - (cut_end - cut_start));
    for (uintptr_t page = cut_start; page < cut_end; page += PAGE)
        CHECK(owner_of(page) == &guards[1] && !marked(page + (page / PAGE % 200 + 1) * GRANULE));
}

MOAT_TEST(engine_map, any_part_of_a_range_can_be_removed) {
    size_t size = 40 * PAGE;
    check_cut(BASE, size, BASE, BASE + size);
    check_cut(BASE, size, BASE + 30 * PAGE, BASE + size);
    check_cut(BASE, size, BASE, BASE + 16 * PAGE);
    check_cut(BASE, size, BASE + 7 * PAGE, BASE + 8 * PAGE);
    check_cut(BASE + PAGE, size, BASE + PAGE, BASE + 2 * PAGE);
    uintptr_t straddling = BASE + MOAT_WINDOW_BYTES - 20 * PAGE;
    for (unsigned from = 0; from < 40; from += 5) {
        for (unsigned to = from + 5; to <= 40; to += 5)
            check_cut(straddling, size, straddling + from * PAGE, straddling + to * PAGE);
    }
    check_cut(BASE, 3 * MOAT_WINDOW_BYTES, BASE + PAGE, BASE + 3 * MOAT_WINDOW_BYTES - PAGE);
    check_cut(BASE, 3 * MOAT_WINDOW_BYTES, BASE, BASE + 2 * MOAT_WINDOW_BYTES + PAGE);
}

MOAT_TEST(engine_map, removing_without_memory_changes_nothing) {
    fresh();
    CHECK(moat_map_add(&map, &guards[0], BASE, 40 * PAGE));
    mark(BASE + 39 * PAGE, true);
    bank.fail_at = 0;
    bank.fail_after = true;
    CHECK(!moat_map_remove(&map, &guards[0], BASE, 16 * PAGE)); /* what is left needs a record */
    CHECK(owner_of(BASE) == &guards[0]);
    CHECK(marked_live(BASE + 39 * PAGE));
    CHECK(moat_map_remove(&map, &guards[0], BASE + 20 * PAGE, 20 * PAGE)); /* a tail needs none */
    CHECK(owner_of(BASE + 20 * PAGE) == NULL);
}

/* Random adding, removing and cutting of pages beside an array that says whose each page is. */
MOAT_TEST(engine_map, random_ranges_match_a_model) {
    enum { PAGES = 2500, STEPS = 3000 };
    static unsigned char owner[PAGES];
    uint64_t random = 7;
    fresh();
    memset(owner, 0, sizeof owner);
    unsigned step = 0;
    for (; step < STEPS; step++) {
        size_t from = random_below(&random, PAGES);
        size_t count = 1 + random_below(&random, random_below(&random, 8) == 0 ? PAGES - from : 20);
        count = count < PAGES - from ? count : PAGES - from;
        size_t same = 1;
        while (same < count && owner[from + same] == owner[from])
            same++;
        unsigned char who = owner[from];
        if (who == 0) {
            who = (unsigned char)(1 + random_below(&random, 3));
            bool added = moat_map_add(&map, &guards[who - 1], BASE + from * PAGE, same * PAGE);
            if (!added)
                break; /* the bank is empty */
            memset(owner + from, who, same);
        } else if (moat_map_remove(&map, &guards[who - 1], BASE + from * PAGE, same * PAGE)) {
            memset(owner + from, 0, same);
        }
        for (unsigned probe = 0; probe < 50; probe++) {
            size_t page = random_below(&random, PAGES);
            struct moat_guard *expected = owner[page] == 0 ? NULL : &guards[owner[page] - 1];
            CHECK(owner_of(BASE + page * PAGE + random_below(&random, PAGE)) == expected);
        }
    }
    CHECK(step > STEPS / 2);
    for (unsigned g = 0; g < 3; g++) {
        size_t pages = 0, expected = 0;
        for (size_t page = 0; page < PAGES; page++)
            expected += owner[page] == g + 1;
        uintptr_t at = 0;
        for (struct moat_span *span; (span = moat_map_next(&map, &guards[g], at)) != NULL; at = moat_span_end(span)) {
            CHECK(moat_span_start(span) >= at);
            pages += moat_span_size(span) / PAGE;
        }
        CHECK_EQ(pages, expected);
    }
}

/* ---- scans ------------------------------------------------------------------------------------------------------- */

#define SCAN_GRANULES 700u

static uintptr_t naive_below(const bool *starts, uintptr_t base, uintptr_t address, size_t most) {
    for (size_t i = (address - base) / GRANULE + 1; i-- > 0;) {
        uintptr_t user = base + i * GRANULE;
        if (starts[i])
            return address - user <= most ? user : 0;
    }
    return 0;
}

static uintptr_t naive_above(const bool *starts, uintptr_t base, uintptr_t address) {
    for (size_t i = 0; i < SCAN_GRANULES; i++) {
        if (starts[i] && base + i * GRANULE >= address)
            return base + i * GRANULE;
    }
    return 0;
}

MOAT_TEST(engine_map, scans_match_a_naive_model) {
    uint64_t random = 8;
    for (unsigned round = 0; round < 60; round++) {
        static bool starts[SCAN_GRANULES];
        uintptr_t base = BASE + round * 16 * GRANULE;
        size_t density = (size_t)1 << round % 10; /* from every granule to one in 512 */
        fresh();
        CHECK(moat_map_add(&map, &guards[0], base, SCAN_GRANULES * GRANULE));
        for (size_t i = 0; i < SCAN_GRANULES; i++) {
            starts[i] = random_below(&random, density) == 0;
            if (starts[i])
                mark(base + i * GRANULE, false);
        }
        struct moat_span *span = moat_map_find(&map, base);
        for (uintptr_t address = base; address < base + SCAN_GRANULES * GRANULE;
             address += 1 + random_below(&random, 9)) {
            size_t most = random_below(&random, 2 * GRANULE << round % 10);
            CHECK_EQ(moat_span_start_below(span, address, most), naive_below(starts, base, address, most));
            CHECK_EQ(moat_span_start_above(span, address), naive_above(starts, base, address));
            bool at_start = (address - base) % GRANULE == 0 && starts[(address - base) / GRANULE];
            CHECK_EQ(moat_span_is_start(span, address), at_start);
        }
    }
}

MOAT_TEST(engine_map, scans_of_an_unbounded_length_reach_the_ends) {
    fresh();
    CHECK(moat_map_add(&map, &guards[0], BASE, MOAT_WINDOW_BYTES));
    struct moat_span *span = moat_map_find(&map, BASE);
    CHECK_EQ(moat_span_start_below(span, BASE + MOAT_WINDOW_BYTES - 1, SIZE_MAX), 0);
    CHECK_EQ(moat_span_start_above(span, BASE), 0);
    mark(BASE, true);
    CHECK_EQ(moat_span_start_below(span, BASE + MOAT_WINDOW_BYTES - 1, SIZE_MAX), BASE);
    CHECK_EQ(moat_span_start_above(span, BASE), BASE);
    CHECK_EQ(moat_span_start_above(span, BASE + 1), 0);
    mark(BASE + MOAT_WINDOW_BYTES - GRANULE, true);
    CHECK_EQ(moat_span_start_above(span, BASE + 1), BASE + MOAT_WINDOW_BYTES - GRANULE);
    CHECK_EQ(moat_span_start_above(span, BASE + MOAT_WINDOW_BYTES - GRANULE + 1), 0);
}
