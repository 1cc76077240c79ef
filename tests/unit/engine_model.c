/* Portable property test of the guard: random programs that also have bugs, beside an oracle that says what must be
 * found, when, of which kind and at which offsets, and that nothing else may be.
 * May include: tests/unit/engine_world.h.
 *
 * The oracle knows nothing of secrets, sums and zones: it keeps a copy of what lay around each block when it was made,
 * compares memory with that copy, and knows which headers it has flipped bits in. */
#include "tests/unit/engine_world.h"

#define SLOTS 500u
#define COPY_BYTES 256u
#define QUEUE 4096u
#define OPERATIONS 320000u
#define OPERATIONS_OF_A_WORLD 2000u
#define NO_SLOT SLOTS
#define FRONT ((int64_t)MOAT_FRONT_BYTES)

enum where { GONE, LIVE, HELD, DEAD /* freed and retired: never used again */ };

struct block {
    enum where where;
    unsigned char *user;
    size_t size, rear;
    unsigned family;
    uint64_t sequence;
    uint32_t stack, free_stack;
    unsigned char seed;
    bool header_bad; /* bits of the header were flipped */
    bool reported;   /* found damaged, or run over by a bug that was */
    bool size_lost;  /* it was reported with its header gone */
    size_t run_into; /* slot of the block whose header this one's overflow runs into */
    size_t run_from;
    int64_t run_last;
    unsigned char front_copy[MOAT_FRONT_BYTES];
    unsigned char rear_copy[COPY_BYTES];
};

struct queue {
    size_t slot[QUEUE];
    size_t head, count;
};

static struct world world;
static struct block blocks[SLOTS];
static struct queue near, far;
static uint64_t random_state;
static uint64_t live_blocks, live_bytes, frees, allocations, reported;
static bool ran; /* an overflow went over one of the heap's own words */

static size_t below(size_t limit) { return random_below(&random_state, limit); }

static size_t queue_take(struct queue *queue) {
    CHECK(queue->count != 0);
    size_t slot = queue->slot[queue->head % QUEUE];
    queue->head++;
    queue->count--;
    return slot;
}

static void queue_put(struct queue *queue, size_t slot) {
    CHECK(queue->count < QUEUE);
    queue->slot[(queue->head + queue->count++) % QUEUE] = slot;
}

/* ---- what is expected -------------------------------------------------------------------------------------------- */

struct expected {
    size_t count;
    struct {
        unsigned kind;
        size_t slot;
        int64_t first, last;
        uint64_t bad_count;
        bool lost;
    } item[2];
};

static void expect(struct expected *expected, unsigned kind, size_t slot, int64_t first, int64_t last,
                   uint64_t bad_count) {
    size_t at = expected->count++;
    expected->item[at].kind = kind;
    expected->item[at].slot = slot;
    expected->item[at].first = first;
    expected->item[at].last = last;
    expected->item[at].bad_count = bad_count;
    expected->item[at].lost = false;
}

struct difference {
    int64_t first, last;
    uint64_t count;
};

static void compare(struct difference *difference, int64_t offset, unsigned char found, unsigned char right) {
    if (found != right) {
        difference->first = difference->count++ == 0 ? offset : difference->first;
        difference->last = offset;
    }
}

static struct difference front_difference(const struct block *block) {
    struct difference difference = {0, 0, 0};
    for (int64_t i = -FRONT; i < 0; i++)
        compare(&difference, i, block->user[i], block->front_copy[FRONT + i]);
    return difference;
}

static struct difference rear_difference(const struct block *block) {
    struct difference difference = {0, 0, 0};
    for (size_t i = 0; i < block->rear; i++)
        compare(&difference, (int64_t)(block->size + i), block->user[block->size + i], block->rear_copy[i]);
    return difference;
}

static void mark_reported(struct block *block) {
    block->reported = true;
    reported++;
}

static void expect_run(struct expected *expected, size_t culprit) {
    struct block *block = &blocks[culprit];
    struct block *next = &blocks[block->run_into];
    struct difference rear = rear_difference(block);
    expect(expected, block->where == LIVE ? MOAT_HEAP_BUFFER_OVERFLOW : MOAT_HEAP_USE_AFTER_FREE, culprit, rear.first,
           block->run_last, rear.count + (uint64_t)(block->run_last - rear.last));
    mark_reported(block);
    mark_reported(next);
    next->size_lost = true;
}

