/* A guard over a heap in a static buffer, with a memory source and a backend that can be told to fail: what the
 * portable tests of the engine work on, and the order of calls that the entry layer makes, without its locks.
 * May include: the engine's headers, moat/heap.h, tests/test.h, string.h. */
#ifndef MOAT_TESTS_ENGINE_WORLD_H
#define MOAT_TESTS_ENGINE_WORLD_H

#include "guard/engine/guard.h"
#include "moat/heap.h"
#include "tests/test.h"

#include <string.h>

#define KIB ((size_t)1024)
#define MIB ((size_t)1024 * 1024)
#define NEVER UINT64_MAX

/* xorshift64*: the tests' own generator, the same numbers everywhere. */
static inline uint64_t random_next(uint64_t *state) {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * UINT64_C(0x2545f4914f6cdd1d);
}

static inline size_t random_below(uint64_t *state, size_t limit) {
    return (size_t)((random_next(state) >> 33) * limit >> 31);
}

/* ---- a source of zeroed memory that counts and fails on request -------------------------------------------------- */

struct bank {
    struct moat_source source;
    unsigned char *memory;
    size_t size_bytes;
    size_t used_bytes;
    uint64_t calls;
    uint64_t fail_at; /* this call and, with fail_after, all later ones give nothing; from 0 */
    bool fail_after;
    int64_t pieces; /* acquired and not released */
};

static inline void *bank_acquire(void *context, size_t size_bytes, size_t *got_bytes) {
    struct bank *bank = context;
    uint64_t call = bank->calls++;
    size_t rounded_bytes = (size_bytes + 63) & ~(size_t)63;
    bool fails = call == bank->fail_at || (bank->fail_after && call > bank->fail_at);
    if (fails || rounded_bytes < size_bytes || rounded_bytes > bank->size_bytes - bank->used_bytes)
        return NULL;
    void *piece = bank->memory + bank->used_bytes;
    bank->used_bytes += rounded_bytes;
    bank->pieces++;
    memset(piece, 0, rounded_bytes);
    *got_bytes = rounded_bytes;
    return piece;
}

static inline bool bank_release(void *context, void *start, size_t size_bytes) {
    struct bank *bank = context;
    (void)start;
    (void)size_bytes;
    bank->pieces--;
    return true; /* a bump: the memory comes back with the next bank */
}

static inline void bank_open(struct bank *bank, void *memory, size_t size_bytes) {
    *bank = (struct bank){.memory = memory, .size_bytes = size_bytes, .fail_at = NEVER};
    bank->source = (struct moat_source){bank_acquire, bank_release, bank};
}

/* ---- a backend that passes everything on, but for the lies it is told to tell ------------------------------------ */

struct faulty {
    const struct moat_backend *below;
    void *below_context;
    uint64_t allocs;
    uint64_t alloc_fails_at; /* this alloc gives NULL; from 0 */
    bool refuse_free;
    size_t usable_minus, usable_plus; /* how much too little or too much usable says */
    uint64_t frees;                   /* that went through */
    uint64_t resizes;
};

static inline void *faulty_alloc(void *context, size_t size_bytes, size_t alignment, size_t lead_bytes) {
    struct faulty *faulty = context;
    if (faulty->allocs++ == faulty->alloc_fails_at)
        return NULL;
    return faulty->below->alloc(faulty->below_context, size_bytes, alignment, lead_bytes);
}

static inline bool faulty_free(void *context, void *block) {
    struct faulty *faulty = context;
    if (faulty->refuse_free || !faulty->below->free(faulty->below_context, block))
        return false;
    faulty->frees++;
    return true;
}

static inline bool faulty_resize(void *context, void *block, size_t size_bytes) {
    struct faulty *faulty = context;
    faulty->resizes++;
    return faulty->below->resize(faulty->below_context, block, size_bytes);
}

static inline size_t faulty_usable(void *context, void *block) {
    struct faulty *faulty = context;
    return faulty->below->usable(faulty->below_context, block) - faulty->usable_minus + faulty->usable_plus;
}

