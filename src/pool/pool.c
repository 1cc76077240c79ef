/* Pools: the bitmap, allocation and free.
 * May include: moat/pool.h and freestanding headers, string.h for memset.
 *
 * A bit of level 0 says that a block is used; a bit of a higher level says that a word of the level below is full. The
 * top level is one word. Bits beyond the last block count as set. Nothing in a block is ever read or written. */
#include "moat/pool.h"

#include <string.h>

#define WORD_BITS MOAT_POOL_WORD_BITS
#define ALL_BITS UINTPTR_MAX

/* The pool's invariants, each with the text that a fault names it by: at most 47 characters. */
#define POOL_RULES(RULE)                                                                                               \
    RULE(NONE, "no rule is broken")                                                                                    \
    RULE(INSIDE, "a block lies in this pool")                                                                          \
    RULE(START, "a block is freed by its start")                                                                       \
    RULE(USED, "a block that is freed is in use")                                                                      \
    RULE(SUMMARY, "the pool's summary fits its bitmap")                                                                \
    RULE(COUNT, "the pool's count fits its bitmap")

#define RULE_ENTRY(name, text) RULE_##name,
enum pool_rule { POOL_RULES(RULE_ENTRY) RULE_COUNT_OF_RULES };

static const char *rule_text(unsigned rule) {
#define RULE_TEXT(name, text) text,
    static const char *const texts[] = {POOL_RULES(RULE_TEXT)};
    return texts[rule < RULE_COUNT_OF_RULES ? rule : RULE_NONE];
}

/* One level of a pool's bitmap. */
struct level {
    uintptr_t *words;
    size_t bit_count;
};

/* ---- lock and faults --------------------------------------------------------------------------------------------- */

static inline uintptr_t enter(const struct moat_pool *pool) {
    return pool->lock != NULL ? pool->lock->enter(pool->lock->context) : 0;
}

static inline void leave(const struct moat_pool *pool, uintptr_t entered) {
    if (pool->lock != NULL)
        pool->lock->leave(pool->lock->context, entered);
}

static void note(const struct moat_pool *pool, enum pool_rule rule, uintptr_t block) {
    pool->state->fault_rule = (uint8_t)rule;
    pool->state->fault_block = block;
    pool->state->fault_pending = 1;
    pool->state->fault_count++;
}

/* ---- levels ------------------------------------------------------------------------------------------------------ */

/* Lays out the levels, lowest first. Gives how many there are. */
static inline size_t levels_of(const struct moat_pool *pool, struct level *levels) {
    uintptr_t *words = pool->used;
    size_t bit_count = pool->block_count;
    size_t count = 0;
    for (;;) {
        levels[count++] = (struct level){words, bit_count};
        size_t word_count = MOAT_POOL_WORDS(bit_count);
        if (word_count == 1 || count == MOAT_POOL_LEVELS_MAX)
            return count;
        words += word_count;
        bit_count = word_count;
    }
}

/* The bits of a word that stand for something. */
static inline uintptr_t bits_of(const struct level *level, size_t word) {
    size_t rest = level->bit_count - word * WORD_BITS;
    return rest >= WORD_BITS ? ALL_BITS : ((uintptr_t)1 << rest) - 1;
}

static inline bool is_full(const struct level *level, size_t word) {
    return (~level->words[word] & bits_of(level, word)) == 0;
}

static inline bool is_set(const struct level *level, size_t bit) {
    return (level->words[bit / WORD_BITS] >> bit % WORD_BITS & 1) != 0;
}

/* Sets a bit of a level, and those above it as far as words become full. */
static inline void set_bit(const struct level *levels, size_t count, size_t level, size_t bit) {
    for (; level < count; level++, bit /= WORD_BITS) {
        levels[level].words[bit / WORD_BITS] |= (uintptr_t)1 << bit % WORD_BITS;
        if (!is_full(&levels[level], bit / WORD_BITS))
            return;
    }
}

/* Clears a block's bit, and those above it as far as words were full. */
static inline void clear_bit(const struct level *levels, size_t count, size_t bit) {
    for (size_t level = 0; level < count; level++, bit /= WORD_BITS) {
        bool was_full = is_full(&levels[level], bit / WORD_BITS);
        levels[level].words[bit / WORD_BITS] &= ~((uintptr_t)1 << bit % WORD_BITS);
        if (!was_full)
            return;
    }
}

/* Finds the first free block.
 * Gives:   false when there is none. A summary bit that is clear over a full word is damage: it is noted, mended, and
 *          the search begins again; each round sets a bit, so it ends. */
