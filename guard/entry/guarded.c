/* Guards over allocators of the program's own: the public functions of moat/guard.h. May include: process.h, moat/guard.h.
 *
 * What Moat keeps of a guarded allocator is a shard in pages of Moat's own, never in the program's memory: it stays when the
 * allocator is closed, for the next one, so that nobody who looks at the list or at the map comes by a dangling pointer. */
#include "guard/entry/guarded.h"
#include "guard/port/linux/pages.h"

#include <errno.h>
#include <sched.h>

/* What the blocks of any allocator are aligned to at least. */
#define MOAT_GUARDED_SHIFT 3u
#define MOAT_GUARDED_GRANULE_BYTES ((uintptr_t)1 << MOAT_GUARDED_SHIFT)

/* What an arena's are aligned to when nobody asks: with more, it may skip memory. */
#define MOAT_GUARDED_NATURAL_BYTES (2 * sizeof(uintptr_t))

_Static_assert(MOAT_GUARD_LEAD_BYTES == MOAT_LEAD_BYTES, "what the public header says of a block's cost is true");

/* ---- from the program's struct to the shard -------------------------------------------------------------------------- */

/* What struct moat_guarded's state says besides a shard's address. Zero, in a fresh one: not opened yet. */
static const char opening, closed;

/* Stands for a guard that is none: nothing can be had from it, and what is freed to it is a finding. */
static struct moat_shard nobody = {.guarded = &nobody, .name = "an allocator without guard"};

static void *state_of(const struct moat_guarded *guarded) { return __atomic_load_n(&guarded->state, __ATOMIC_ACQUIRE); }

static void state_set(struct moat_guarded *guarded, const void *state) {
    __atomic_store_n(&guarded->state, (void *)(uintptr_t)state, __ATOMIC_RELEASE);
}

static bool is_shard(const void *state) { return state != NULL && state != &opening && state != &closed; }

static struct moat_shard *open_late(struct moat_guarded *guarded) {
    void *state = state_of(guarded);
    if (state == NULL && guarded->config != NULL) {
        int error = errno;
        moat_guarded_init(guarded, guarded->config);
        errno = error;
        state = state_of(guarded);
    }
    while (state == &opening) {
        sched_yield(); /* another thread was first */
        state = state_of(guarded);
    }
    return is_shard(state) ? state : &nobody;
}

struct moat_shard *moat_guarded_shard(struct moat_guarded *guarded) {
    void *state = state_of(guarded);
    return __builtin_expect(is_shard(state), 1) ? state : open_late(guarded);
}

/* One that is not in use, or a new one; NULL when there is no memory for it. */
static struct moat_shard *shard_get(void) {
    struct moat_shard *shard = atomic_load(&moat_process.guarded);
    for (; shard != NULL; shard = shard->next) {
        bool taken = false;
        if (atomic_compare_exchange_strong(&shard->taken, &taken, true)) {
            return shard;
        }
    }
    const struct moat_source *memory = moat_tune_needed_memory();
    size_t got_bytes;
    shard = memory->acquire(memory->context, sizeof *shard, &got_bytes);
    if (shard != NULL) {
        shard->guarded = shard;
        atomic_store(&shard->taken, true);
        moat_lock_take(&moat_process.large.lock);
        shard->next = atomic_load(&moat_process.guarded);
        atomic_store(&moat_process.guarded, shard);
        moat_lock_give(&moat_process.large.lock);
    }
    return shard;
}

/* ---- memory ---------------------------------------------------------------------------------------------------------- */

static struct moat_span *find(const void *context, uintptr_t address) { return moat_map_find(context, address); }

static struct moat_span *next(const void *context, const struct moat_guard *guard, uintptr_t address) {
    return moat_map_next(context, guard, address);
}

/* Whether memory is nobody's yet, as far as the map of small blocks goes. */
static bool is_unguarded(uintptr_t start, uintptr_t end) {
    return start < end && moat_map_overlapping(&moat_process.map, start, end) == NULL;
}

/* Whether no block with pages of its own lies there. */
static bool is_not_large(uintptr_t start, uintptr_t end) {
    struct moat_shard *large = &moat_process.large;
    moat_lock_take(&large->lock);
    const struct moat_span *span =
        large->ready ? moat_large_next(&moat_process.large_table, &large->guard, start) : NULL;
    bool overlaps = span != NULL && moat_span_start(span) < end;
    moat_lock_give(&large->lock);
    return !overlaps;
}