/* Somebody looks at this block: what must be found, and that it was. */
static struct expected examine(size_t slot) {
    struct expected expected = {.count = 0};
    struct block *block = &blocks[slot];
    if (block->reported)
        return expected;
    if (block->run_from != NO_SLOT || block->run_into != NO_SLOT) {
        expect_run(&expected, block->run_from != NO_SLOT ? block->run_from : slot);
        return expected;
    }
    struct difference front = front_difference(block);
    struct difference rear = rear_difference(block);
    if (block->header_bad) {
        bool under = front.count != 0;
        int64_t last = under ? front.last : -FRONT - 1;
        expect(&expected, under && block->where == LIVE ? MOAT_HEAP_BUFFER_UNDERFLOW : MOAT_CORRUPTED_METADATA, slot,
               -48, last, (uint64_t)(last + 49));
        expected.item[0].lost = true;
        block->size_lost = true;
    } else if (block->where == LIVE) {
        if (rear.count != 0)
            expect(&expected, MOAT_HEAP_BUFFER_OVERFLOW, slot, rear.first, rear.last, rear.count);
        if (front.count != 0)
            expect(&expected, MOAT_HEAP_BUFFER_UNDERFLOW, slot, front.first, front.last, front.count);
    } else {
        struct difference all = front;
        for (size_t i = 0; i < block->size; i++)
            compare(&all, (int64_t)i, block->user[i], 0xdf);
        for (size_t i = 0; i < block->rear; i++)
            compare(&all, (int64_t)(block->size + i), block->user[block->size + i], block->rear_copy[i]);
        if (all.count != 0)
            expect(&expected, MOAT_HEAP_USE_AFTER_FREE, slot, all.first, all.last, all.count);
    }
    if (expected.count != 0)
        mark_reported(block);
    return expected;
}

static void check_facts(const struct moat_finding *finding, const struct block *block) {
    CHECK_EQ(finding->block.address, (uintptr_t)block->user);
    if (finding->header_lost != 0)
        return;
    CHECK_EQ(finding->block.size_bytes, block->size_lost ? finding->block.size_bytes : block->size);
    if (!block->size_lost) {
        CHECK_EQ(finding->block.sequence, block->sequence);
        CHECK_EQ(finding->block.allocation_stack, block->stack);
        CHECK_EQ(finding->block.free_stack, block->free_stack);
        CHECK_EQ(finding->block.family, block->family);
    }
}

static void check_found(const struct moat_finding *findings, size_t count, const struct expected *expected,
                        unsigned when) {
    CHECK_EQ(count, expected->count);
    for (size_t i = 0; i < count; i++) {
        CHECK_EQ(findings[i].kind, expected->item[i].kind);
        CHECK_EQ(findings[i].when, when);
        CHECK_EQ(findings[i].header_lost, expected->item[i].lost);
        CHECK_EQ(findings[i].first, expected->item[i].first);
        CHECK_EQ(findings[i].last, expected->item[i].last);
        CHECK_EQ(findings[i].bad_count, expected->item[i].bad_count);
        CHECK_EQ(findings[i].bad_by, world.event);
        check_facts(&findings[i], &blocks[expected->item[i].slot]);
    }
}

static void check_counts(void) {
    CHECK_EQ(world.guard.counts.live_blocks, live_blocks);
    CHECK_EQ(world.guard.counts.live_bytes, live_bytes);
    CHECK_EQ(world.guard.counts.frees, frees);
    CHECK_EQ(world.guard.counts.allocations, allocations);
    CHECK_EQ(world.guard.counts.retired_blocks, reported);
    CHECK_EQ(world.guard.near.count, near.count);
    CHECK_EQ(world.guard.far.count, far.count);
}

/* ---- the program's operations ------------------------------------------------------------------------------------ */

static void fill(struct block *block, size_t from) {
    for (size_t i = from; i < block->size; i++)
        block->user[i] = (unsigned char)(block->seed + i * 7);
}

