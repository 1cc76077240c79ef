/* What is wrong with a block or a pointer: turns a refusal into findings. Off the fast path. May include: guard.h only.
 *
 * Nothing here trusts a header whose sum is wrong; where blocks lie is known from the map alone. */
#include "guard/engine/guard.h"

/* Bytes of the dump before the first bad one, and its granularity. */
#define MOAT_DUMP_BEFORE_BYTES 16
/* How far a neighbour may be away to be worth naming. */
#define MOAT_NEIGHBOUR_BYTES 4096u
/* Blocks that one call of sweep looks at. */
#define MOAT_SWEEP_BLOCKS 64u
/* Smashed headers that are followed back to the block whose overflow smashed them. */
#define MOAT_RUN_BLOCKS 64u

static struct moat_span *range_of(const struct moat_guard *guard, uintptr_t address) {
    struct moat_span *range = guard->locator.find(guard->locator.context, address);
    return range != NULL && atomic_load(&range->guard) == guard ? range : NULL;
}

/* The nearest user pointer at or below an address, across ranges that touch. */
static uintptr_t start_below(const struct moat_guard *guard, uintptr_t address, size_t most_bytes) {
    uintptr_t at = address;
    for (;;) {
        const struct moat_span *range = range_of(guard, at);
        if (range == NULL) {
            return 0;
        }
        uintptr_t found = moat_span_start_below(range, at, most_bytes - (address - at));
        if (found != 0) {
            return found;
        }
        at = moat_span_start(range) - 1;
        if (address - at > most_bytes) {
            return 0;
        }
    }
}

static uintptr_t start_above(const struct moat_guard *guard, uintptr_t address, size_t most_bytes) {
    const struct moat_span *range = range_of(guard, address);
    uintptr_t found = range == NULL ? 0 : moat_span_start_above(range, address);
    if (range != NULL && found == 0) {
        range = range_of(guard, moat_span_end(range));
        found = range == NULL ? 0 : moat_span_start_above(range, moat_span_start(range));
    }
    return found != 0 && found - address <= most_bytes ? found : 0;
}

static bool is_live(const struct moat_guard *guard, uintptr_t user) {
    const struct moat_span *range = range_of(guard, user);
    return range != NULL && moat_span_is_start(range, user) && moat_bit(range->live, moat_span_index(range, user));
}

struct moat_block_facts moat_guard_facts(const struct moat_guard *guard, uintptr_t user, bool *header_lost) {
    const struct moat_header *header = moat_guard_header(guard, user);
    *header_lost = !moat_header_whole(header, guard->config->secret, user);
    if (!*header_lost) {
        return moat_header_facts(header, user);
    }
    return (struct moat_block_facts){.address = user,
                                     .state = is_live(guard, user) ? MOAT_BLOCK_LIVE : MOAT_BLOCK_QUARANTINED};
}

uintptr_t moat_guard_block_at(const struct moat_guard *guard, uintptr_t address, struct moat_block_facts *facts) {
    bool lost;
    uintptr_t user = start_below(guard, address, guard->config->scan_bytes + MOAT_LEAD_BYTES + MOAT_REAR_BYTES_MAX);
    if (user != 0) {
        struct moat_block_facts below = moat_guard_facts(guard, user, &lost);
        size_t rear_bytes = lost ? 0 : moat_header_rear(moat_guard_header(guard, user));
        if (address - user < below.size_bytes + rear_bytes || address == user) {
            if (facts != NULL) {
                *facts = below;
            }
            return user;
        }
    }
    user = start_above(guard, address, MOAT_LEAD_BYTES);
    if (user != 0 && facts != NULL) {
        *facts = moat_guard_facts(guard, user, &lost);
    }
    return user;
}

