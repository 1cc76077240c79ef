/* Portable tests of the page backend over pages that are only bookkeeping: placement, alignment, growth, the sorted
 * table, and a guard over it. May include: guard/engine/large.h, tests/unit/engine_world.h.
 *
 * The pages are a piece of static memory; each has a state, and every operation is checked against the states it may
 * meet. What "no access" means to a program is tested with real pages in tests/detect. */
#include "guard/engine/large.h"
#include "tests/unit/engine_world.h"

#define PAGE ((size_t)4096)
#define PAGES 4096u
#define BLOCKS_MOST 40u

enum page_state { PAGE_NONE, PAGE_RESERVED, PAGE_OPEN };

static _Alignas(65536) unsigned char memory[PAGES * PAGE];
static unsigned char state[PAGES];
static bool misused;
static uint64_t reserve_fails_at, reserve_calls, commit_fails_at, commit_calls;
static bool release_refused;

static _Alignas(64) unsigned char bank_memory[MIB];
static struct bank bank;
static struct moat_large large;
static struct moat_guard guard;
static struct moat_guard_config config;
static uint64_t event;

static size_t page_of(const void *start) { return (size_t)((uintptr_t)start - (uintptr_t)memory) / PAGE; }

/* First fit; a page is left between reservations, so that runs over an end show. */
static void *page_reserve(size_t size_bytes, size_t alignment) {
    size_t count = size_bytes / PAGE;
    misused |= size_bytes % PAGE != 0 || size_bytes == 0 || alignment != PAGE;
    if (reserve_calls++ == reserve_fails_at || count > PAGES)
        return NULL;
    for (size_t from = 1, run = 0; from + run < PAGES;) {
        if (state[from + run] != PAGE_NONE || state[from - 1] != PAGE_NONE) {
            from += run + 1;
            run = 0;
        } else if (++run == count + 1) {
            memset(state + from, PAGE_RESERVED, count);
            memset(memory + from * PAGE, 0xbb, count * PAGE);
            return memory + from * PAGE;
        }
    }
    return NULL;
}

static bool pages_change(void *start, size_t size_bytes, enum page_state from, enum page_state to) {
    misused |= (uintptr_t)start % PAGE != 0 || size_bytes % PAGE != 0;
    for (size_t i = 0; i < size_bytes / PAGE; i++) {
        misused |= state[page_of(start) + i] != (unsigned char)from;
        state[page_of(start) + i] = (unsigned char)to;
    }
    return true;
}

static bool page_commit(void *start, size_t size_bytes) {
    if (commit_calls++ == commit_fails_at)
        return false;
    memset(start, 0, size_bytes);
    return pages_change(start, size_bytes, PAGE_RESERVED, PAGE_OPEN);
}

static bool page_conceal(void *start, size_t size_bytes) {
    memset(start, 0xbb, size_bytes); /* contents are dropped; a read of them would show */
    return pages_change(start, size_bytes, PAGE_OPEN, PAGE_RESERVED);
}

static bool page_release(void *start, size_t size_bytes) {
    misused |= (uintptr_t)start % PAGE != 0 || size_bytes % PAGE != 0;
    if (release_refused)
        return false;
    size_t from = page_of(start), count = size_bytes / PAGE;
    for (size_t i = 0; i < count; i++) {
        misused |= state[from + i] == PAGE_NONE;
        state[from + i] = PAGE_NONE;
    }
    /* All of a reservation, no more and no less. */
    misused |= state[from - 1] != PAGE_NONE || state[from + count] != PAGE_NONE;
    return true;
}

static const struct moat_page_operations operations = {PAGE, page_reserve, page_commit, page_conceal, page_release};

static struct moat_span *large_find(const void *context, uintptr_t address) {
    return moat_large_find(context, address);
}

static void fresh(void) {
    memset(state, 0, sizeof state);
    misused = release_refused = false;
    reserve_calls = commit_calls = 0;
    reserve_fails_at = commit_fails_at = NEVER;
    event = 0;
    bank_open(&bank, bank_memory, sizeof bank_memory);
    config =
        (struct moat_guard_config){.secret = 99, .rear_bytes = 16, .scan_bytes = SIZE_MAX / 4, .near_bytes = 4 * MIB};
    struct moat_locator locator = {large_find, moat_large_next, &large};
    CHECK(moat_large_init(&large, &guard, &operations, BLOCKS_MOST, &bank.source));
    moat_guard_init(&guard, &config, moat_large_backend(), &large, locator, &bank.source);
    guard.rear_optional = true;
    guard.fresh_is_zero = true;
}