static void check_filled(const struct block *block, size_t until) {
    for (size_t i = 0; i < until; i++)
        CHECK_EQ(block->user[i], (unsigned char)(block->seed + i * 7));
}

static void copy_surroundings(struct block *block) {
    block->rear = world_rear(&world, block->user);
    CHECK(block->rear >= world.config.rear_bytes && block->rear <= COPY_BYTES);
    memcpy(block->front_copy, block->user - MOAT_FRONT_BYTES, MOAT_FRONT_BYTES);
    memcpy(block->rear_copy, block->user + block->size, block->rear);
}

static size_t victim_slots[MOAT_VICTIMS_MAX];
static struct expected victim_expected[MOAT_VICTIMS_MAX];

/* Which blocks are leaving, and what must be found of them: asked before they are looked at, since afterwards their
 * memory may be the heap's again. */
static void victims_chosen(void) {
    for (size_t i = 0; i < world.victim_count; i++) {
        victim_slots[i] = NO_SLOT;
        while (victim_slots[i] == NO_SLOT) {
            if (near.count != 0 && blocks[near.slot[near.head % QUEUE]].user == world.victims[i].user)
                victim_slots[i] = queue_take(&near);
            else if (far.count != 0 && blocks[far.slot[far.head % QUEUE]].user == world.victims[i].user)
                victim_slots[i] = queue_take(&far);
            else
                queue_put(&far, queue_take(&near)); /* the oldest went on into the far tier */
        }
        victim_expected[i] = examine(victim_slots[i]);
    }
}

/* What was found of the victims of the call just made. */
static void settle_victims(void) {
    size_t found = 0;
    for (size_t i = 0; i < world.victim_count; i++) {
        const struct expected *expected = &victim_expected[i];
        CHECK(found + expected->count <= world.victim_findings_count);
        check_found(world.victim_findings + found, expected->count, expected, MOAT_WHEN_QUARANTINE);
        found += expected->count;
        blocks[victim_slots[i]].where = blocks[victim_slots[i]].reported ? DEAD : GONE;
    }
    CHECK_EQ(found, world.victim_findings_count);
}

static void drain_step(void) {
    struct moat_call call = world_call(&world, MOAT_FAMILY_MALLOC, MOAT_WHEN_CALL);
    world.victim_count = moat_guard_pop(&world.guard, 0, true, world.victims);
    world_victims(&world, &call);
    settle_victims();
}

static size_t slot_find(enum where where, bool any) {
    size_t from = below(SLOTS);
    for (size_t i = 0; i < SLOTS; i++) {
        size_t slot = (from + i) % SLOTS;
        if (blocks[slot].where == where || (any && blocks[slot].where != GONE))
            return slot;
    }
    return NO_SLOT;
}

static size_t random_size(void) {
    switch (below(20)) {
    case 0:
        return below(20000);
    case 1:
    case 2:
        return below(6000);
    case 3:
    case 4:
    case 5:
        return below(1024);
    default:
        return below(64);
    }
}

static size_t do_take(size_t size, unsigned family, size_t alignment) {
    size_t slot = slot_find(GONE, false);
    if (slot == NO_SLOT)
        return NO_SLOT;
    unsigned char *user = world_take_as(&world, size, alignment, family);
    while (user == NULL && near.count + far.count != 0) {
        drain_step();
        slot = slot_find(GONE, false);
        user = world_take_as(&world, size, alignment, family);
    }
    if (user == NULL)
        return NO_SLOT;
    struct block *block = &blocks[slot];
    *block = (struct block){.where = LIVE,
                            .user = user,
                            .size = size,
                            .family = family,
                            .sequence = world.event,
                            .stack = (uint32_t)world.event + 1000000u,
                            .seed = (unsigned char)below(256),
                            .run_into = NO_SLOT,
                            .run_from = NO_SLOT};
    CHECK_EQ((uintptr_t)user % alignment, 0);
    for (size_t i = 0; i < size; i++)
        CHECK_EQ(user[i], MOAT_FILL_BYTE);
    copy_surroundings(block);
    for (size_t i = 0; i < SLOTS; i++) {
        const struct block *other = &blocks[i];
        if (i != slot && other->where != GONE)
            CHECK(user - MOAT_LEAD_BYTES >= other->user + other->size + other->rear ||
                  other->user - MOAT_LEAD_BYTES >= user + size + block->rear);
    }
    fill(block, 0);
    allocations++;
    live_blocks++;
    live_bytes += size;
    return slot;
}