static bool find_free(const struct moat_pool *pool, const struct level *levels, size_t count, size_t *found) {
    while (!is_full(&levels[count - 1], 0)) {
        size_t index = 0;
        size_t level = count;
        while (level > 0 && !is_full(&levels[level - 1], index)) {
            level--;
            uintptr_t unset = ~levels[level].words[index] & bits_of(&levels[level], index);
            index = index * WORD_BITS + (size_t)__builtin_ctzl((unsigned long)unset);
        }
        if (level == 0) {
            *found = index;
            return true;
        }
        note(pool, RULE_SUMMARY, (uintptr_t)&levels[level - 1].words[index]);
        set_bit(levels, count, level, index);
    }
    return false;
}

/* ---- blocks ------------------------------------------------------------------------------------------------------ */

/* Which block starts at an address. A multiple of the block size, times the inverse of the size, is the quotient;
 * anything else becomes a number too large to be one. */
static inline enum pool_rule index_of(const struct moat_pool *pool, uintptr_t address, size_t *index) {
    size_t offset = address - (uintptr_t)pool->blocks;
    if (offset >= pool->block_count * pool->block_size_bytes)
        return RULE_INSIDE;
    *index = (offset >> pool->size_shift) * pool->size_inverse;
    bool is_start = (offset & (((size_t)1 << pool->size_shift) - 1)) == 0 && *index < pool->block_count;
    return is_start ? RULE_NONE : RULE_START;
}

static inline unsigned char *block_at(const struct moat_pool *pool, size_t index) {
    return pool->blocks + index * pool->block_size_bytes;
}

void *moat_pool_alloc(const struct moat_pool *pool) {
    struct level levels[MOAT_POOL_LEVELS_MAX];
    struct moat_pool_state *state = pool->state;
    if (pool->block_count == 0)
        return NULL;
    size_t count = levels_of(pool, levels);
    size_t index = 0;
    uintptr_t entered = enter(pool);
    bool found = find_free(pool, levels, count, &index);
    if (found) {
        set_bit(levels, count, 0, index);
        state->allocation_count++;
        if (++state->used_count > state->used_count_peak)
            state->used_count_peak = state->used_count;
    } else {
        state->failure_count++;
    }
    leave(pool, entered);
    return found ? block_at(pool, index) : NULL;
}

bool moat_pool_free(const struct moat_pool *pool, void *block) {
    struct level levels[MOAT_POOL_LEVELS_MAX];
    if (block == NULL)
        return true;
    if (pool->block_count == 0)
        return false;
    size_t count = levels_of(pool, levels);
    size_t index = 0;
    enum pool_rule rule = index_of(pool, (uintptr_t)block, &index);
    uintptr_t entered = enter(pool);
    if (rule == RULE_NONE && !is_set(&levels[0], index))
        rule = RULE_USED;
    if (rule == RULE_NONE) {
        clear_bit(levels, count, index);
        pool->state->used_count--;
    } else {
        note(pool, rule, (uintptr_t)block);
        pool->state->refusal_count++;
    }
    leave(pool, entered);
    return rule == RULE_NONE;
}

bool moat_pool_holds(const struct moat_pool *pool, const void *address) {
    return (uintptr_t)address - (uintptr_t)pool->blocks < pool->block_count * pool->block_size_bytes;
}

bool moat_pool_is_shared(const struct moat_pool *pool) { return pool->lock != NULL; }

static bool is_used(const struct moat_pool *pool, size_t index) {
    uintptr_t entered = enter(pool);
    bool used = (pool->used[index / WORD_BITS] >> index % WORD_BITS & 1) != 0;
    leave(pool, entered);
    return used;
}

size_t moat_pool_usable(const struct moat_pool *pool, const void *block) {
    size_t index = 0;
    bool known = index_of(pool, (uintptr_t)block, &index) == RULE_NONE && is_used(pool, index);
    return known ? pool->block_size_bytes : 0;
}

/* ---- making one at run time -------------------------------------------------------------------------------------- */

static uintptr_t round_up(uintptr_t value, uintptr_t unit) { return (value + unit - 1) & ~(unit - 1); }