void moat_guard_neighbours(const struct moat_guard *guard, uintptr_t user, struct moat_block_facts neighbour[2]) {
    bool lost;
    uintptr_t before = start_below(guard, user - 1, MOAT_NEIGHBOUR_BYTES);
    const struct moat_header *header = moat_guard_header(guard, user);
    size_t size_bytes = moat_header_whole(header, guard->config->secret, user) ? moat_header_size(header) : 0;
    uintptr_t end = user + (size_bytes != 0 ? size_bytes : 1);
    uintptr_t after = start_above(guard, end, MOAT_NEIGHBOUR_BYTES);
    neighbour[0] = before != 0 ? moat_guard_facts(guard, before, &lost) : (struct moat_block_facts){0};
    neighbour[1] = after != 0 ? moat_guard_facts(guard, after, &lost) : (struct moat_block_facts){0};
}

void moat_guard_retire(struct moat_guard *guard, uintptr_t user) {
    struct moat_header *header = moat_guard_header(guard, user);
    if (!moat_header_whole(header, guard->config->secret, user)) {
        /* What it was is lost: all that the backend vouches for counts as the user's, so that a realloc loses nothing. */
        size_t usable_bytes = guard->backend->usable(guard->backend_context, (void *)(user - MOAT_LEAD_BYTES));
        size_t size_bytes = usable_bytes > MOAT_LEAD_BYTES ? usable_bytes - MOAT_LEAD_BYTES : 0;
        memset(header, 0, sizeof *header);
        moat_header_set_size(header, size_bytes, MOAT_BLOCK_RETIRED, MOAT_FAMILY_MALLOC);
    }
    moat_header_set_size(header, moat_header_size(header), MOAT_BLOCK_RETIRED, moat_header_family(header));
    moat_header_seal(header, guard->config->secret, user);
    guard->counts.retired_blocks++;
}

/* ---- the bytes ------------------------------------------------------------------------------------------------------- */

/* What a byte of a dressed block must be; -1 where anything goes. */
static int expected_byte(const struct moat_guard *guard, const struct moat_block_facts *facts, size_t rear_bytes,
                         bool freed, int64_t offset) {
    uintptr_t address = (uintptr_t)facts->address + (uintptr_t)offset;
    int64_t size = (int64_t)facts->size_bytes;
    if (offset < -(int64_t)MOAT_FRONT_BYTES) {
        return -1;
    }
    if (offset < 0 || (offset >= size && offset < size + (int64_t)rear_bytes)) {
        return moat_zone_byte(guard->config->secret, address);
    }
    return freed && offset < size ? (int)MOAT_POISON_BYTE : -1;
}

struct damage {
    int64_t first, last;
    uint64_t count;
};

/* The bad bytes in [from, to). */
static struct damage damage_between(const struct moat_guard *guard, const struct moat_block_facts *facts,
                                    size_t rear_bytes, bool freed, int64_t from, int64_t to) {
    struct damage damage = {0, -1, 0};
    const unsigned char *user = (const unsigned char *)(uintptr_t)facts->address;
    for (int64_t offset = from; offset < to; offset++) {
        int expected = expected_byte(guard, facts, rear_bytes, freed, offset);
        if (expected >= 0 && user[offset] != expected) {
            damage.first = damage.count == 0 ? offset : damage.first;
            damage.last = offset;
            damage.count++;
        }
    }
    return damage;
}

static void dump_fill(const struct moat_guard *guard, size_t rear_bytes, bool freed, struct moat_finding *finding) {
    struct moat_dump *dump = &finding->dump;
    const unsigned char *user = (const unsigned char *)(uintptr_t)finding->block.address;
    int64_t size = (int64_t)finding->block.size_bytes;
    int64_t from = (finding->first & ~INT64_C(7)) - MOAT_DUMP_BEFORE_BYTES;
    from = from < -(int64_t)MOAT_FRONT_BYTES ? -(int64_t)MOAT_FRONT_BYTES : from;
    int64_t to = size + (int64_t)rear_bytes;
    to = to > from + MOAT_DUMP_BYTES ? from + MOAT_DUMP_BYTES : to;
    dump->offset = from;
    dump->length = to > from ? (uint32_t)(to - from) : 0;
    for (uint32_t i = 0; i < dump->length; i++) {
        int64_t offset = from + (int64_t)i;
        int expected = expected_byte(guard, &finding->block, rear_bytes, freed, offset);
        dump->bytes[i] = user[offset];
        if (expected >= 0 && user[offset] != expected) {
            dump->bad |= UINT64_C(1) << i;
            dump->expected[i] = (unsigned char)expected;
        }
        if (offset < 0 || offset >= size) {
            dump->outside |= UINT64_C(1) << i;
        }
    }
}