/* The program lets go of a live block, damaged or not. */
static void do_free(size_t slot, unsigned family, unsigned when) {
    struct block *block = &blocks[slot];
    check_filled(block, block->run_from == NO_SLOT ? block->size : 0);
    bool was_reported = block->reported;
    bool fits = family == block->family || (family == MOAT_FAMILY_MALLOC && block->family == MOAT_FAMILY_ALIGNED);
    struct expected expected = examine(slot);
    bool released = world_free_as(&world, block->user, family, when);
    bool damaged = was_reported || expected.count != 0;
    CHECK_EQ(released, !damaged);
    frees++;
    live_blocks--;
    if (damaged) {
        check_found(world.findings.item, world.findings.count, &expected, when);
        live_bytes -= block->size_lost ? 0 : block->size;
        block->where = DEAD;
        return;
    }
    CHECK_EQ(world.findings.count, fits ? 0 : 1);
    if (!fits) {
        CHECK_EQ(world.findings.item[0].kind, MOAT_ALLOC_DEALLOC_MISMATCH);
        check_facts(&world.findings.item[0], block);
    }
    live_bytes -= block->size;
    block->free_stack = (uint32_t)world.event + 1000000u;
    block->where = HELD;
    /* It came in behind the victims that left, unless there is no quarantine: then it left at once. */
    if (world.guard.near.capacity == 0)
        block->where = GONE;
    settle_victims();
    if (block->where == HELD)
        queue_put(&near, slot);
    while (near.count > world.guard.near.count)
        queue_put(&far, queue_take(&near));
}

static void do_resize(size_t slot) {
    struct block *block = &blocks[slot];
    size_t size = below(3) == 0 ? random_size() : block->size + below(block->size / 6 + 20);
    struct moat_call call = world_call(&world, MOAT_FAMILY_MALLOC, MOAT_WHEN_REALLOC);
    size_t old_bytes = 0;
    bool whole = !block->reported && !block->header_bad && block->run_from == NO_SLOT &&
                 front_difference(block).count == 0 && rear_difference(block).count == 0;
    CHECK_EQ(moat_guard_prove(&world.guard, block->user, &call, &old_bytes), whole);
    if (!whole) {
        do_free(slot, MOAT_FAMILY_MALLOC, MOAT_WHEN_REALLOC);
        return;
    }
    CHECK_EQ(old_bytes, block->size);
    if (moat_guard_resize(&world.guard, block->user, size, &call)) {
        CHECK(size > 1024 && old_bytes > 1024 && !world.config.realloc_always_moves);
        check_filled(block, size < old_bytes ? size : old_bytes);
        live_bytes = live_bytes + size - old_bytes;
        block->size = size;
        block->stack = call.stack;
        copy_surroundings(block);
        fill(block, size < old_bytes ? size : old_bytes);
        return;
    }
    size_t moved = do_take(size, MOAT_FAMILY_MALLOC, 1);
    if (moved == NO_SLOT)
        return;
    memcpy(blocks[moved].user, block->user, size < old_bytes ? size : old_bytes);
    blocks[moved].seed = block->seed;
    fill(&blocks[moved], 0);
    check_filled(block, old_bytes);
    /* Draining for the new block may have looked at the old one, as the one whose overflow ran over a victim: not so
     * here. */
    do_free(slot, MOAT_FAMILY_MALLOC, MOAT_WHEN_REALLOC);
}

/* ---- the program's bugs ------------------------------------------------------------------------------------------ */

/* The block right behind this one, with nothing but the heap's word between them. */
static size_t adjacent_behind(size_t slot) {
    uintptr_t end = (uintptr_t)blocks[slot].user + blocks[slot].size + blocks[slot].rear;
    for (size_t i = 0; i < SLOTS; i++) {
        if (blocks[i].where != GONE && (uintptr_t)blocks[i].user == end + sizeof(uintptr_t) + MOAT_LEAD_BYTES)
            return i;
    }
    return NO_SLOT;
}