static size_t pages_in(enum page_state which) {
    size_t count = 0;
    for (size_t i = 0; i < PAGES; i++)
        count += state[i] == (unsigned char)which;
    return count;
}

static struct moat_call call_make(unsigned when) {
    event++;
    return (struct moat_call){.event = event, .stack = (uint32_t)event, .thread = 1, .when = (uint8_t)when};
}

/* ---- the backend ------------------------------------------------------------------------------------------------- */

static void check_placement(unsigned char *block, size_t size, size_t alignment, size_t lead) {
    const struct moat_backend *backend = moat_large_backend();
    size_t real = alignment < 16 ? 16 : alignment;
    CHECK(block != NULL);
    CHECK_EQ((uintptr_t)(block + lead) % real, 0);
    size_t usable = backend->usable(&large, block);
    CHECK(usable >= size);
    CHECK(usable < size + real && usable < size + PAGE); /* as far to the end as the alignment lets it */
    CHECK_EQ((uintptr_t)(block + usable) % PAGE, 0);
    CHECK_EQ(state[page_of(block + usable)], PAGE_RESERVED); /* the guard page */
    for (uintptr_t at = (uintptr_t)block; at < (uintptr_t)block + size; at += PAGE)
        CHECK_EQ(state[page_of((void *)at)], PAGE_OPEN);
    CHECK_EQ(state[page_of(block + size - 1)], PAGE_OPEN);
    memset(block, 0xee, usable);
}

MOAT_TEST(engine_large, blocks_end_at_a_page) {
    const struct moat_backend *backend = moat_large_backend();
    for (size_t alignment = 1; alignment <= 64 * KIB; alignment *= 2) {
        for (size_t lead = 0; lead <= 48; lead += 48) {
            for (size_t size = 1; size < 5 * PAGE; size += size < 100 ? 7 : 613) {
                fresh();
                unsigned char *block = backend->alloc(&large, size, alignment, lead);
                check_placement(block, size, alignment, lead);
                CHECK(backend->free(&large, block));
                CHECK_EQ(pages_in(PAGE_NONE), PAGES);
                CHECK(!misused);
            }
        }
    }
}

MOAT_TEST(engine_large, impossible_sizes_get_nothing) {
    const struct moat_backend *backend = moat_large_backend();
    fresh();
    for (size_t less = 0; less < 20000; less += 99) {
        CHECK(backend->alloc(&large, SIZE_MAX - less, 16, 48) == NULL);
        CHECK(backend->alloc(&large, PTRDIFF_MAX - less, 16, 48) == NULL);
    }
    CHECK_EQ(pages_in(PAGE_NONE), PAGES);
}

MOAT_TEST(engine_large, failing_pages_leave_nothing_behind) {
    const struct moat_backend *backend = moat_large_backend();
    fresh();
    reserve_fails_at = 0;
    CHECK(backend->alloc(&large, 10000, 16, 48) == NULL);
    commit_fails_at = 0;
    CHECK(backend->alloc(&large, 10000, 16, 48) == NULL);
    CHECK_EQ(pages_in(PAGE_NONE), PAGES);
    CHECK_EQ(large.count, 0);
    unsigned char *block = backend->alloc(&large, 10000, 16, 48);
    CHECK(block != NULL);
    size_t usable = backend->usable(&large, block);
    commit_fails_at = commit_calls;
    CHECK(!backend->resize(&large, block, usable + 1));
    CHECK_EQ(backend->usable(&large, block), usable);
    release_refused = true;
    CHECK(!backend->free(&large, block));
    CHECK_EQ(large.count, 1); /* still known, so that nobody takes it for another's */
    CHECK(!misused);
}