/* Adds memory to a shard whose lock is held. Granules count from multiples of 8, as blocks do. Gives 0 or an errno. */
static int memory_add(struct moat_shard *shard, uintptr_t start, size_t memory_bytes) {
    uintptr_t end = start + memory_bytes;
    uintptr_t aligned = (start + MOAT_GUARDED_GRANULE_BYTES - 1) & ~(MOAT_GUARDED_GRANULE_BYTES - 1);
    if (start == 0 || end < start || aligned >= end) {
        return EINVAL;
    }
    if (!is_unguarded(aligned, end)) {
        return EEXIST;
    }
    if (!moat_map_add_fine(&moat_process.map, &shard->guard, aligned, end - aligned, MOAT_GUARDED_SHIFT)) {
        return ENOMEM;
    }
    shard->config.scan_bytes += memory_bytes; /* blocks may span pieces that touch */
    return 0;
}

static int memory_add_checked(struct moat_shard *shard, void *memory, size_t memory_bytes) {
    uintptr_t start = (uintptr_t)memory;
    if (start + memory_bytes < start || !is_not_large(start, start + memory_bytes)) {
        return start + memory_bytes < start ? EINVAL : EEXIST;
    }
    moat_lock_take(&shard->lock);
    int error = memory_add(shard, start, memory_bytes);
    moat_lock_give(&shard->lock);
    return error;
}

MOAT_EXPORT bool moat_guarded_add_memory(struct moat_guarded *guarded, void *memory, size_t memory_bytes) {
    struct moat_shard *shard = moat_guarded_shard(guarded);
    int error = shard == &nobody ? EINVAL : memory_add_checked(shard, memory, memory_bytes);
    if (error != 0) {
        errno = error;
    }
    return error == 0;
}

/* The next block at or above `from` and below `end` that the map knows. */
static uintptr_t block_next(const struct moat_shard *shard, uintptr_t from, uintptr_t end) {
    while (from < end) {
        const struct moat_span *span = moat_map_next(&moat_process.map, &shard->guard, from);
        if (span == NULL || moat_span_start(span) >= end) {
            return 0;
        }
        uintptr_t start = moat_span_start(span) > from ? moat_span_start(span) : from;
        uintptr_t user = moat_span_start_between(span, start, end);
        if (user != 0) {
            return user;
        }
        from = moat_span_end(span);
    }
    return 0;
}

/* Whether nothing in a block has to be said any more: freed and whole, or damaged and reported. */
static bool is_settled(const struct moat_shard *shard, uintptr_t user) {
    const struct moat_header *header = moat_guard_header(&shard->guard, user);
    struct moat_victim victim = {.user = (void *)user};
    bool retired =
        moat_header_whole(header, shard->config.secret, user) && moat_header_state(header) == MOAT_BLOCK_RETIRED;
    return retired || moat_guard_victim_whole(&shard->guard, &victim);
}

/* Takes memory out of the map, with the freed blocks in it. Gives 0 or an errno. The shard's lock is held. */
static int memory_remove(struct moat_shard *shard, uintptr_t start, uintptr_t end) {
    bool singly = !shard->rewinds; /* freed blocks that the map still knows are in quarantine, or were retired */
    for (uintptr_t user = block_next(shard, start, end); user != 0; user = block_next(shard, user + 1, end)) {
        if (singly || !is_settled(shard, user)) {
            shard->refused_memory = true;
            return EBUSY;
        }
    }
    if (!moat_map_remove(&moat_process.map, &shard->guard, start, end - start)) {
        return ENOMEM;
    }
    shard->config.scan_bytes -= end - start < shard->config.scan_bytes ? end - start : 0;
    return 0;
}

MOAT_EXPORT bool moat_guarded_remove_memory(struct moat_guarded *guarded, void *memory, size_t memory_bytes) {
    struct moat_shard *shard = moat_guarded_shard(guarded);
    uintptr_t start = (uintptr_t)memory;
    int error = EINVAL;
    if (shard != &nobody && start + memory_bytes > start) {
        moat_lock_take(&shard->lock);
        error = memory_remove(shard, start, start + memory_bytes);
        moat_lock_give(&shard->lock);
    }
    if (error != 0) {
        errno = error;
    }
    return error == 0;
}

/* ---- a source that tells the guard; the shard's lock is held -------------------------------------------------------------- */

static void *source_acquire(void *context, size_t size_bytes, size_t *got_bytes) {
    struct moat_guarded_source *source = context;
    void *state = state_of(source->guarded);
    void *memory = is_shard(state) ? source->inner->acquire(source->inner->context, size_bytes, got_bytes) : NULL;
    if (memory != NULL && memory_add(state, (uintptr_t)memory, *got_bytes) != 0) {
        if (source->inner->release != NULL) {
            source->inner->release(source->inner->context, memory, *got_bytes);
        }
        return NULL;
    }
    return memory;
}

