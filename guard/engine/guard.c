/* The engine's fast paths: take, claim, poison, enqueue, pop, give back, resize. May include: guard.h only. */
#include "guard/engine/guard.h"

/* Blocks up to this size move at every realloc, so that stale pointers surface. */
#define MOAT_REALLOC_SMALL_BYTES 1024u
/* Steps of an eighth by which a block may grow in place before it moves. */
#define MOAT_REALLOC_GROWTH_STEPS 2u
/* Blocks of one pop that may only pass from the near tier to the far one. */
#define MOAT_POP_STEPS 4u

void moat_guard_init(struct moat_guard *guard, const struct moat_guard_config *config,
                     const struct moat_backend *backend, void *backend_context, struct moat_locator locator,
                     const struct moat_source *memory) {
    *guard = (struct moat_guard){
        .config = config, .backend = backend, .backend_context = backend_context, .locator = locator};
    moat_quarantine_init(&guard->near, config->near_bytes, config->least_bytes, memory);
    moat_quarantine_init(&guard->far, config->far_bytes, config->least_bytes, memory);
}

static void *block_of(uintptr_t user) { return (void *)(user - MOAT_LEAD_BYTES); }

static struct moat_span *range_of(const struct moat_guard *guard, uintptr_t user) {
    struct moat_span *range = guard->locator.find(guard->locator.context, user);
    return range != NULL && atomic_load_explicit(&range->guard, memory_order_relaxed) == guard ? range : NULL;
}

struct moat_header *moat_guard_header(const struct moat_guard *guard, uintptr_t user) {
    void *detached =
        guard->backend->dress != NULL ? guard->backend->dress(guard->backend_context, block_of(user)) : NULL;
    return detached != NULL ? detached : moat_header_of(user);
}

void moat_guard_forget(struct moat_guard *guard, uintptr_t user) {
    struct moat_span *range = range_of(guard, user);
    if (range != NULL && moat_span_is_start(range, user)) {
        moat_bit_clear(range->starts, moat_span_index(range, user));
        moat_bit_clear(range->live, moat_span_index(range, user));
    }
}

void *moat_guard_take(struct moat_guard *guard, size_t size_bytes, size_t alignment, const struct moat_call *call) {
    const uint64_t secret = guard->config->secret;
    size_t rear_least = guard->rear_optional ? 0 : guard->config->rear_bytes;
    if ((uint64_t)size_bytes >> MOAT_SIZE_BITS != 0 || size_bytes > SIZE_MAX - MOAT_LEAD_BYTES - rear_least) {
        return NULL;
    }
    void *block = guard->backend->alloc(guard->backend_context, MOAT_LEAD_BYTES + size_bytes + rear_least, alignment,
                                        MOAT_LEAD_BYTES);
    if (block == NULL) {
        return NULL;
    }
    uintptr_t user = (uintptr_t)block + MOAT_LEAD_BYTES;
    struct moat_span *range = range_of(guard, user);
    size_t usable_bytes = guard->backend->usable(guard->backend_context, block);
    if (range == NULL || usable_bytes < MOAT_LEAD_BYTES + size_bytes + rear_least) {
        guard->backend->free(guard->backend_context, block);
        return NULL; /* memory the map was never told of, or a backend that does not keep its word */
    }
    if (guard->fresh != NULL && !guard->fresh(guard, (uintptr_t)block, (uintptr_t)block + usable_bytes, call)) {
        return NULL; /* and it stays where it is: giving it back would touch what lies there */
    }
    size_t rear_bytes = usable_bytes - MOAT_LEAD_BYTES - size_bytes;
    rear_bytes = rear_bytes < MOAT_REAR_BYTES_MAX ? rear_bytes : MOAT_REAR_BYTES_MAX;

    struct moat_header *header = moat_header_of(user);
    header->allocation_thread = call->thread;
    header->free_thread = 0;
    header->allocation_stack = call->stack;
    header->free_stack = 0;
    moat_header_set_size(header, size_bytes, MOAT_BLOCK_LIVE, call->family);
    moat_header_set_sequence(header, call->event, moat_coarse_size(size_bytes), rear_bytes);
    moat_header_seal(header, secret, user);
    moat_zone_write(secret, user - MOAT_FRONT_BYTES, user);
    moat_zone_write(secret, user + size_bytes, user + size_bytes + rear_bytes);
    size_t index = moat_span_index(range, user);
    moat_bit_set(range->starts, index);
    moat_bit_set(range->live, index);

    guard->counts.allocations++;
    guard->counts.live_blocks++;
    guard->counts.live_bytes += size_bytes;
    guard->counts.dressed_bytes += MOAT_LEAD_BYTES + size_bytes + rear_bytes;
    if (guard->counts.live_bytes > guard->counts.peak_bytes) {
        guard->counts.peak_bytes = guard->counts.live_bytes;
    }
    return (void *)user;
}