/* ---- findings ----------------------------------------------------------------------------------------------------------- */

static struct moat_finding *finding_new(struct moat_findings *findings, unsigned kind, const struct moat_call *call) {
    struct moat_finding *finding = &findings->item[findings->count++];
    memset(finding, 0, sizeof *finding);
    finding->kind = (uint8_t)kind;
    finding->when = call->when;
    finding->caller_family = call->family;
    finding->thread = call->thread;
    finding->found_stack = call->stack;
    return finding;
}

static void window_set(const struct moat_guard *guard, uint64_t since, const struct moat_call *call,
                       struct moat_finding *finding) {
    uint64_t whole_at = since != 0 ? since : finding->block.sequence;
    finding->whole_at = guard->last_check_event > whole_at ? guard->last_check_event : whole_at;
    finding->bad_by = call->event;
}

static void damage_finding(struct moat_guard *guard, unsigned kind, const struct moat_block_facts *facts, bool freed,
                           struct damage damage, uint64_t since, const struct moat_call *call,
                           struct moat_findings *findings) {
    struct moat_finding *finding = finding_new(findings, kind, call);
    size_t rear_bytes = moat_header_rear(moat_guard_header(guard, (uintptr_t)facts->address));
    finding->block = *facts;
    finding->first = damage.first;
    finding->last = damage.last;
    finding->bad_count = damage.count;
    window_set(guard, since, call, finding);
    dump_fill(guard, rear_bytes, freed, finding);
    moat_guard_neighbours(guard, (uintptr_t)facts->address, finding->neighbour);
}

static bool header_lost(const struct moat_guard *guard, uintptr_t user) {
    return !moat_header_whole(moat_guard_header(guard, user), guard->config->secret, user);
}

static struct damage front_damage(const struct moat_guard *guard, uintptr_t user) {
    struct moat_block_facts facts = {.address = user};
    return damage_between(guard, &facts, 0, false, -(int64_t)MOAT_FRONT_BYTES, 0);
}

/* Whether bad bytes fill the front zone, so that they may well go on into the block. */
static bool runs_through(struct damage front) { return front.first == -(int64_t)MOAT_FRONT_BYTES && front.last == -1; }

/* The nearest block behind a block's end that nothing but the backend's own word separates from it; 0: none. */
static uintptr_t adjacent_above(const struct moat_guard *guard, uintptr_t end) {
    return start_above(guard, end, MOAT_LEAD_BYTES + sizeof(uint64_t));
}

/* Whether the backend does not know a block with a whole header any more, and no overflow of that block's own explains it. */
static bool word_smashed(struct moat_guard *guard, uintptr_t user) {
    const struct moat_header *header = moat_guard_header(guard, user);
    struct moat_block_facts facts = moat_header_facts(header, user);
    size_t rear_bytes = moat_header_rear(header);
    int64_t end = (int64_t)(facts.size_bytes + rear_bytes);
    struct damage rear = damage_between(guard, &facts, rear_bytes, false, (int64_t)facts.size_bytes, end);
    return facts.state != MOAT_BLOCK_RETIRED && !moat_guard_backend_agrees(guard, user) && rear.last != end - 1;
}

/* Bad bytes that run through the rear zone into the next blocks' headers are one overflow. Extends `damage` over what can
 * be proved bad there and retires those blocks, so that they are not reported as well. */