static bool source_release(void *context, void *start, size_t size_bytes) {
    struct moat_guarded_source *source = context;
    void *state = state_of(source->guarded);
    uintptr_t from = (uintptr_t)start;
    if (source->inner->release == NULL || !is_shard(state) || memory_remove(state, from, from + size_bytes) != 0) {
        return false;
    }
    if (source->inner->release(source->inner->context, start, size_bytes)) {
        return true;
    }
    memory_add(state, from,
               size_bytes); /* without room in the map nothing is had from it any more, and nothing breaks */
    return false;
}

MOAT_EXPORT const struct moat_source *moat_guarded_source_init(struct moat_guarded_source *source,
                                                               struct moat_guarded *guarded,
                                                               const struct moat_source *inner) {
    *source = (struct moat_guarded_source){
        .source = {.acquire = source_acquire, .release = source_release, .context = source},
        .guarded = guarded,
        .inner = inner};
    return &source->source;
}

/* ---- memory that is handed out ---------------------------------------------------------------------------------------- */

/* Prints findings on the way. The shard's lock is held, and not in between. */
static void report_between(struct moat_shard *shard, const struct moat_findings *findings) {
    if (findings->count != 0) {
        moat_lock_give(&shard->lock);
        moat_block_report(findings);
        moat_lock_take(&shard->lock);
    }
}

/* Frees one block where it is: poisoned, and held as freed until its memory is handed out again. Blocks freed before stay as they are.
 * The shard's lock is held. */
static void release_block(struct moat_shard *shard, uintptr_t user, const struct moat_call *call,
                          struct moat_findings *findings) {
    size_t size_bytes;
    const struct moat_span *span = moat_map_find(&moat_process.map, user);
    findings->count = 0;
    if (span == NULL || !moat_bit(span->live, moat_span_index(span, user))) {
        return;
    }
    if (!moat_guard_claim(&shard->guard, (void *)user, call, &size_bytes)) {
        moat_guard_diagnose_call(&shard->guard, (void *)user, call, findings);
        return;
    }
    moat_guard_poison(&shard->guard, (void *)user, size_bytes);
    struct moat_header *header = moat_guard_header(&shard->guard, user);
    moat_header_set_size(header, size_bytes, MOAT_BLOCK_QUARANTINED, moat_header_family(header));
    moat_header_seal(header, shard->config.secret, user);
}

/* A block in memory that is handed out again is proved a last time. One that is still live went without the guard being told: it is
 * freed now. */
static void block_goes(struct moat_shard *shard, uintptr_t user, const struct moat_call *call, bool can_be_proved) {
    struct moat_findings findings;
    struct moat_call leaving = *call;
    leaving.when = MOAT_WHEN_FREE;
    release_block(shard, user, &leaving, &findings);
    leaving.when = MOAT_WHEN_QUARANTINE;
    for (size_t i = 0; i < findings.count; i++) {
        findings.item[i].when = leaving.when; /* nobody freed it now */
    }
    if (can_be_proved) {
        report_between(shard, &findings);
    }
    if (can_be_proved && !is_settled(shard, user)) {
        moat_guard_diagnose_block(&shard->guard, user, &leaving, 0, &findings);
        report_between(shard, &findings);
    }
    moat_guard_forget(&shard->guard, user);
}

/* Memory that is handed out while a block of the guard's lies in it. */
static void handed_out_twice(struct moat_shard *shard, uintptr_t user, const struct moat_call *call) {
    static const char rule[] = "memory is handed out to one owner at a time";
    struct moat_findings findings = {.count = 1};
    struct moat_finding *finding = &findings.item[0];
    bool lost;
    moat_guard_fault_finding(&shard->guard, NULL, call, finding);
    finding->block = moat_guard_facts(&shard->guard, user, &lost);
    finding->address = user;
    memcpy(finding->rule, rule, sizeof rule);
    report_between(shard, &findings);
}

/* A block that starts before an address and reaches beyond it; 0: none. */
static uintptr_t block_across(const struct moat_shard *shard, uintptr_t address) {
    uintptr_t user = 0;
    size_t left_bytes = shard->config.scan_bytes;
    for (uintptr_t at = address - 1; user == 0;) {
        const struct moat_span *span = moat_map_find(&moat_process.map, at);
        if (span == NULL || atomic_load(&span->guard) != &shard->guard) {
            return 0;
        }
        user = moat_span_start_below(span, at, left_bytes);
        at = moat_span_start(span) - 1;
        if (address - at > shard->config.scan_bytes) {
            break;
        }
        left_bytes = shard->config.scan_bytes - (address - at);
    }
    const struct moat_header *header = user != 0 ? moat_guard_header(&shard->guard, user) : NULL;
    bool known = header != NULL && moat_header_whole(header, shard->config.secret, user);
    return known && user + moat_header_size(header) + moat_header_rear(header) > address ? user : 0;
}