static inline bool faulty_fault(void *context, struct moat_fault *fault) {
    struct faulty *faulty = context;
    return faulty->below->fault(faulty->below_context, fault);
}

static inline const struct moat_backend *faulty_backend(void) {
    static const struct moat_backend table = {.alloc = faulty_alloc,
                                              .free = faulty_free,
                                              .resize = faulty_resize,
                                              .usable = faulty_usable,
                                              .fault = faulty_fault};
    return &table;
}

/* ---- the world --------------------------------------------------------------------------------------------------- */

#define WORLD_HEAP_BYTES (1 * MIB)
#define WORLD_BANK_BYTES (2 * MIB)

struct world {
    struct bank bank;
    struct faulty faulty;
    struct moat_block_map map;
    struct moat_guard_config config;
    struct moat_guard guard;
    struct moat_heap *heap;
    uint64_t event;
    /* Of the latest call. */
    struct moat_findings findings;
    size_t victim_count;
    struct moat_victim victims[MOAT_VICTIMS_MAX];
    void (*before_victims)(void); /* told when world.victims are chosen and nothing was done to them yet; may be NULL */
    size_t victim_findings_count; /* made of victims */
    struct moat_finding victim_findings[2 * MOAT_VICTIMS_MAX];
};

static inline struct moat_span *world_find(const void *context, uintptr_t address) {
    return moat_map_find(context, address);
}

static inline struct moat_span *world_next(const void *context, const struct moat_guard *guard, uintptr_t address) {
    return moat_map_next(context, guard, address);
}

static _Alignas(4096) unsigned char world_heap_memory[WORLD_HEAP_BYTES];
static _Alignas(64) unsigned char world_bank_memory[WORLD_BANK_BYTES];

/* What a program, and most of the tests, would set. */
static inline struct moat_guard_config world_config(void) {
    return (struct moat_guard_config){.secret = UINT64_C(0x5eed5eed12345678),
                                      .rear_bytes = 16,
                                      .fill_bytes = SIZE_MAX,
                                      .scan_bytes = WORLD_HEAP_BYTES,
                                      .near_bytes = 16 * KIB,
                                      .far_bytes = 0,
                                      .far_one_in = 4};
}

static inline void world_open(struct world *world, const struct moat_guard_config *config, size_t heap_bytes) {
    memset(world, 0, sizeof *world);
    memset(world_heap_memory, 0x11, sizeof world_heap_memory);
    bank_open(&world->bank, world_bank_memory, sizeof world_bank_memory);
    world->config = *config;
    moat_map_init(&world->map, &world->bank.source);
    world->heap = moat_heap_create(world_heap_memory, heap_bytes, NULL);
    CHECK(world->heap != NULL);
    CHECK(moat_map_add(&world->map, &world->guard, (uintptr_t)world_heap_memory, heap_bytes));
    world->faulty =
        (struct faulty){.below = moat_heap_backend(), .below_context = world->heap, .alloc_fails_at = NEVER};
    struct moat_locator locator = {world_find, world_next, &world->map};
    moat_guard_init(&world->guard, &world->config, faulty_backend(), &world->faulty, locator, &world->bank.source);
}

static inline struct moat_call world_call(struct world *world, unsigned family, unsigned when) {
    world->event++;
    return (struct moat_call){.event = world->event,
                              .stack = (uint32_t)world->event + 1000000u,
                              .thread = (uint16_t)(world->event % 60000 + 1),
                              .family = (uint8_t)family,
                              .when = (uint8_t)when};
}

static inline unsigned char *world_take_as(struct world *world, size_t size_bytes, size_t alignment, unsigned family) {
    struct moat_call call = world_call(world, family, MOAT_WHEN_CALL);
    unsigned char *user = moat_guard_take(&world->guard, size_bytes, alignment, &call);
    if (user != NULL)
        moat_guard_fill(&world->guard, user, size_bytes);
    return user;
}

static inline unsigned char *world_take(struct world *world, size_t size_bytes) {
    return world_take_as(world, size_bytes, 1, MOAT_FAMILY_MALLOC);
}