static void overflow_extend(struct moat_guard *guard, const struct moat_block_facts *facts, size_t rear_bytes,
                            struct damage *damage) {
    uintptr_t end = (uintptr_t)(facts->address + facts->size_bytes) + rear_bytes;
    uintptr_t next = damage->last == (int64_t)(facts->size_bytes + rear_bytes) - 1 ? adjacent_above(guard, end) : 0;
    while (next != 0) {
        bool lost = header_lost(guard, next);
        struct damage front = front_damage(guard, next);
        if (!lost && !word_smashed(guard, next)) {
            return;
        }
        /* A whole header that the backend no longer knows: the bytes ended in the backend's word before it, of which the first
         * at least is bad. */
        int64_t distance = (int64_t)(next - (uintptr_t)facts->address);
        int64_t last =
            !lost ? damage->last + 1 : distance + (front.count != 0 ? front.last : -(int64_t)MOAT_LEAD_BYTES);
        damage->count += (uint64_t)(last - damage->last);
        damage->last = last;
        moat_guard_retire(guard, next);
        next = lost && runs_through(front) ? start_above(guard, next + 1, guard->config->scan_bytes) : 0;
    }
}

/* The nearest block with a whole header from which bad bytes may have run into this block's; 0: none. */
static uintptr_t run_origin(const struct moat_guard *guard, uintptr_t user) {
    for (unsigned i = 0; i < MOAT_RUN_BLOCKS; i++) {
        user = start_below(guard, user - 1, guard->config->scan_bytes + MOAT_LEAD_BYTES + MOAT_REAR_BYTES_MAX);
        if (user == 0 || !header_lost(guard, user)) {
            return user;
        }
        if (!runs_through(front_damage(guard, user))) {
            return 0;
        }
    }
    return 0;
}

/* A block whose header's sum is right. */
static void diagnose_dressed(struct moat_guard *guard, uintptr_t user, bool freed, uint64_t since,
                             const struct moat_call *call, struct moat_findings *findings) {
    const struct moat_header *header = moat_guard_header(guard, user);
    struct moat_block_facts facts = moat_header_facts(header, user);
    size_t rear_bytes = moat_header_rear(header);
    int64_t size = (int64_t)facts.size_bytes;
    int64_t end = size + (int64_t)rear_bytes;
    if (freed && guard->backend->dress != NULL) {
        return;
    }
    if (freed) {
        struct damage damage = damage_between(guard, &facts, rear_bytes, true, -(int64_t)MOAT_FRONT_BYTES, end);
        if (damage.count != 0) {
            overflow_extend(guard, &facts, rear_bytes, &damage);
            damage_finding(guard, MOAT_HEAP_USE_AFTER_FREE, &facts, true, damage, since, call, findings);
        }
    } else {
        struct damage rear = damage_between(guard, &facts, rear_bytes, false, size, end);
        struct damage front = damage_between(guard, &facts, rear_bytes, false, -(int64_t)MOAT_FRONT_BYTES, 0);
        if (rear.count != 0) {
            overflow_extend(guard, &facts, rear_bytes, &rear);
            damage_finding(guard, MOAT_HEAP_BUFFER_OVERFLOW, &facts, false, rear, since, call, findings);
        }
        if (front.count != 0) {
            damage_finding(guard, MOAT_HEAP_BUFFER_UNDERFLOW, &facts, false, front, since, call, findings);
        }
    }
    if (findings->count != 0) {
        moat_guard_retire(guard, user);
    }
}