static bool on_fresh(struct moat_guard *guard, uintptr_t start, uintptr_t end, const struct moat_call *call) {
    struct moat_shard *shard = (struct moat_shard *)(void *)((char *)guard - offsetof(struct moat_shard, guard));
    uintptr_t past = end + MOAT_LEAD_BYTES; /* a block whose header lies in the new one's memory counts, too */
    /* And an arena writes a word in front of a block, before the guard sees it. Where alignment skipped memory, an old block may have
     * been there, which cannot be proved any more; but all were before such an allocation. */
    uintptr_t word = shard->rewinds ? start - sizeof(uintptr_t) : start;
    uintptr_t user = block_across(shard, word);
    user = user != 0 ? user : block_next(shard, start, past);
    if (user == 0) {
        return true;
    }
    if (!shard->rewinds) {
        handed_out_twice(shard, user, call);
        return false;
    }
    for (; user != 0; user = block_next(shard, user < start ? start : user + 1, past)) {
        block_goes(shard, user, call, user - MOAT_LEAD_BYTES >= start);
    }
    return true;
}

/* ---- opening and closing -------------------------------------------------------------------------------------------------- */

static const struct moat_backend *backend_of(const struct moat_guarded_config *config) {
    return config->backend != NULL ? config->backend : config->backend_of != NULL ? config->backend_of() : NULL;
}

static bool is_complete(const struct moat_guarded_config *config, const struct moat_backend *backend) {
    return config->name != NULL && backend != NULL && backend->alloc != NULL && backend->free != NULL &&
           backend->usable != NULL && (config->memory != NULL || config->memory_bytes == 0);
}

/* Takes all of the shard's memory out of the map, and makes it one for the next. */
static void shard_put(struct moat_shard *shard) {
    moat_lock_take(&shard->lock);
    shard->ready = false;
    const struct moat_span *span;
    while ((span = moat_map_next(&moat_process.map, &shard->guard, 0)) != NULL) {
        moat_map_remove(&moat_process.map, &shard->guard, moat_span_start(span), moat_span_size(span));
    }
    moat_tune_release_ring(&shard->guard.near);
    moat_lock_give(&shard->lock);
    atomic_store(&shard->taken, false);
}

/* Gives 0 or an errno. */
static int shard_open(struct moat_shard *shard, const struct moat_guarded_config *config) {
    struct moat_locator locator = {find, next, &moat_process.map};
    moat_lock_take(&shard->lock);
    shard->rewinds = config->rewinds;
    shard->name = config->name;
    shard->refused_memory = false;
    shard->config = moat_process.config;
    shard->config.rear_bytes = MOAT_GUARD_REAR_BYTES; /* sizes of fixed blocks were chosen by it */
    shard->config.near_bytes = config->rewinds ? 0 : config->quarantine_bytes;
    shard->config.far_bytes = 0;
    shard->config.scan_bytes = 0;
    moat_guard_init(&shard->guard, &shard->config, backend_of(config), config->context, locator,
                    moat_tune_spare_memory());
    shard->guard.fresh = on_fresh;
    moat_lock_give(&shard->lock);
    int error = config->memory_bytes == 0 ? 0 : memory_add_checked(shard, config->memory, config->memory_bytes);
    shard->ready = error == 0;
    return error;
}

MOAT_EXPORT bool moat_guarded_init(struct moat_guarded *guarded, const struct moat_guarded_config *config) {
    moat_thread_self(); /* starts Moat where nobody has allocated yet */
    void *before = state_of(guarded);
    if (config == NULL || !is_complete(config, backend_of(config))) {
        errno = EINVAL;
        return false;
    }
    if (is_shard(before) || before == &opening ||
        !__atomic_compare_exchange_n(&guarded->state, &before, (void *)(uintptr_t)&opening, false, __ATOMIC_ACQ_REL,
                                     __ATOMIC_ACQUIRE)) {
        errno = EBUSY;
        return false;
    }
    struct moat_shard *shard = shard_get();
    int error = shard == NULL ? ENOMEM : shard_open(shard, config);
    if (error != 0) {
        if (shard != NULL) {
            shard_put(shard);
        }
        state_set(guarded, before);
        errno = error;
        return false;
    }
    state_set(guarded, shard);
    return true;
}