static size_t adjacent_before(size_t slot) {
    for (size_t i = 0; i < SLOTS; i++) {
        if (blocks[i].where != GONE && adjacent_behind(i) == slot)
            return i;
    }
    return NO_SLOT;
}

static bool last_rear_byte_bad(size_t slot) {
    const struct block *block = &blocks[slot];
    return block->user[block->size + block->rear - 1] != block->rear_copy[block->rear - 1];
}

static void write_bytes(struct block *block, int64_t from, int64_t to) {
    unsigned char value = (unsigned char)(below(3) == 0 ? 0 : below(256));
    for (int64_t i = from; i < to; i++)
        block->user[i] = value;
}

static void bug_overflow(size_t slot) {
    struct block *block = &blocks[slot];
    int64_t from = (int64_t)(block->size + (below(3) == 0 ? below(block->rear) : 0));
    int64_t end = (int64_t)(block->size + block->rear);
    int64_t to = from + 1 + (int64_t)below(9);
    size_t next = adjacent_behind(slot);
    to = to < end ? to : end;
    if (to == end && next != NO_SLOT && blocks[next].header_bad)
        return; /* whose fault the smashed header is could not be told */
    write_bytes(block, from, to);
}

static void bug_underflow(size_t slot) {
    /* Not to the zone's far end: a front zone bad throughout is read as an overflow that came from before. */
    int64_t from = -1 - (int64_t)below(15);
    int64_t to = from + 1 + (int64_t)below(9);
    write_bytes(&blocks[slot], from, to < 0 ? to : 0);
}

static void bug_header(size_t slot) {
    struct block *block = &blocks[slot];
    size_t before = adjacent_before(slot);
    if (block->header_bad || block->reported || block->run_from != NO_SLOT || block->run_into != NO_SLOT ||
        (before != NO_SLOT && last_rear_byte_bad(before)))
        return;
    /* Up to 16 adjacent bits, the lowest of them for certain. */
    size_t bit = below(8 * MOAT_HEADER_BYTES - 16);
    uint32_t pattern = (uint32_t)(below(0x8000) << 1 | 1) << bit % 8;
    for (unsigned i = 0; i < 3; i++)
        block->user[-48 + (int64_t)(bit / 8 + i)] ^= (unsigned char)(pattern >> 8 * i);
    block->header_bad = true;
}

static void bug_write_after_free(size_t slot) {
    struct block *block = &blocks[slot];
    int64_t end = (int64_t)(block->size + block->rear) - 1; /* not to the zone's end, as above */
    int64_t from = -15 + (int64_t)below((size_t)(end + 15));
    int64_t to = from + 1 + (int64_t)below(20);
    write_bytes(block, from, to < end ? to : end);
}

/* An overflow through the rear zone and the heap's word into the next block's header. */
static void bug_run(size_t slot) {
    struct block *block = &blocks[slot];
    size_t next = adjacent_behind(slot);
    if (next == NO_SLOT)
        return;
    size_t both[2] = {slot, next};
    for (unsigned i = 0; i < 2; i++) {
        const struct block *one = &blocks[both[i]];
        if (one->where == DEAD || one->reported || one->header_bad || one->run_from != NO_SLOT ||
            one->run_into != NO_SLOT || front_difference(one).count != 0 || rear_difference(one).count != 0)
            return;
        for (size_t k = 0; one->where == HELD && k < one->size; k++) {
            if (one->user[k] != 0xdf)
                return;
        }
    }
    int64_t from = (int64_t)(block->size + below(block->rear));
    int64_t to = (int64_t)(block->size + block->rear + sizeof(uintptr_t) + 1 + below(MOAT_HEADER_BYTES));
    for (int64_t i = from; i < to; i++)
        block->user[i] ^= (unsigned char)(1 + below(255));
    block->run_into = next;
    blocks[next].run_from = slot;
    block->run_last = (int64_t)((uintptr_t)blocks[next].user - (uintptr_t)block->user) - 48;
    ran = true;
}