void moat_guard_fill(const struct moat_guard *guard, void *user, size_t size_bytes) {
    size_t fill_bytes = guard->config->fill_bytes;
    unsigned with = guard->config->fill_with;
    memset(user, with != 0 ? (int)(with & 0xffu) : (int)MOAT_FILL_BYTE,
           size_bytes < fill_bytes ? size_bytes : fill_bytes);
}

/* Which calls may free what: free takes what any C call allocated, the operators only their own. */
static bool family_fits(unsigned block_family, unsigned call_family) {
    return block_family == call_family || (call_family == MOAT_FAMILY_MALLOC && block_family == MOAT_FAMILY_ALIGNED);
}

static bool live_and_whole(const struct moat_guard *guard, const struct moat_span *range, uintptr_t user) {
    const uint64_t secret = guard->config->secret;
    if (range == NULL || !moat_span_is_start(range, user) || !moat_bit(range->live, moat_span_index(range, user))) {
        return false;
    }
    const struct moat_header *header = moat_header_of(user);
    if (!moat_header_whole(header, secret, user) || moat_header_state(header) != MOAT_BLOCK_LIVE) {
        return false;
    }
    uintptr_t end = user + moat_header_size(header);
    return moat_front_whole(secret, user) && moat_zone_whole(secret, end, end + moat_header_rear(header));
}

bool moat_guard_live_and_whole(const struct moat_guard *guard, uintptr_t user) {
    return live_and_whole(guard, range_of(guard, user), user);
}

bool moat_guard_prove(const struct moat_guard *guard, void *user, const struct moat_call *call, size_t *size_bytes) {
    uintptr_t address = (uintptr_t)user;
    if (!live_and_whole(guard, range_of(guard, address), address)) {
        return false;
    }
    const struct moat_header *header = moat_header_of(address);
    *size_bytes = moat_header_size(header);
    return family_fits(moat_header_family(header), call->family);
}

bool moat_guard_claim(struct moat_guard *guard, void *user, const struct moat_call *call, size_t *size_bytes) {
    uintptr_t address = (uintptr_t)user;
    struct moat_span *range = range_of(guard, address);
    if (!live_and_whole(guard, range, address)) {
        return false;
    }
    struct moat_header *header = moat_header_of(address);
    if (!family_fits(moat_header_family(header), call->family)) {
        return false;
    }
    uint64_t size = moat_header_size(header);
    moat_bit_clear(range->live, moat_span_index(range, address));
    moat_header_set_size(header, size, MOAT_BLOCK_FILLING, moat_header_family(header));
    header->free_stack = call->stack;
    header->free_thread = call->thread;
    moat_header_seal(header, guard->config->secret, address);
    if (guard->backend->detach != NULL) {
        guard->backend->detach(guard->backend_context, block_of(address), MOAT_HEADER_BYTES);
    }
    guard->counts.frees++;
    guard->counts.live_blocks--;
    guard->counts.live_bytes -= size;
    guard->counts.dressed_bytes -= MOAT_LEAD_BYTES + size + moat_header_rear(header);
    *size_bytes = (size_t)size;
    return true;
}

void moat_guard_poison(const struct moat_guard *guard, void *user, size_t size_bytes) {
    if (guard->backend->conceal == NULL) {
        memset(user, MOAT_POISON_BYTE, size_bytes);
    }
}

static size_t footprint_of(const struct moat_header *header) {
    return MOAT_LEAD_BYTES + moat_header_size(header) + moat_header_rear(header) + sizeof(uintptr_t);
}

