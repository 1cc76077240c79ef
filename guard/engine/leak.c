/* The leak scan's phases: mark from the roots, tell definite from indirect, group. May include: leak.h only. */
#include "guard/engine/leak.h"

/* A span's marks hold two bit sets: reached from a root, and reached from another lost block. */
static uintptr_t *reached_bits(const struct moat_span *span) { return span->marks; }

static uintptr_t *indirect_bits(const struct moat_span *span) { return span->marks + span->word_count; }

static struct moat_span *span_next(const struct moat_guard *guard, uintptr_t address) {
    return guard->locator.next(guard->locator.context, guard, address);
}

bool moat_leak_begin(struct moat_leak_scan *scan) {
    size_t live_blocks = 0;
    bool complete = true;
    for (size_t i = 0; i < scan->guard_count; i++) {
        const struct moat_guard *guard = scan->guards[i];
        live_blocks += (size_t)guard->counts.live_blocks;
        struct moat_span *span;
        for (uintptr_t at = 0; (span = span_next(guard, at)) != NULL; at = moat_span_end(span)) {
            size_t got_bytes;
            size_t marks_bytes = 2 * span->word_count * sizeof(uintptr_t);
            span->marks = scan->memory->acquire(scan->memory->context, marks_bytes, &got_bytes);
            complete &= span->marks != NULL;
        }
    }
    scan->work_most = 2 * live_blocks + 1; /* every block once to be scanned and once as a candidate */
    scan->work = scan->memory->acquire(scan->memory->context, scan->work_most * sizeof *scan->work, &scan->work_bytes);
    return complete && scan->work != NULL;
}

void moat_leak_end(struct moat_leak_scan *scan) {
    for (size_t i = 0; i < scan->guard_count; i++) {
        struct moat_span *span;
        for (uintptr_t at = 0; (span = span_next(scan->guards[i], at)) != NULL; at = moat_span_end(span)) {
            if (span->marks != NULL && scan->memory->release != NULL) {
                scan->memory->release(scan->memory->context, span->marks, 2 * span->word_count * sizeof(uintptr_t));
            }
            span->marks = NULL;
        }
    }
    if (scan->work != NULL && scan->memory->release != NULL) {
        scan->memory->release(scan->memory->context, scan->work, scan->work_bytes);
    }
    if (scan->groups != NULL && scan->memory->release != NULL) {
        scan->memory->release(scan->memory->context, scan->groups, scan->group_bytes);
    }
}

/* The live block that a word points into: its user pointer, span and size. 0 when it is no pointer to one. */
static uintptr_t block_of_word(const struct moat_leak_scan *scan, uintptr_t word, struct moat_span **span,
                               size_t *size_bytes) {
    for (size_t i = 0; i < scan->guard_count; i++) {
        const struct moat_guard *guard = scan->guards[i];
        struct moat_span *found = guard->locator.find(guard->locator.context, word);
        if (found == NULL || atomic_load_explicit(&found->guard, memory_order_relaxed) != guard) {
            continue;
        }
        struct moat_block_facts facts;
        uintptr_t user = moat_guard_block_at(guard, word, &facts);
        if (user == 0 || word < user || (word - user >= facts.size_bytes && word != user)) {
            return 0;
        }
        *span = guard->locator.find(guard->locator.context, user);
        *size_bytes = (size_t)facts.size_bytes;
        return moat_bit((*span)->live, moat_span_index(*span, user)) ? user : 0;
    }
    return 0;
}

static void work_push(struct moat_leak_scan *scan, uintptr_t user) {
    if (scan->work_count < scan->work_most) {
        scan->work[scan->work_count++] = user;
    }
}

/* The span and facts of a block that a scan came by; NULL and no bytes if it is none. */
static struct moat_span *span_of(const struct moat_leak_scan *scan, uintptr_t user, struct moat_block_facts *facts) {
    *facts = (struct moat_block_facts){0};
    for (size_t i = 0; i < scan->guard_count; i++) {
        const struct moat_guard *guard = scan->guards[i];
        struct moat_span *span = guard->locator.find(guard->locator.context, user);
        if (span != NULL && atomic_load_explicit(&span->guard, memory_order_relaxed) == guard) {
            bool lost;
            *facts = moat_guard_facts(guard, user, &lost);
            return span;
        }
    }
    return NULL;
}

/* Whether a lost block is this process's to report: not inherited, and its header still says what it is. */
static bool reportable(const struct moat_leak_scan *scan, const struct moat_guard *guard, uintptr_t user,
                       struct moat_block_facts *facts) {
    bool lost;
    *facts = moat_guard_facts(guard, user, &lost);
    return !lost && facts->sequence >= scan->since;
}