static void bug_double_free(size_t slot) {
    const struct block *block = &blocks[slot];
    world_free_as(&world, block->user, (unsigned)below(4), MOAT_WHEN_FREE);
    CHECK_EQ(world.findings.count, 1);
    CHECK_EQ(world.findings.item[0].kind, MOAT_DOUBLE_FREE);
    CHECK_EQ(world.findings.item[0].address, (uintptr_t)block->user);
    bool lost = (block->header_bad || block->run_from != NO_SLOT) && !block->reported;
    CHECK_EQ(world.findings.item[0].header_lost, lost);
    check_facts(&world.findings.item[0], block);
}

static void bug_wild_free(size_t slot) {
    const struct block *block = &blocks[slot];
    uintptr_t address = (uintptr_t)&world;
    bool inside = below(4) != 0;
    if (inside) {
        /* A size in a smashed header is not believed, so the pointer could not be placed. */
        if (block->size < 2 || block->size_lost || block->header_bad || block->run_from != NO_SLOT)
            return;
        address = (uintptr_t)block->user + 1 + below(block->size - 1);
    }
    CHECK(!world_free(&world, (void *)address));
    CHECK_EQ(world.findings.count, 1);
    const struct moat_finding *finding = &world.findings.item[0];
    CHECK_EQ(finding->kind, MOAT_INVALID_FREE);
    CHECK_EQ(finding->address, address);
    CHECK_EQ(finding->block.address, inside ? (uintptr_t)block->user : 0);
    CHECK_EQ(finding->place, inside ? MOAT_PLACE_BLOCK : MOAT_PLACE_UNKNOWN);
    CHECK_EQ(finding->first, inside ? (int64_t)(address - (uintptr_t)block->user) : 0);
}

/* ---- a full check ------------------------------------------------------------------------------------------------ */

static void do_sweep(void) {
    struct moat_call call = world_call(&world, MOAT_FAMILY_MALLOC, MOAT_WHEN_CHECK);
    static size_t order[SLOTS];
    size_t count = 0;
    for (size_t i = 0; i < SLOTS; i++) {
        if (blocks[i].where == GONE)
            continue;
        size_t at = count++;
        for (; at > 0 && blocks[order[at - 1]].user > blocks[i].user; at--)
            order[at] = order[at - 1];
        order[at] = i;
    }
    uintptr_t cursor = 0;
    size_t next = 0;
    for (bool more = true; more;) {
        more = moat_guard_sweep(&world.guard, &cursor, &call, &world.findings);
        struct expected expected = {.count = 0};
        while (world.findings.count != 0 && expected.count == 0 && next < count)
            expected = examine(order[next++]);
        check_found(world.findings.item, world.findings.count, &expected, MOAT_WHEN_CHECK);
    }
    for (; next < count; next++)
        CHECK_EQ(examine(order[next]).count, 0);
    world.guard.last_check_event = call.event;
}

/* ---- a world ----------------------------------------------------------------------------------------------------- */

static void do_bug(void) {
    size_t slot;
    switch (below(7)) {
    case 0:
        slot = slot_find(LIVE, false);
        if (slot != NO_SLOT && blocks[slot].run_into == NO_SLOT && blocks[slot].run_from == NO_SLOT)
            bug_overflow(slot);
        break;
    case 1:
        slot = slot_find(LIVE, false);
        if (slot != NO_SLOT && blocks[slot].run_into == NO_SLOT && blocks[slot].run_from == NO_SLOT)
            bug_underflow(slot);
        break;
    case 2:
        slot = slot_find(HELD, false);
        if (slot != NO_SLOT && blocks[slot].run_into == NO_SLOT && blocks[slot].run_from == NO_SLOT)
            bug_write_after_free(slot);
        break;
    case 3:
        slot = slot_find(below(2) == 0 ? LIVE : HELD, false);
        if (slot != NO_SLOT)
            bug_header(slot);
        break;
    case 4:
        slot = slot_find(below(2) == 0 ? HELD : DEAD, false);
        if (slot != NO_SLOT)
            bug_double_free(slot);
        break;
    case 5:
        slot = slot_find(LIVE, true);
        if (slot != NO_SLOT)
            bug_wild_free(slot);
        break;
    default:
        slot = slot_find(below(2) == 0 ? LIVE : HELD, false);
        if (slot != NO_SLOT)
            bug_run(slot);
        break;
    }
}