bool moat_guard_enqueue(struct moat_guard *guard, void *user, const struct moat_call *call,
                        struct moat_finding *finding) {
    uintptr_t address = (uintptr_t)user;
    size_t footprint_bytes = MOAT_LEAD_BYTES;
    if (guard->backend->conceal != NULL) {
        guard->backend->conceal(guard->backend_context, block_of(address));
    }
    struct moat_header *header = moat_guard_header(guard, address);
    /* It lay open while it was filled: a header damaged since must not be sealed anew, one retired since not revived. */
    if (moat_header_whole(header, guard->config->secret, address)) {
        if (moat_header_state(header) != MOAT_BLOCK_FILLING) {
            return true;
        }
        moat_header_set_size(header, moat_header_size(header), MOAT_BLOCK_QUARANTINED, moat_header_family(header));
        moat_header_seal(header, guard->config->secret, address);
        footprint_bytes = footprint_of(header);
    }
    bool too_large = guard->config->hard_budget && footprint_bytes > guard->near.budget_bytes;
    if (guard->near.budget_bytes != 0 && !too_large &&
        moat_quarantine_push(&guard->near, moat_quarantine_entry_make(address, call->event, footprint_bytes))) {
        return true;
    }
    struct moat_victim victim = {.user = user, .event = call->event};
    return moat_guard_give_back(guard, &victim, call, finding);
}

/* A hash of the entry chooses those that go on, whatever the order of frees. */
static bool goes_far(const struct moat_guard *guard, const struct moat_quarantine_entry *entry) {
    uint64_t hash = (uint32_t)((entry->user >> MOAT_GRANULE_SHIFT ^ entry->event) * UINT64_C(0x9e3779b97f4a7c15) >> 32);
    return guard->far.capacity != 0 && hash * guard->config->far_one_in >> 32 == 0;
}

static struct moat_victim victim_of(struct moat_quarantine_entry entry) {
    return (struct moat_victim){.user = (void *)entry.user, .event = entry.event};
}

size_t moat_guard_pop(struct moat_guard *guard, size_t more_bytes, bool drain,
                      struct moat_victim victims[MOAT_VICTIMS_MAX]) {
    size_t count = 0;
    for (unsigned step = 0; step < MOAT_POP_STEPS && count < MOAT_VICTIMS_MAX; step++) {
        /* The newest may be over the budget by itself; without a budget none is kept. */
        size_t kept_count = !drain && more_bytes == 0 && guard->near.budget_bytes != 0;
        if (guard->near.count <= kept_count || !(drain || moat_quarantine_over(&guard->near, more_bytes))) {
            break;
        }
        struct moat_quarantine_entry entry = guard->near.entries[guard->near.head];
        if (drain || !goes_far(guard, &entry)) {
            victims[count++] = victim_of(moat_quarantine_pop(&guard->near));
            continue;
        }
        size_t entry_bytes = moat_quarantine_bytes(&entry);
        if (moat_quarantine_over(&guard->far, entry_bytes)) {
            if (count + 2 > MOAT_VICTIMS_MAX) {
                break; /* two may have to leave for it: next time */
            }
            victims[count++] = victim_of(moat_quarantine_pop(&guard->far));
        }
        moat_quarantine_pop(&guard->near);
        /* If one was by far not enough, as when a large block comes after many small ones, the newcomer leaves instead: the far
         * tier never outgrows its budget by more than a sixteenth. */
        bool too_much = guard->far.held_bytes + entry_bytes > guard->far.budget_bytes + guard->far.budget_bytes / 16;
        if ((too_much && guard->far.count != 0) || !moat_quarantine_push(&guard->far, entry)) {
            victims[count++] = victim_of(entry);
        }
    }
    if (drain && count == 0 && guard->far.count != 0) {
        victims[count++] = victim_of(moat_quarantine_pop(&guard->far));
    }
    return count;
}

bool moat_guard_victim_whole(const struct moat_guard *guard, const struct moat_victim *victim) {
    const uint64_t secret = guard->config->secret;
    uintptr_t user = (uintptr_t)victim->user;
    const struct moat_header *header = moat_guard_header(guard, user);
    if (!moat_header_whole(header, secret, user) || moat_header_state(header) != MOAT_BLOCK_QUARANTINED) {
        return false;
    }
    if (guard->backend->dress != NULL) {
        return true; /* nobody can have written to it */
    }
    uintptr_t end = user + moat_header_size(header);
    return moat_front_whole(secret, user) && moat_poison_whole(user, moat_header_size(header)) &&
           moat_zone_whole(secret, end, end + moat_header_rear(header));
}