MOAT_TEST(engine_large, growth_stays_before_the_guard_page) {
    const struct moat_backend *backend = moat_large_backend();
    for (size_t size = 1; size < 40 * PAGE; size += 7919) {
        fresh();
        unsigned char *block = backend->alloc(&large, size, 16, 48);
        struct moat_large_block *record = moat_large_at(&large, (uintptr_t)block);
        size_t now = size;
        while (backend->resize(&large, block, now + 100)) {
            now += 100;
            size_t usable = backend->usable(&large, block);
            CHECK(usable >= now && usable < now + PAGE);
            block[now - 1] = 1;
            CHECK_EQ(state[page_of(block + usable)], PAGE_RESERVED);
            CHECK((uintptr_t)block + usable + PAGE <= record->reserved_end);
        }
        CHECK(now + 100 > size + size / 8); /* the room there is meant to be */
        for (; now > 1000; now -= 777) {
            CHECK(backend->resize(&large, block, now));
            size_t usable = backend->usable(&large, block);
            CHECK(usable >= now && usable < now + PAGE);
            CHECK_EQ(state[page_of(block + usable)], PAGE_RESERVED);
        }
        CHECK(!backend->resize(&large, block + 16, 1000));
        CHECK(!backend->resize(&large, block, SIZE_MAX));
        CHECK(backend->free(&large, block));
        CHECK_EQ(pages_in(PAGE_NONE), PAGES);
        CHECK(!misused);
    }
}

MOAT_TEST(engine_large, strangers_are_refused) {
    const struct moat_backend *backend = moat_large_backend();
    fresh();
    unsigned char *block = backend->alloc(&large, 10000, 16, 48);
    CHECK(!backend->free(&large, block + 16));
    CHECK(!backend->free(&large, memory));
    CHECK(!backend->free(&large, NULL));
    CHECK_EQ(backend->usable(&large, block - 1), 0);
    CHECK_EQ(backend->usable(&large, &bank), 0);
    CHECK(backend->dress(&large, block) == NULL);
    CHECK(backend->dress(&large, &bank) == NULL);
    CHECK(backend->free(&large, block));
    CHECK(!backend->free(&large, block));
}

MOAT_TEST(engine_large, the_number_of_blocks_is_capped) {
    const struct moat_backend *backend = moat_large_backend();
    fresh();
    void *blocks[BLOCKS_MOST];
    for (unsigned i = 0; i < BLOCKS_MOST; i++) {
        blocks[i] = backend->alloc(&large, 100, 16, 48);
        CHECK(blocks[i] != NULL);
    }
    CHECK(backend->alloc(&large, 100, 16, 48) == NULL);
    CHECK(backend->free(&large, blocks[7]));
    CHECK(backend->alloc(&large, 100, 16, 48) != NULL);
    CHECK(backend->alloc(&large, 100, 16, 48) == NULL);
    /* Without tables there is never a block. */
    bank.fail_at = bank.calls + 1;
    CHECK(!moat_large_init(&large, &guard, &operations, BLOCKS_MOST, &bank.source));
    CHECK(backend->alloc(&large, 100, 16, 48) == NULL);
    CHECK(moat_large_at(&large, (uintptr_t)memory) == NULL);
    CHECK(moat_large_init(&large, &guard, &operations, 0, &bank.source));
    CHECK(backend->alloc(&large, 100, 16, 48) == NULL);
}

/* Random blocks beside a list: the table knows each address's block, and all in order. */
static bool count_visit(void *argument, const struct moat_backend_block *block) {
    uintptr_t *last = argument;
    CHECK((uintptr_t)block->start > *last);
    CHECK(block->used);
    *last = (uintptr_t)block->start;
    return true;
}