static void do_program(void) {
    static const unsigned families[] = {MOAT_FAMILY_MALLOC, MOAT_FAMILY_NEW, MOAT_FAMILY_NEW_ARRAY,
                                        MOAT_FAMILY_ALIGNED};
    size_t slot = slot_find(LIVE, false);
    size_t choice = below(100);
    if (choice < 45) {
        do_take(random_size(), families[below(4)], below(5) == 0 ? (size_t)1 << below(11) : 1);
    } else if (slot == NO_SLOT) {
        return;
    } else if (choice < 85) {
        do_free(slot, below(40) == 0 ? families[below(4)] : blocks[slot].family, MOAT_WHEN_FREE);
    } else if (blocks[slot].family == MOAT_FAMILY_MALLOC) {
        do_resize(slot);
    }
}

static void world_begin(uint64_t seed) {
    static const size_t rears[] = {1, 2, 8, 16, 16, 33, 64};
    static const size_t nears[] = {0, 1000, 8 * KIB, 64 * KIB};
    random_state = seed * UINT64_C(0x9e3779b97f4a7c15) + 1;
    struct moat_guard_config config = world_config();
    config.secret = random_next(&random_state);
    config.rear_bytes = rears[below(7)];
    config.near_bytes = nears[below(4)];
    config.far_bytes = below(2) * 16 * KIB;
    config.far_one_in = (uint32_t)(1 + below(8));
    config.realloc_always_moves = below(4) == 0;
    world_open(&world, &config, 64 * KIB << below(3));
    world.before_victims = victims_chosen;
    memset(blocks, 0, sizeof blocks);
    near = far = (struct queue){.count = 0};
    live_blocks = live_bytes = frees = allocations = reported = 0;
    ran = false;
}

/* Everything is let go: what was not found before is found now, and nothing else. */
static void world_end(void) {
    do_sweep();
    do_sweep();
    for (size_t i = 0; i < SLOTS; i++) {
        if (blocks[i].where == LIVE)
            do_free(i, blocks[i].family, MOAT_WHEN_FREE);
    }
    while (near.count + far.count != 0)
        drain_step();
    check_counts();
    CHECK_EQ(live_blocks, 0);
    for (size_t i = 0; i < SLOTS; i++)
        CHECK(blocks[i].where == GONE || (blocks[i].where == DEAD && blocks[i].reported));
    CHECK(ran || moat_heap_verify(world.heap, NULL));
}

/* A failure is found again by its seed, which a debugger shows. */
static void run_world(uint64_t seed, unsigned bugs_in_thousand) {
    world_begin(seed);
    for (unsigned step = 0; step < OPERATIONS_OF_A_WORLD; step++) {
        if (below(1000) < bugs_in_thousand)
            do_bug();
        else if (below(400) == 0)
            do_sweep();
        else
            do_program();
        check_counts();
    }
    world_end();
}

/* No bugs: nothing may be found. */
MOAT_TEST(engine_model, correct_programs_have_no_findings) {
    for (uint64_t seed = 1; seed <= OPERATIONS / 4 / OPERATIONS_OF_A_WORLD; seed++) {
        run_world(seed, 0);
        CHECK_EQ(reported, 0);
    }
}

MOAT_TEST(engine_model, few_bugs_among_many_operations) {
    for (uint64_t seed = 1001; seed <= 1000 + OPERATIONS / 2 / OPERATIONS_OF_A_WORLD; seed++)
        run_world(seed, 20);
}

MOAT_TEST(engine_model, many_bugs) {
    uint64_t most = 0;
    for (uint64_t seed = 2001; seed <= 2000 + OPERATIONS / 4 / OPERATIONS_OF_A_WORLD; seed++) {
        run_world(seed, 200);
        most = reported > most ? reported : most;
    }
    CHECK(most > 100);
}