/* A smashed header that an overflow of a block before it explains: one finding, of that block. False: it explains nothing. */
static bool diagnose_run(struct moat_guard *guard, uintptr_t user, const struct moat_call *call,
                         struct moat_findings *findings) {
    uintptr_t origin = run_origin(guard, user);
    if (origin == 0) {
        return false;
    }
    const struct moat_header *header = moat_guard_header(guard, origin);
    struct moat_block_facts facts = moat_header_facts(header, origin);
    size_t rear_bytes = moat_header_rear(header);
    int64_t end = (int64_t)(facts.size_bytes + rear_bytes);
    if (facts.sequence == 0) {
        return false; /* retired with its header lost: where its zones were is not known */
    }
    /* A block that is being filled is not poison yet: of it only the rear zone can be told. */
    bool freed = !is_live(guard, origin) && facts.state != MOAT_BLOCK_FILLING;
    struct damage damage = damage_between(guard, &facts, rear_bytes, freed,
                                          freed ? -(int64_t)MOAT_FRONT_BYTES : (int64_t)facts.size_bytes, end);
    if (damage.count == 0 || damage.last != end - 1 || adjacent_above(guard, origin + (uintptr_t)end) == 0) {
        return false;
    }
    overflow_extend(guard, &facts, rear_bytes, &damage);
    if (header_lost(guard, user)) {
        return false; /* the bad bytes ended before they came to it */
    }
    if (facts.state != MOAT_BLOCK_RETIRED) {
        unsigned kind = freed ? MOAT_HEAP_USE_AFTER_FREE : MOAT_HEAP_BUFFER_OVERFLOW;
        damage_finding(guard, kind, &facts, freed, damage, 0, call, findings);
        moat_guard_retire(guard, origin);
    }
    return true;
}

/* A block whose header's sum is wrong: an overflow of a block before it, an underflow of its own, or neither. */
static void diagnose_lost(struct moat_guard *guard, uintptr_t user, bool freed, uint64_t since,
                          const struct moat_call *call, struct moat_findings *findings) {
    bool lost;
    if (diagnose_run(guard, user, call, findings)) {
        return;
    }
    struct moat_block_facts facts = moat_guard_facts(guard, user, &lost);
    struct damage front = front_damage(guard, user);
    moat_guard_retire(guard, user);
    bool through_front = front.count != 0;
    unsigned kind = through_front && !freed ? MOAT_HEAP_BUFFER_UNDERFLOW : MOAT_CORRUPTED_METADATA;
    struct moat_finding *finding = finding_new(findings, kind, call);
    finding->block = facts;
    finding->header_lost = 1;
    finding->first = -(int64_t)MOAT_LEAD_BYTES;
    finding->last = through_front ? front.last : -(int64_t)MOAT_FRONT_BYTES - 1;
    finding->bad_count = (uint64_t)(finding->last - finding->first + 1);
    memcpy(finding->rule, "guard header's checksum", sizeof "guard header's checksum");
    window_set(guard, since, call, finding);
    dump_fill(guard, 0, false, finding);
    moat_guard_neighbours(guard, user, finding->neighbour);
}

void moat_guard_diagnose_block(struct moat_guard *guard, uintptr_t user, const struct moat_call *call, uint64_t since,
                               struct moat_findings *findings) {
    const struct moat_header *header = moat_guard_header(guard, user);
    bool freed = !is_live(guard, user);
    findings->count = 0;
    if (!moat_header_whole(header, guard->config->secret, user)) {
        diagnose_lost(guard, user, freed, since, call, findings);
    } else if (moat_header_state(header) != MOAT_BLOCK_RETIRED) {
        diagnose_dressed(guard, user, freed, since, call, findings);
    }
}

/* A pointer at which no block starts. */
static void diagnose_stranger(struct moat_guard *guard, uintptr_t address, const struct moat_call *call,
                              struct moat_findings *findings) {
    struct moat_finding *finding = finding_new(findings, MOAT_INVALID_FREE, call);
    finding->address = address;
    uintptr_t user = moat_guard_block_at(guard, address, &finding->block);
    if (user != 0) {
        finding->place = MOAT_PLACE_BLOCK;
        finding->first = (intptr_t)(address - user); /* negative before the block */
        finding->last = finding->first;
    } else if (range_of(guard, address) != NULL) {
        finding->place = MOAT_PLACE_FREE;
    }
}