MOAT_TEST(engine_large, random_blocks_match_a_model) {
    const struct moat_backend *backend = moat_large_backend();
    static struct {
        unsigned char *block;
        size_t size;
    } model[BLOCKS_MOST];
    uint64_t random = 4;
    fresh();
    memset(model, 0, sizeof model);
    unsigned used = 0;
    for (unsigned step = 0; step < 6000; step++) {
        size_t at = random_below(&random, BLOCKS_MOST);
        if (model[at].block == NULL) {
            size_t size = 1 + random_below(&random, random_below(&random, 10) == 0 ? 60 * PAGE : 4 * PAGE);
            size_t alignment = (size_t)1 << random_below(&random, 15);
            model[at].block = backend->alloc(&large, size, alignment, 48);
            model[at].size = size;
            if (model[at].block != NULL) {
                check_placement(model[at].block, size, alignment, 48);
                used++;
            }
        } else if (random_below(&random, 3) == 0) {
            size_t size = model[at].size - random_below(&random, model[at].size) / 4;
            CHECK(backend->resize(&large, model[at].block, size));
            model[at].size = size;
        } else {
            CHECK(backend->free(&large, model[at].block));
            model[at].block = NULL;
            used--;
        }
        CHECK_EQ(large.count, used);
        CHECK(!misused);
        for (unsigned i = 0; i < BLOCKS_MOST; i++) {
            if (model[i].block == NULL)
                continue;
            struct moat_large_block *record = moat_large_at(&large, (uintptr_t)model[i].block);
            CHECK(record != NULL && record->block == (uintptr_t)model[i].block);
            CHECK(moat_large_at(&large, record->reserved_start) == record);
            CHECK(moat_large_at(&large, record->reserved_end - 1) == record);
            CHECK(moat_large_at(&large, record->reserved_end) == NULL); /* a page is left free there */
            CHECK(moat_large_at(&large, record->reserved_start - 1) == NULL);
            CHECK(moat_large_find(&large, (uintptr_t)model[i].block + 48) == &record->span);
            CHECK(moat_large_find(&large, (uintptr_t)model[i].block + 47) == NULL);
            CHECK(moat_large_next(&large, &guard, record->reserved_start) == &record->span);
            CHECK(moat_large_next(&large, &guard, record->reserved_end - 1) == &record->span);
            CHECK(moat_large_next(&large, &guard, record->reserved_end) != &record->span);
        }
        if (step % 100 == 0) {
            uintptr_t last = 0;
            CHECK(backend->walk(&large, count_visit, &last));
            uintptr_t cursor = 0;
            unsigned visited = 0;
            for (struct moat_span *span; (span = moat_large_next(&large, &guard, cursor)) != NULL; visited++) {
                CHECK(moat_span_end(span) > cursor);
                cursor = moat_span_end(span);
            }
            CHECK_EQ(visited, used);
        }
    }
}

/* ---- a guard over it --------------------------------------------------------------------------------------------- */

static unsigned char *guard_take(size_t size, size_t alignment) {
    struct moat_call call = call_make(MOAT_WHEN_CALL);
    return moat_guard_take(&guard, size, alignment, &call);
}

static bool guard_free(void *user, struct moat_findings *findings) {
    struct moat_call call = call_make(MOAT_WHEN_FREE);
    struct moat_finding finding;
    size_t size_bytes;
    findings->count = 0;
    if (!moat_guard_claim(&guard, user, &call, &size_bytes)) {
        moat_guard_diagnose_call(&guard, user, &call, findings);
        return false;
    }
    moat_guard_poison(&guard, user, size_bytes);
    CHECK(moat_guard_enqueue(&guard, user, &call, &finding));
    return true;
}

MOAT_TEST(engine_large, a_freed_block_is_concealed_and_still_known) {
    struct moat_findings findings;
    fresh();
    unsigned char *user = guard_take(20000, 1);
    CHECK(user != NULL);
    for (size_t i = 0; i < 20000; i++)
        CHECK_EQ(user[i], 0);
    memset(user, 1, 20000);
    size_t open = pages_in(PAGE_OPEN);
    CHECK(open >= 5);
    CHECK(guard_free(user, &findings));
    CHECK_EQ(pages_in(PAGE_OPEN), 0);
    bool lost;
    struct moat_block_facts facts = moat_guard_facts(&guard, (uintptr_t)user, &lost);
    CHECK(!lost);
    CHECK_EQ(facts.size_bytes, 20000);
    CHECK_EQ(facts.state, MOAT_BLOCK_QUARANTINED);
    CHECK_EQ(facts.allocation_stack, 1);
    CHECK_EQ(facts.free_stack, 2);
    CHECK_EQ(moat_guard_block_at(&guard, (uintptr_t)user + 19999, &facts), (uintptr_t)user);
    CHECK_EQ(facts.state, MOAT_BLOCK_QUARANTINED);
    CHECK(!guard_free(user, &findings));
    CHECK_EQ(findings.count, 1);
    CHECK_EQ(findings.item[0].kind, MOAT_DOUBLE_FREE);
    CHECK_EQ(findings.item[0].block.size_bytes, 20000);
    CHECK(!guard_free(user + 5000, &findings));
    CHECK_EQ(findings.item[0].kind, MOAT_INVALID_FREE);
    CHECK_EQ(findings.item[0].first, 5000);
    /* A sweep looks at no concealed page: what lies there would not be poison. */
    uintptr_t cursor = 0;
    struct moat_call call = call_make(MOAT_WHEN_CHECK);
    while (moat_guard_sweep(&guard, &cursor, &call, &findings))
        CHECK_EQ(findings.count, 0);
    struct moat_victim victims[MOAT_VICTIMS_MAX];
    CHECK_EQ(moat_guard_pop(&guard, 0, true, victims), 1);
    CHECK(moat_guard_victim_whole(&guard, &victims[0]));
    CHECK(moat_guard_give_back(&guard, &victims[0], &call, &findings.item[0]));
    CHECK_EQ(pages_in(PAGE_NONE), PAGES);
    CHECK(!misused);
}

