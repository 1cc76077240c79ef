/* Settings that act while the program runs: options changed by the program, allocations made to fail, the memory budget.
 * May include: process.h, the port's pages. */
#include "guard/entry/process.h"
#include "guard/port/linux/pages.h"
#include "moat.h"

#include <errno.h>

/* ---- failure injection --------------------------------------------------------------------------------------------------- */

/* A number that depends on the seed and the allocation's own number only, so that a run can be repeated. */
static uint64_t scrambled(uint64_t seed, uint64_t number) {
    uint64_t mixed = (number + seed) * UINT64_C(0x9e3779b97f4a7c15);
    mixed = (mixed ^ mixed >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    mixed = (mixed ^ mixed >> 27) * UINT64_C(0x94d049bb133111eb);
    return mixed ^ mixed >> 31;
}

bool moat_tune_fails(void) {
    const struct moat_options *options = &moat_process.options;
    uint64_t number = atomic_fetch_add_explicit(&moat_process.failable, 1, memory_order_relaxed) + 1;
    if (number == options->fail_after) {
        return true;
    }
    if (options->fail_every == 0) {
        return false;
    }
    return (options->fail_seed != 0 ? scrambled(options->fail_seed, number) : number) % options->fail_every == 0;
}

#define MOAT_BUDGET_QUARANTINE_SHARE 6u

/* ---- budget -------------------------------------------------------------------------------------------------------------- */

/* What is left of the budget to tables once each quarantine is as full as it may become. */
static uint64_t table_budget(void) {
    uint64_t budget = moat_process.options.budget;
    uint64_t held_bytes =
        (uint64_t)(moat_process.config.near_bytes + moat_process.config.far_bytes) * moat_process.shard_count;
    return budget == 0 ? UINT64_MAX : budget > held_bytes ? budget - held_bytes : 0;
}

static void *counted_acquire(void *limited, size_t size_bytes, size_t *got_bytes) {
    const struct moat_source *pages = moat_pages_source();
    uint64_t before = atomic_fetch_add_explicit(&moat_process.own_bytes, size_bytes, memory_order_relaxed);
    bool allowed = limited == NULL || before + size_bytes <= table_budget();
    void *memory = allowed ? pages->acquire(pages->context, size_bytes, got_bytes) : NULL;
    uint64_t used_bytes = memory != NULL ? *got_bytes : 0;
    atomic_fetch_add_explicit(&moat_process.own_bytes, used_bytes - size_bytes, memory_order_relaxed);
    if (!allowed) {
        atomic_store_explicit(&moat_process.budget_met, true, memory_order_relaxed);
    }
    return memory;
}

static bool counted_release(void *limited, void *start, size_t size_bytes) {
    const struct moat_source *pages = moat_pages_source();
    (void)limited;
    if (!pages->release(pages->context, start, size_bytes)) {
        return false;
    }
    atomic_fetch_sub_explicit(&moat_process.own_bytes, size_bytes, memory_order_relaxed);
    return true;
}

/* What the heap cannot do without is counted; what only makes reports better is refused past the budget. */
const struct moat_source *moat_tune_needed_memory(void) {
    static const struct moat_source source = {.acquire = counted_acquire, .release = counted_release, .context = NULL};
    return &source;
}

const struct moat_source *moat_tune_spare_memory(void) {
    static const struct moat_source source = {
        .acquire = counted_acquire, .release = counted_release, .context = (void *)&moat_process};
    return &source;
}

void moat_tune_limit_quarantine(struct moat_guard *guard) {
    uint64_t budget = moat_process.options.budget;
    struct moat_quarantine *tiers[] = {&guard->far, &guard->near};
    for (size_t i = 0; budget != 0 && i < sizeof tiers / sizeof tiers[0]; i++) {
        uint64_t own_bytes = atomic_load_explicit(&moat_process.own_bytes, memory_order_relaxed);
        uint64_t left_bytes = own_bytes < budget ? (budget - own_bytes) / moat_process.shard_count : 0;
        size_t other_bytes = i == 0 ? guard->near.budget_bytes : guard->far.budget_bytes;
        uint64_t share_bytes = left_bytes > other_bytes ? left_bytes - other_bytes : 0;
        if (tiers[i]->budget_bytes > share_bytes) {
            tiers[i]->budget_bytes = (size_t)share_bytes;
            atomic_store_explicit(&moat_process.budget_met, true, memory_order_relaxed);
        }
    }
}

/* ---- options changed by the program ---------------------------------------------------------------------------------------- */

/* The row of "key=value"'s key; NULL: none. */
static const struct moat_option_info *row_of(const char *setting) {
    const char *equals = strchr(setting, '=');
    size_t length = equals == NULL ? 0 : (size_t)(equals - setting);
    for (size_t i = 0; i < MOAT_OPTION_COUNT; i++) {
        const char *name = moat_option_table[i].name;
        if (length != 0 && strncmp(name, setting, length) == 0 && name[length] == '\0') {
            return &moat_option_table[i];
        }
    }
    return NULL;
}

/* Makes a quarantine's ring as long as its budget may need; the one it has serves on where there is no memory for that. */
static void ring_fit(struct moat_quarantine *ring, const struct moat_guard_config *config, size_t budget_bytes) {
    const struct moat_source *memory = moat_tune_spare_memory();
    struct moat_quarantine fresh;
    if (budget_bytes <= ring->budget_bytes) {
        ring->budget_bytes = budget_bytes;
        return;
    }
    moat_quarantine_init(&fresh, budget_bytes, config->least_bytes, memory);
    if (fresh.capacity <= ring->capacity) {
        ring->budget_bytes = budget_bytes;
        moat_tune_release_ring(&fresh);
        return;
    }
    while (ring->count != 0) {
        moat_quarantine_push(&fresh, moat_quarantine_pop(ring)); /* it is longer, so there is room */
    }
    moat_tune_release_ring(ring);
    *ring = fresh;
}

/* Puts what the options say into force in one shard. Guarded allocators have a quarantine of their own choice, and rear zones that the
 * sizes of their blocks were chosen by. */
static void shard_retune(void *context, struct moat_shard *shard) {
    (void)context;
    const struct moat_guard_config *config = &moat_process.config;
    moat_lock_take(&shard->lock);
    if (shard == &moat_process.large) {
        moat_process.large_config.realloc_always_moves = config->realloc_always_moves;
    } else if (shard->guarded != NULL) {
        shard->config.fill_bytes = config->fill_bytes;
        shard->config.fill_with = config->fill_with;
    } else {
        ring_fit(&shard->guard.near, config, config->near_bytes);
        ring_fit(&shard->guard.far, config, config->far_bytes);
        moat_tune_limit_quarantine(&shard->guard);
        moat_heap_keep(shard->heap, moat_tune_keep_bytes());
    }
    moat_lock_give(&shard->lock);
}

void moat_tune_apply_to_all(void) {
    moat_tune_apply();
    moat_shards_each(shard_retune, NULL);
}

/* To the heap, 0 means that nothing goes back by itself. */
size_t moat_tune_keep_bytes(void) {
    uint64_t high_water = moat_process.options.high_water;
    return high_water != 0 ? (size_t)high_water : 1;
}

void moat_tune_release_ring(struct moat_quarantine *ring) {
    const struct moat_source *memory = moat_tune_spare_memory();
    size_t page_mask = moat_pages_size() - 1;
    size_t ring_bytes = (ring->capacity * sizeof *ring->entries + page_mask) & ~page_mask;
    if (ring->entries != NULL) {
        memory->release(memory->context, ring->entries, ring_bytes);
    }
    *ring = (struct moat_quarantine){.entries = NULL};
}

void moat_tune_apply(void) {
    const struct moat_options *options = &moat_process.options;
    struct moat_guard_config *config = &moat_process.config;
    config->rear_bytes = (size_t)options->redzone;
    config->fill_bytes = (size_t)options->fill;
    config->fill_with = MOAT_FILL_WITH(options->fill_byte);
    /* Blocks that were made when the limit was higher are still there. */
    size_t scan_bytes = (size_t)(options->large + options->redzone);
    config->scan_bytes = config->scan_bytes > scan_bytes ? config->scan_bytes : scan_bytes;
    config->near_bytes = (size_t)options->quarantine;
    config->far_bytes = (size_t)options->quarantine_far / moat_process.shard_count;
    if (options->budget != 0) {
        /* What is held back, and the rings it is held in, leave more than half to stacks and map. */
        uint64_t share_bytes = options->budget / MOAT_BUDGET_QUARANTINE_SHARE / moat_process.shard_count;
        config->near_bytes = config->near_bytes < share_bytes ? config->near_bytes : (size_t)share_bytes;
        config->far_bytes = config->far_bytes < share_bytes ? config->far_bytes : (size_t)share_bytes;
    }
    config->hard_budget = options->budget != 0;
    config->far_one_in = (uint32_t)options->quarantine_far_one_in;
    config->realloc_always_moves = options->realloc_moves == MOAT_REALLOC_MOVES_ALWAYS;
    moat_process.failing = options->fail_after != 0 || options->fail_every != 0;
}

MOAT_EXPORT bool moat_set_option(const char *setting) {
    char error[MOAT_OPTION_ERROR_BYTES];
    if (setting == NULL || setting[0] == '\0' || strchr(setting, ':') != NULL) {
        errno = EINVAL;
        return false;
    }
    const struct moat_option_info *row = row_of(setting);
    moat_thread_self(); /* starts Moat where nobody has allocated yet */
    if (row != NULL && !row->live) {
        errno = EPERM;
        return false;
    }
    struct moat_options changed = moat_process.options;
    if (!moat_options_parse(&changed, &moat_process.option_text, setting, error)) {
        moat_note(error);
        errno = EINVAL;
        return false;
    }
    moat_process.options = changed;
    moat_tune_apply_to_all();
    return true;
}