bool moat_guard_diagnose_call(struct moat_guard *guard, void *user, const struct moat_call *call,
                              struct moat_findings *findings) {
    uintptr_t address = (uintptr_t)user;
    struct moat_span *range = range_of(guard, address);
    findings->count = 0;
    if (range == NULL || !moat_span_is_start(range, address)) {
        diagnose_stranger(guard, address, call, findings);
        return false;
    }
    size_t index = moat_span_index(range, address);
    bool lost;
    if (!moat_bit(range->live, index)) {
        struct moat_finding *finding = finding_new(findings, MOAT_DOUBLE_FREE, call);
        finding->address = address;
        finding->block = moat_guard_facts(guard, address, &lost);
        finding->header_lost = lost;
        return false;
    }
    bool whole = moat_guard_live_and_whole(guard, address);
    if (!whole) {
        moat_guard_diagnose_block(guard, address, call, 0, findings);
        /* The program let go of it; it stays retired, and a second free of it will be a double free. */
        if (call->when == MOAT_WHEN_FREE || call->when == MOAT_WHEN_REALLOC) {
            const struct moat_header *header = moat_guard_header(guard, address);
            moat_bit_clear(range->live, index);
            guard->counts.frees++;
            guard->counts.live_blocks--;
            /* A size that was lost (no allocation has number 0) stays in the sum: rather too much than less than nothing. */
            if (moat_header_sequence(header) != 0) {
                guard->counts.live_bytes -= moat_header_size(header);
                guard->counts.dressed_bytes -= MOAT_LEAD_BYTES + moat_header_size(header) + moat_header_rear(header);
            }
        }
        return false;
    }
    struct moat_finding *finding = finding_new(findings, MOAT_ALLOC_DEALLOC_MISMATCH, call);
    finding->address = address;
    finding->block = moat_guard_facts(guard, address, &lost);
    return true;
}

void moat_guard_fault_finding(struct moat_guard *guard, const struct moat_block_facts *facts,
                              const struct moat_call *call, struct moat_finding *finding) {
    struct moat_findings findings = {.count = 0};
    struct moat_finding *made = finding_new(&findings, MOAT_CORRUPTED_METADATA, call);
    struct moat_fault fault = {.rule = "size recorded for the block", .block = 0};
    if (guard->backend->fault != NULL) {
        guard->backend->fault(guard->backend_context, &fault);
    }
    if (facts != NULL) {
        made->block = *facts;
        window_set(guard, 0, call, made);
    }
    made->address = fault.block;
    for (size_t i = 0; i + 1 < sizeof made->rule && fault.rule[i] != '\0'; i++) {
        made->rule[i] = fault.rule[i];
    }
    *finding = *made;
}

/* ---- sweep ------------------------------------------------------------------------------------------------------------------ */

static void sweep_block(struct moat_guard *guard, uintptr_t user, const struct moat_call *call,
                        struct moat_findings *findings) {
    struct moat_victim victim = {.user = (void *)user, .event = 0};
    const struct moat_header *header = moat_guard_header(guard, user);
    bool whole = moat_header_whole(header, guard->config->secret, user);
    unsigned state = whole ? moat_header_state(header) : MOAT_BLOCK_NONE;
    if (state == MOAT_BLOCK_FILLING || state == MOAT_BLOCK_RETIRED) {
        return; /* on its way, or reported before */
    }
    if (is_live(guard, user) ? !moat_guard_live_and_whole(guard, user) : !moat_guard_victim_whole(guard, &victim)) {
        moat_guard_diagnose_block(guard, user, call, 0, findings);
    }
}

bool moat_guard_sweep(struct moat_guard *guard, uintptr_t *cursor, const struct moat_call *call,
                      struct moat_findings *findings) {
    findings->count = 0;
    for (unsigned i = 0; i < MOAT_SWEEP_BLOCKS && findings->count == 0; i++) {
        const struct moat_span *range = guard->locator.next(guard->locator.context, guard, *cursor);
        if (range == NULL) {
            return false;
        }
        uintptr_t start = moat_span_start(range);
        uintptr_t user = moat_span_start_above(range, *cursor > start ? *cursor : start);
        if (user == 0) {
            *cursor = moat_span_end(range);
            if (*cursor == 0) {
                return false;
            }
            continue;
        }
        sweep_block(guard, user, call, findings);
        *cursor = user + 1;
    }
    return true;
}