size_t moat_pool_init(struct moat_pool *pool, void *buffer, size_t bytes, size_t block_size_bytes,
                      const struct moat_pool_lock *lock) {
    *pool = (struct moat_pool){0};
    uintptr_t start = round_up((uintptr_t)buffer, sizeof(uintptr_t));
    uintptr_t end = (uintptr_t)buffer + bytes;
    bool possible = buffer != NULL && end >= start && start >= (uintptr_t)buffer && block_size_bytes != 0;
    if (!possible || block_size_bytes > SIZE_MAX / 2)
        return 0;
    size_t size = MOAT_POOL_ROUND(block_size_bytes);
    size_t alignment = MOAT_POOL_ALIGN_OF(size);
    size_t room = end - start;
    size_t count = room / size < MOAT_POOL_BLOCKS_MAX ? room / size : MOAT_POOL_BLOCKS_MAX;
    uintptr_t used = start + sizeof(struct moat_pool_state);
    uintptr_t blocks = 0;
    /* The bitmap's bytes are what has to go, a step for each block that they are worth: one in 128 or fewer. */
    for (; count > 0; count--) {
        blocks = round_up(used + MOAT_POOL_MAP_WORDS(count) * sizeof(uintptr_t), alignment);
        if (blocks <= end && count * size <= end - blocks)
            break;
    }
    if (count == 0)
        return 0;
    memset((void *)start, 0, blocks - start);
    *pool = (struct moat_pool){
        .blocks = (unsigned char *)blocks,
        .used = (uintptr_t *)used,
        .state = (struct moat_pool_state *)start,
        .lock = lock,
        .block_size_bytes = size,
        .block_count = count,
        .size_inverse = MOAT_POOL_INVERSE(size / MOAT_POOL_EVEN(size)),
        .size_shift = (size_t)__builtin_ctzl((unsigned long)size),
    };
    return count;
}

/* ---- looking at it ----------------------------------------------------------------------------------------------- */

bool moat_pool_walk(const struct moat_pool *pool, bool (*visit)(void *argument, const struct moat_backend_block *block),
                    void *argument) {
    for (size_t i = 0; i < pool->block_count; i++) {
        struct moat_backend_block block = {block_at(pool, i), pool->block_size_bytes, is_used(pool, i)};
        if (!visit(argument, &block))
            return false;
    }
    return true;
}

void moat_pool_statistics(const struct moat_pool *pool, struct moat_pool_statistics *statistics) {
    *statistics =
        (struct moat_pool_statistics){.block_size_bytes = pool->block_size_bytes, .block_count = pool->block_count};
    if (pool->block_count == 0)
        return;
    uintptr_t entered = enter(pool);
    const struct moat_pool_state *state = pool->state;
    statistics->used_count = state->used_count;
    statistics->used_count_peak = state->used_count_peak;
    statistics->allocation_count = state->allocation_count;
    statistics->failure_count = state->failure_count;
    statistics->refusal_count = state->refusal_count;
    leave(pool, entered);
}

/* The first word that a level above does not describe rightly; NULL: none. */
static const uintptr_t *wrong_summary(const struct level *levels, size_t count) {
    for (size_t level = 1; level < count; level++) {
        for (size_t bit = 0; bit < levels[level].bit_count; bit++) {
            if (is_set(&levels[level], bit) != is_full(&levels[level - 1], bit))
                return &levels[level - 1].words[bit];
        }
    }
    return NULL;
}

bool moat_pool_verify(const struct moat_pool *pool, struct moat_fault *fault) {
    struct level levels[MOAT_POOL_LEVELS_MAX];
    if (pool->block_count == 0)
        return true;
    size_t count = levels_of(pool, levels);
    const uintptr_t *wrong = wrong_summary(levels, count);
    size_t used_count = 0;
    for (size_t word = 0; word < MOAT_POOL_WORDS(pool->block_count); word++)
        used_count += (size_t)__builtin_popcountl((unsigned long)(levels[0].words[word] & bits_of(&levels[0], word)));
    bool counts_fit = used_count == pool->state->used_count && pool->state->used_count_peak >= used_count;
    if (wrong == NULL && counts_fit)
        return true;
    if (fault != NULL) {
        enum pool_rule rule = wrong != NULL ? RULE_SUMMARY : RULE_COUNT;
        uintptr_t where = wrong != NULL ? (uintptr_t)wrong : (uintptr_t)pool->state;
        *fault = (struct moat_fault){rule_text(rule), where, (uint64_t)pool->state->fault_count + 1};
    }
    return false;
}

bool moat_pool_take_fault(const struct moat_pool *pool, struct moat_fault *fault) {
    if (pool->block_count == 0)
        return false;
    uintptr_t entered = enter(pool);
    bool pending = pool->state->fault_pending != 0;
    if (pending)
        *fault =
            (struct moat_fault){rule_text(pool->state->fault_rule), pool->state->fault_block, pool->state->fault_count};
    pool->state->fault_pending = 0;
    leave(pool, entered);
    return pending;
}