static inline void world_victim_finding(struct world *world, const struct moat_finding *finding) {
    world->victim_findings[world->victim_findings_count++] = *finding;
}

/* Proves the victims of the latest pop and gives the whole ones back. */
static inline void world_victims(struct world *world, const struct moat_call *call) {
    struct moat_call leaving = *call;
    leaving.when = MOAT_WHEN_QUARANTINE;
    world->victim_findings_count = 0;
    if (world->before_victims != NULL)
        world->before_victims();
    for (size_t i = 0; i < world->victim_count; i++) {
        const struct moat_victim *victim = &world->victims[i];
        struct moat_findings findings = {.count = 0};
        if (!moat_guard_victim_whole(&world->guard, victim))
            moat_guard_diagnose_block(&world->guard, (uintptr_t)victim->user, &leaving, victim->event, &findings);
        else if (!moat_guard_give_back(&world->guard, victim, &leaving, &findings.item[0]))
            findings.count = 1;
        for (size_t k = 0; k < findings.count; k++)
            world_victim_finding(world, &findings.item[k]);
    }
}

/* What the program's free comes to. True when the block was released. */
static inline bool world_free_as(struct world *world, void *user, unsigned family, unsigned when) {
    struct moat_call call = world_call(world, family, when);
    size_t size_bytes;
    world->findings.count = world->victim_count = world->victim_findings_count = 0;
    bool claimed = moat_guard_claim(&world->guard, user, &call, &size_bytes);
    if (claimed) {
        world->victim_count = moat_guard_pop(&world->guard, size_bytes, false, world->victims);
    } else if (moat_guard_diagnose_call(&world->guard, user, &call, &world->findings)) {
        struct moat_call fitting = call;
        fitting.family = world->findings.item[0].block.family;
        claimed = moat_guard_claim(&world->guard, user, &fitting, &size_bytes);
        CHECK(claimed);
    }
    if (!claimed)
        return false;
    moat_guard_poison(&world->guard, user, size_bytes);
    struct moat_finding finding;
    if (!moat_guard_enqueue(&world->guard, user, &call, &finding))
        world_victim_finding(world, &finding);
    size_t enqueued_findings = world->victim_findings_count;
    struct moat_finding kept = world->victim_findings[0];
    world_victims(world, &call);
    if (enqueued_findings != 0)
        world_victim_finding(world, &kept);
    return true;
}

static inline bool world_free(struct world *world, void *user) {
    return world_free_as(world, user, MOAT_FAMILY_MALLOC, MOAT_WHEN_FREE);
}

/* Sweeps everything; findings of all blocks go to `found`. Gives their number. */
static inline size_t world_sweep(struct world *world, struct moat_finding *found, size_t most) {
    struct moat_call call = world_call(world, MOAT_FAMILY_MALLOC, MOAT_WHEN_CHECK);
    uintptr_t cursor = 0;
    size_t count = 0;
    for (bool more = true; more;) {
        more = moat_guard_sweep(&world->guard, &cursor, &call, &world->findings);
        for (size_t i = 0; i < world->findings.count; i++) {
            CHECK(count < most);
            found[count++] = world->findings.item[i];
        }
    }
    world->guard.last_check_event = call.event;
    return count;
}

/* Takes two at a time out of the quarantine until it is empty. Gives how many blocks left it; findings are counted. */
static inline size_t world_drain(struct world *world, size_t *finding_count) {
    size_t left = 0;
    *finding_count = 0;
    struct moat_call call = world_call(world, MOAT_FAMILY_MALLOC, MOAT_WHEN_CALL);
    while ((world->victim_count = moat_guard_pop(&world->guard, 0, true, world->victims)) != 0) {
        left += world->victim_count;
        world_victims(world, &call);
        *finding_count += world->victim_findings_count;
    }
    return left;
}

static inline size_t world_rear(const struct world *world, const void *user) {
    const unsigned char *block = (const unsigned char *)user - MOAT_LEAD_BYTES;
    return moat_heap_usable(world->heap, block) - MOAT_LEAD_BYTES - moat_header_size(moat_header_of((uintptr_t)user));
}

#endif