/* Checks every block of one shard. */
static void sweep(struct moat_shard *shard, uintptr_t caller) {
    uintptr_t cursor = 0;
    struct moat_call call = moat_block_call(MOAT_FAMILY_GUARDED, MOAT_WHEN_CHECK, caller);
    for (bool more = true; more;) {
        struct moat_findings findings;
        moat_lock_take(&shard->lock);
        more = moat_guard_sweep(&shard->guard, &cursor, &call, &findings);
        moat_lock_give(&shard->lock);
        moat_block_report(&findings);
    }
}

void moat_guarded_sweep_refused(struct moat_shard *shard, uintptr_t caller) {
    if (shard->refused_memory) {
        shard->refused_memory = false;
        sweep(shard, caller);
    }
}

void moat_guarded_end(struct moat_guarded *guarded, uintptr_t caller) {
    struct moat_shard *shard = state_of(guarded);
    if (!is_shard(shard)) {
        return;
    }
    struct moat_call call = moat_block_call(MOAT_FAMILY_GUARDED, MOAT_WHEN_CHECK, caller);
    sweep(shard, caller);
    moat_block_drain(shard, &call);
    state_set(guarded, &closed);
    shard_put(shard);
}

MOAT_EXPORT void moat_guarded_close(struct moat_guarded *guarded) { moat_guarded_end(guarded, MOAT_CALLER); }

/* ---- blocks ----------------------------------------------------------------------------------------------------------------- */

static void *allocate(struct moat_guarded *guarded, size_t size_bytes, size_t alignment, uintptr_t caller) {
    struct moat_shard *shard = moat_guarded_shard(guarded);
    if (shard->rewinds && alignment > MOAT_GUARDED_NATURAL_BYTES) {
        sweep(shard, caller); /* see on_fresh */
    }
    struct moat_request request = {.size_bytes = size_bytes,
                                   .alignment = alignment,
                                   .family = shard->rewinds ? MOAT_FAMILY_ARENA : MOAT_FAMILY_GUARDED,
                                   .caller = caller};
    return moat_block_allocate_from(shard, &request);
}

MOAT_EXPORT void *moat_guarded_alloc(struct moat_guarded *guarded, size_t size_bytes) {
    return allocate(guarded, size_bytes, MOAT_GUARDED_GRANULE_BYTES, MOAT_CALLER);
}

MOAT_EXPORT void *moat_guarded_alloc_aligned(struct moat_guarded *guarded, size_t size_bytes, size_t alignment) {
    if (alignment == 0 || (alignment & (alignment - 1)) != 0) {
        return moat_block_refuse(MOAT_ARGUMENT_ALIGNMENT, alignment, size_bytes, EINVAL, MOAT_CALLER);
    }
    alignment = alignment < MOAT_GUARDED_GRANULE_BYTES ? MOAT_GUARDED_GRANULE_BYTES : alignment;
    return allocate(guarded, size_bytes, alignment, MOAT_CALLER);
}

MOAT_EXPORT void moat_guarded_free(struct moat_guarded *guarded, void *block) {
    moat_block_free_to(moat_guarded_shard(guarded), block, MOAT_CALLER);
}

void moat_guarded_release_blocks(struct moat_shard *shard, uintptr_t start, uintptr_t end, uintptr_t caller) {
    struct moat_call call = moat_block_call(MOAT_FAMILY_ARENA, MOAT_WHEN_FREE, caller);
    for (uintptr_t user = start; user != 0; user = user == 0 ? 0 : user + 1) {
        struct moat_findings findings = {.count = 0};
        moat_lock_take(&shard->lock);
        user = block_next(shard, user, end);
        if (user != 0) {
            release_block(shard, user, &call, &findings);
        }
        moat_lock_give(&shard->lock);
        moat_block_report(&findings);
    }
}

MOAT_EXPORT void moat_guarded_release(struct moat_guarded *guarded, void *start, size_t size_bytes) {
    struct moat_shard *shard = moat_guarded_shard(guarded);
    if (shard->rewinds && size_bytes != 0) {
        moat_guarded_release_blocks(shard, (uintptr_t)start, (uintptr_t)start + size_bytes, MOAT_CALLER);
    }
}

MOAT_EXPORT void moat_guarded_lock(struct moat_guarded *guarded) { moat_lock_take(&moat_guarded_shard(guarded)->lock); }

MOAT_EXPORT void moat_guarded_unlock(struct moat_guarded *guarded) {
    moat_lock_give(&moat_guarded_shard(guarded)->lock);
}