MOAT_TEST(engine_large, a_page_can_be_opened_after_a_report) {
    struct moat_findings findings;
    fresh();
    unsigned char *user = guard_take(20000, 1);
    CHECK(guard_free(user, &findings));
    CHECK(moat_large_open(&large, (uintptr_t)user + 9000));
    CHECK_EQ(pages_in(PAGE_OPEN), 1);
    CHECK_EQ(state[page_of(user + 9000)], PAGE_OPEN);
    CHECK(!moat_large_open(&large, (uintptr_t)memory));
}

/* What the alignment leaves between the user's end and the guard page is a rear zone. */
MOAT_TEST(engine_large, damage_before_the_guard_page_is_found) {
    struct moat_findings findings;
    for (size_t size = 20000; size < 20040; size++) {
        fresh();
        unsigned char *user = guard_take(size, 1);
        size_t rear = (size_t)(-(uintptr_t)(user + size)) % PAGE;
        CHECK(rear < 16);
        CHECK_EQ(moat_header_rear(moat_header_of((uintptr_t)user)), rear);
        if (rear == 0)
            continue;
        user[size + rear - 1] ^= 1;
        CHECK(!guard_free(user, &findings));
        CHECK_EQ(findings.count, 1);
        CHECK_EQ(findings.item[0].kind, MOAT_HEAP_BUFFER_OVERFLOW);
        CHECK_EQ(findings.item[0].first, size + rear - 1);
        fresh();
        user = guard_take(size, 1);
        user[-16] ^= 1;
        CHECK(!guard_free(user, &findings));
        CHECK_EQ(findings.item[0].kind, MOAT_HEAP_BUFFER_UNDERFLOW);
        CHECK_EQ(findings.item[0].first, -16);
    }
}

/* A zone longer than its field can say is checked as far as that goes, and the block can still go back. */
MOAT_TEST(engine_large, shrinking_and_growing_under_the_guard) {
    struct moat_findings findings;
    fresh();
    unsigned char *user = guard_take(100000, 64 * KIB);
    CHECK_EQ((uintptr_t)user % (64 * KIB), 0);
    for (size_t size = 99999; size > 2000; size -= size / 7) {
        struct moat_call call = call_make(MOAT_WHEN_REALLOC);
        size_t old_bytes;
        CHECK(moat_guard_prove(&guard, user, &call, &old_bytes));
        CHECK(moat_guard_resize(&guard, user, size, &call));
        CHECK(moat_guard_live_and_whole(&guard, (uintptr_t)user));
        memset(user, 0, size);
    }
    struct moat_call call = call_make(MOAT_WHEN_REALLOC);
    CHECK(moat_guard_resize(&guard, user, 101000, &call));
    memset(user, 0, 101000);
    CHECK(guard_free(user, &findings));
    struct moat_victim victims[MOAT_VICTIMS_MAX];
    CHECK_EQ(moat_guard_pop(&guard, 0, true, victims), 1);
    CHECK(moat_guard_give_back(&guard, &victims[0], &call, &findings.item[0]));
    CHECK_EQ(pages_in(PAGE_NONE), PAGES);
    CHECK(!misused);
}