/* Pushes every block that the words of a range point to and that `bits_of` does not mark yet, and marks it. Blocks marked in
 * `unless` too are passed over. */
static void scan_words(struct moat_leak_scan *scan, uintptr_t start, size_t size_bytes,
                       uintptr_t *(*bits_of)(const struct moat_span *span), uintptr_t self,
                       void (*counted)(void *context, const struct moat_block_facts *facts), void *context) {
    const uintptr_t step = sizeof(uintptr_t);
    uintptr_t end = start + size_bytes;
    for (uintptr_t at = (start + step - 1) & ~(step - 1); at + step <= end; at += step) {
        uintptr_t word;
        struct moat_span *span;
        size_t block_bytes;
        memcpy(&word, (const void *)at, sizeof word);
        if (word < MOAT_LEAD_BYTES) {
            continue;
        }
        uintptr_t user = block_of_word(scan, word, &span, &block_bytes);
        if (user == 0 || user == self) {
            continue;
        }
        size_t index = moat_span_index(span, user);
        bool known = moat_bit(bits_of(span), index) || (bits_of != reached_bits && moat_bit(reached_bits(span), index));
        if (!known) {
            moat_bit_set(bits_of(span), index);
            work_push(scan, user);
            struct moat_block_facts facts;
            if (counted != NULL && reportable(scan, atomic_load(&span->guard), user, &facts)) {
                counted(context, &facts);
            }
        }
    }
}

static void drain(struct moat_leak_scan *scan, uintptr_t *(*bits_of)(const struct moat_span *span), uintptr_t self,
                  void (*counted)(void *context, const struct moat_block_facts *facts), void *context) {
    while (scan->work_count != 0) {
        uintptr_t user = scan->work[--scan->work_count];
        struct moat_block_facts facts;
        span_of(scan, user, &facts);
        scan_words(scan, user, (size_t)facts.size_bytes, bits_of, self, counted, context);
    }
}

void moat_leak_root(struct moat_leak_scan *scan, uintptr_t start, size_t size_bytes) {
    scan_words(scan, start, size_bytes, reached_bits, 0, NULL, NULL);
    drain(scan, reached_bits, 0, NULL, NULL);
}

/* Calls `each` for every lost block that may be reported, in address order. */
static void lost_each(struct moat_leak_scan *scan, void (*each)(struct moat_leak_scan *scan, struct moat_span *span,
                                                                const struct moat_block_facts *facts)) {
    for (size_t i = 0; i < scan->guard_count; i++) {
        const struct moat_guard *guard = scan->guards[i];
        struct moat_span *span;
        for (uintptr_t at = 0; (span = span_next(guard, at)) != NULL; at = moat_span_end(span)) {
            uintptr_t user = moat_span_start_above(span, moat_span_start(span));
            for (; user != 0; user = moat_span_start_above(span, user + 1)) {
                size_t index = moat_span_index(span, user);
                struct moat_block_facts facts;
                if (moat_bit(span->live, index) && !moat_bit(reached_bits(span), index) &&
                    reportable(scan, guard, user, &facts)) {
                    each(scan, span, &facts);
                }
            }
        }
    }
}

/* Marks what a candidate reaches, itself left out, unless it was reached itself. */
static bool mark_from(struct moat_leak_scan *scan, struct moat_span *span, uintptr_t user, size_t size_bytes) {
    if (moat_bit(indirect_bits(span), moat_span_index(span, user))) {
        return false;
    }
    scan_words(scan, user, size_bytes, indirect_bits, user, NULL, NULL);
    drain(scan, indirect_bits, user, NULL, NULL);
    return true;
}

/* Candidates are stacked from the work list's far end. */
static void find_candidate(struct moat_leak_scan *scan, struct moat_span *span, const struct moat_block_facts *facts) {
    uintptr_t user = (uintptr_t)facts->address;
    if (mark_from(scan, span, user, (size_t)facts->size_bytes)) {
        moat_bit_set(indirect_bits(span), moat_span_index(span, user));
        scan->work[--scan->work_most] = user;
    }
}

/* Definite is one block of each set of lost blocks that reach each other and that no other lost block reaches; all others are
 * indirect. In address order, every block that no earlier candidate reaches becomes a candidate: each such set has exactly one.
 * Since no candidate reaches a later one, they are then asked again from the last to the first, with fresh marks: who is not
 * reached by then is reached by nobody. */