bool moat_guard_backend_agrees(const struct moat_guard *guard, uintptr_t user) {
    const struct moat_header *header = moat_guard_header(guard, user);
    size_t usable_bytes = guard->backend->usable(guard->backend_context, block_of(user));
    size_t dressed_bytes = MOAT_LEAD_BYTES + moat_header_size(header) + moat_header_rear(header);
    return usable_bytes == dressed_bytes ||
           (moat_header_rear(header) == MOAT_REAR_BYTES_MAX && usable_bytes > dressed_bytes);
}

bool moat_guard_give_back(struct moat_guard *guard, const struct moat_victim *victim, const struct moat_call *call,
                          struct moat_finding *finding) {
    static const char refused[] = "the allocator takes its own blocks back";
    uintptr_t user = (uintptr_t)victim->user;
    struct moat_span *range = range_of(guard, user);
    const struct moat_header *header = moat_guard_header(guard, user);
    if (!moat_header_whole(header, guard->config->secret, user)) {
        /* Damaged since it was proved; there is always a finding, and in a freed block only one. */
        struct moat_findings findings;
        moat_guard_diagnose_block(guard, user, call, victim->event, &findings);
        if (findings.count != 0) {
            *finding = findings.item[0];
        }
        return findings.count == 0;
    }
    if (moat_header_state(header) == MOAT_BLOCK_RETIRED) {
        return true;
    }
    struct moat_block_facts facts = moat_header_facts(header, user);
    bool agreed = range != NULL && moat_guard_backend_agrees(guard, user);
    if (agreed) {
        moat_bit_clear(range->starts, moat_span_index(range, user)); /* first: the range may go with the block */
        if (guard->backend->free(guard->backend_context, block_of(user))) {
            return true;
        }
        moat_bit_set(range->starts, moat_span_index(range, user));
    }
    moat_guard_retire(guard, user);
    moat_guard_fault_finding(guard, &facts, call, finding);
    if (agreed && guard->backend->fault == NULL) {
        memcpy(finding->rule, refused, sizeof refused);
    }
    return false;
}

bool moat_guard_resize(struct moat_guard *guard, void *user, size_t size_bytes, const struct moat_call *call) {
    uintptr_t address = (uintptr_t)user;
    struct moat_header *header = moat_header_of(address);
    uint64_t old_bytes = moat_header_size(header);
    unsigned moved = moat_header_moved(header);
    size_t rear_least = guard->rear_optional ? 0 : guard->config->rear_bytes;
    if (guard->config->realloc_always_moves || old_bytes <= MOAT_REALLOC_SMALL_BYTES ||
        size_bytes <= MOAT_REALLOC_SMALL_BYTES || size_bytes > SIZE_MAX - MOAT_LEAD_BYTES - rear_least ||
        (uint64_t)size_bytes >> MOAT_SIZE_BITS != 0 ||
        (size_bytes > old_bytes && moat_coarse_size(size_bytes) >= moved + MOAT_REALLOC_GROWTH_STEPS) ||
        guard->backend->resize == NULL) {
        return false;
    }
    size_t block_bytes = MOAT_LEAD_BYTES + size_bytes + rear_least;
    if (!guard->backend->resize(guard->backend_context, block_of(address), block_bytes)) {
        return false;
    }
    size_t usable_bytes = guard->backend->usable(guard->backend_context, block_of(address));
    if (usable_bytes < block_bytes) {
        return false; /* a backend that does not keep its word; the block will be refused when it goes back */
    }
    size_t rear_bytes = usable_bytes - MOAT_LEAD_BYTES - size_bytes;
    rear_bytes = rear_bytes < MOAT_REAR_BYTES_MAX ? rear_bytes : MOAT_REAR_BYTES_MAX;
    guard->counts.dressed_bytes += size_bytes + rear_bytes - old_bytes - moat_header_rear(header);
    /* The latest caller is who made the block what it is: its stack replaces the first one's. */
    header->allocation_stack = call->stack;
    header->allocation_thread = call->thread;
    moat_header_set_size(header, size_bytes, MOAT_BLOCK_LIVE, moat_header_family(header));
    moat_header_set_sequence(header, moat_header_sequence(header), moved, rear_bytes);
    moat_header_seal(header, guard->config->secret, address);
    moat_zone_write(guard->config->secret, address + size_bytes, address + size_bytes + rear_bytes);
    guard->counts.live_bytes += size_bytes - old_bytes;
    if (guard->counts.live_bytes > guard->counts.peak_bytes) {
        guard->counts.peak_bytes = guard->counts.live_bytes;
    }
    return true;
}