static void classify(struct moat_leak_scan *scan) {
    size_t work_all = scan->work_most;
    lost_each(scan, find_candidate);
    for (size_t i = 0; i < scan->guard_count; i++) {
        struct moat_span *span;
        for (uintptr_t at = 0; (span = span_next(scan->guards[i], at)) != NULL; at = moat_span_end(span)) {
            memset(indirect_bits(span), 0, span->word_count * sizeof(uintptr_t));
        }
    }
    for (; scan->work_most < work_all; scan->work_most++) {
        uintptr_t user = scan->work[scan->work_most];
        struct moat_block_facts facts;
        struct moat_span *span = span_of(scan, user, &facts);
        mark_from(scan, span, user, (size_t)facts.size_bytes);
    }
}

static void count_definite(struct moat_leak_scan *scan, struct moat_span *span, const struct moat_block_facts *facts) {
    if (moat_bit(indirect_bits(span), moat_span_index(span, (uintptr_t)facts->address))) {
        scan->indirect_blocks++;
        scan->indirect_bytes += facts->size_bytes;
    } else {
        scan->definite_blocks++;
        scan->definite_bytes += facts->size_bytes;
    }
}

static struct moat_leak_group *group_of(struct moat_leak_scan *scan, uint32_t stack) {
    size_t at = (size_t)(stack * UINT32_C(0x9e3779b1)) & (scan->group_most - 1);
    while (scan->groups[at].blocks != 0 && scan->groups[at].stack != stack) {
        at = (at + 1) & (scan->group_most - 1);
    }
    return &scan->groups[at];
}

static void count_indirect(void *context, const struct moat_block_facts *facts) {
    struct moat_leak_group *group = context;
    group->indirect_blocks++;
    group->indirect_bytes += facts->size_bytes;
}

static void group(struct moat_leak_scan *scan, struct moat_span *span, const struct moat_block_facts *facts) {
    uintptr_t user = (uintptr_t)facts->address;
    if (moat_bit(indirect_bits(span), moat_span_index(span, user))) {
        return;
    }
    struct moat_leak_group *own = group_of(scan, facts->allocation_stack);
    own->stack = facts->allocation_stack;
    if (own->blocks == 0) {
        own->example = *facts;
    }
    own->blocks++;
    own->bytes += facts->size_bytes;
    /* What it holds is counted once, for the first that holds it: from here on it counts as reached. */
    scan_words(scan, user, (size_t)facts->size_bytes, reached_bits, user, count_indirect, own);
    drain(scan, reached_bits, user, count_indirect, own);
}

static bool smaller(const struct moat_leak_group *a, const struct moat_leak_group *b) {
    uint64_t bytes_a = a->bytes + a->indirect_bytes;
    uint64_t bytes_b = b->bytes + b->indirect_bytes;
    return bytes_a != bytes_b ? bytes_a < bytes_b : a->example.sequence > b->example.sequence;
}

static void sift(struct moat_leak_group *groups, size_t from, size_t count) {
    for (size_t child; (child = 2 * from + 1) < count; from = child) {
        child += child + 1 < count && smaller(&groups[child + 1], &groups[child]);
        if (!smaller(&groups[child], &groups[from])) {
            return;
        }
        struct moat_leak_group swap = groups[from];
        groups[from] = groups[child];
        groups[child] = swap;
    }
}

/* Heap sort: in place, no recursion, never quadratic. */
static void sort(struct moat_leak_group *groups, size_t count) {
    for (size_t i = count / 2; i-- > 0;) {
        sift(groups, i, count);
    }
    for (size_t last = count; last-- > 1;) {
        struct moat_leak_group swap = groups[0];
        groups[0] = groups[last];
        groups[last] = swap;
        sift(groups, 0, last);
    }
}

bool moat_leak_finish(struct moat_leak_scan *scan) {
    classify(scan);
    lost_each(scan, count_definite);
    if (scan->definite_blocks == 0) {
        return true;
    }
    scan->group_most = 2;
    while (scan->group_most < 2 * scan->definite_blocks) {
        scan->group_most *= 2;
    }
    scan->groups =
        scan->memory->acquire(scan->memory->context, scan->group_most * sizeof *scan->groups, &scan->group_bytes);
    if (scan->groups == NULL) {
        return false;
    }
    lost_each(scan, group);
    for (size_t i = 0; i < scan->group_most; i++) {
        if (scan->groups[i].blocks != 0) {
            scan->groups[scan->group_count++] = scan->groups[i];
        }
    }
    sort(scan->groups, scan->group_count);
    return true;
}
