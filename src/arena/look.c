/* Looking at an arena without changing it: sizes, ranges, walk, statistics, the verifier; and the arena as a backend.
 * May include: chunk.h and freestanding headers. */
#include "chunk.h"

size_t moat_arena_usable(struct moat_arena *arena, const void *block) {
    uintptr_t p = (uintptr_t)block;
    if (p != 0 && p == arena->last)
        return arena->next - p;
    if (arena->header_bytes == 0 || p == 0 || p % MOAT_ARENA_ALIGN != 0)
        return 0;
    for (uintptr_t at = arena->chunk; at != 0; at = moat_arena_chunk_at(at)->previous) {
        if (!moat_arena_chunk_proved(arena, at)) {
            moat_arena_note(arena, MOAT_ARENA_RULE_RECORD, at);
            return 0;
        }
        uintptr_t used_end = moat_arena_used_end(arena, at);
        if (p < moat_arena_first_block(at) || p >= used_end)
            continue;
        uintptr_t size = *moat_arena_size_of(p);
        bool plausible = (size + MOAT_ARENA_WORD) % MOAT_ARENA_ALIGN == 0 && size != 0 && size <= used_end - p;
        return plausible ? size : 0;
    }
    return 0;
}

bool moat_arena_each_range_after(const struct moat_arena *arena, struct moat_arena_mark mark,
                                 bool (*visit)(void *argument, void *start, size_t size_bytes), void *argument) {
    size_t bytes_after = 0;
    uintptr_t broken = 0;
    if (moat_arena_mark_proved(arena, &mark, &bytes_after, &broken) != MOAT_ARENA_RULE_NONE)
        return false;
    for (uintptr_t at = arena->chunk; at != 0; at = moat_arena_chunk_at(at)->previous) {
        uintptr_t start = at == mark.chunk ? mark.next : moat_arena_chunk_start(at);
        uintptr_t end = moat_arena_used_end(arena, at);
        if (end > start && !visit(argument, (void *)start, end - start))
            return false;
        if (at == mark.chunk)
            break;
    }
    return true;
}

/* ---- walk -------------------------------------------------------------------------------------------------------- */

/* Visits a chunk's blocks. Gives the address of a block whose size leads nowhere; 0 when all are visited; *stopped says
 * that `visit` did not want more. */
static uintptr_t walk_chunk(const struct moat_arena *arena, uintptr_t at,
                            bool (*visit)(void *argument, const struct moat_backend_block *block), void *argument,
                            bool *stopped) {
    uintptr_t end = moat_arena_used_end(arena, at);
    for (uintptr_t p = moat_arena_first_block(at); p < end;) {
        uintptr_t word = *moat_arena_size_of(p);
        uintptr_t size = word & ~MOAT_ARENA_GAP;
        if ((size + MOAT_ARENA_WORD) % MOAT_ARENA_ALIGN != 0 || size == 0 || size > end - p)
            return p;
        struct moat_backend_block block = {(void *)p, size, (word & MOAT_ARENA_GAP) == 0};
        if (visit != NULL && !visit(argument, &block)) {
            *stopped = true;
            return 0;
        }
        p += size + MOAT_ARENA_WORD;
    }
    return 0;
}

bool moat_arena_walk(const struct moat_arena *arena,
                     bool (*visit)(void *argument, const struct moat_backend_block *block), void *argument) {
    bool stopped = false;
    if (arena->header_bytes == 0)
        return true;
    for (uintptr_t at = arena->chunk; at != 0; at = moat_arena_chunk_at(at)->previous) {
        if (!moat_arena_chunk_proved(arena, at) || walk_chunk(arena, at, visit, argument, &stopped) != 0 || stopped)
            return false;
    }
    return true;
}

/* ---- statistics and verify --------------------------------------------------------------------------------------- */

/* Adds a list of chunks up; false at a damaged record, which *broken then is. */
static bool sum_up(const struct moat_arena *arena, uintptr_t at, size_t *count, size_t *bytes, uintptr_t *broken) {
    *count = 0;
    *bytes = 0;
    for (; at != 0; at = moat_arena_chunk_at(at)->previous) {
        *broken = at;
        if (!moat_arena_chunk_proved(arena, at))
            return false;
        ++*count;
        *bytes += moat_arena_chunk_end(moat_arena_chunk_at(at)) - at;
    }
    return true;
}

void moat_arena_statistics(const struct moat_arena *arena, struct moat_arena_statistics *statistics) {
    uintptr_t broken = 0;
    *statistics = (struct moat_arena_statistics){
        .used_bytes = arena->used_bytes,
        .used_bytes_peak = arena->used_bytes_peak,
        .allocation_count = arena->allocation_count,
        .failure_count = arena->failure_count,
    };
    (void)sum_up(arena, arena->chunk, &statistics->chunk_count, &statistics->chunk_bytes, &broken);
    (void)sum_up(arena, arena->spare, &statistics->spare_count, &statistics->spare_bytes, &broken);
}

/* The used bytes of all chunks: all but the newest are used to their ends. */
static size_t used_bytes(const struct moat_arena *arena) {
    size_t used = 0;
    for (uintptr_t at = arena->chunk; at != 0; at = moat_arena_chunk_at(at)->previous) {
        uintptr_t end = at == arena->chunk ? arena->next : moat_arena_chunk_end(moat_arena_chunk_at(at));
        used += end - moat_arena_chunk_start(at);
    }
    return used;
}

static enum moat_arena_rule verify(const struct moat_arena *arena, uintptr_t *broken) {
    size_t count = 0;
    size_t bytes = 0;
    bool stopped = false;
    if (!sum_up(arena, arena->chunk, &count, &bytes, broken) || !sum_up(arena, arena->spare, &count, &bytes, broken))
        return MOAT_ARENA_RULE_RECORD;
    *broken = (uintptr_t)arena;
    uintptr_t end = arena->chunk != 0 ? moat_arena_chunk_end(moat_arena_chunk_at(arena->chunk)) : 0;
    uintptr_t start = arena->chunk != 0 ? moat_arena_chunk_start(arena->chunk) : 0;
    bool fits = bytes == arena->spare_bytes && arena->end == end && arena->next >= start && arena->next <= end &&
                (arena->last == 0 || (arena->last >= start && arena->last < arena->next));
    if (!fits || used_bytes(arena) != arena->used_bytes || arena->used_bytes_peak < arena->used_bytes)
        return MOAT_ARENA_RULE_STATE;
    for (uintptr_t at = arena->header_bytes != 0 ? arena->chunk : 0; at != 0; at = moat_arena_chunk_at(at)->previous) {
        *broken = walk_chunk(arena, at, NULL, NULL, &stopped);
        if (*broken != 0)
            return MOAT_ARENA_RULE_SIZE;
    }
    return MOAT_ARENA_RULE_NONE;
}

bool moat_arena_verify(const struct moat_arena *arena, struct moat_fault *fault) {
    uintptr_t broken = 0;
    enum moat_arena_rule rule = verify(arena, &broken);
    if (rule == MOAT_ARENA_RULE_NONE)
        return true;
    if (fault != NULL)
        *fault = (struct moat_fault){moat_arena_rule_text(rule), broken, (uint64_t)arena->fault_count + 1};
    return false;
}

/* ---- backend ----------------------------------------------------------------------------------------------------- */

static void *backend_alloc(void *context, size_t size_bytes, size_t alignment, size_t lead_bytes) {
    struct moat_arena *arena = context;
    size_t unit = alignment < MOAT_ARENA_ALIGN ? alignment : MOAT_ARENA_ALIGN;
    /* A backend's block is aligned for two pointers whatever alignment is asked for at the lead. */
    if (alignment != 0 && (lead_bytes & (unit - 1)) != 0)
        return NULL;
    return moat_arena_alloc_aligned(arena, size_bytes,
                                    alignment < MOAT_ARENA_ALIGN && alignment != 0 ? MOAT_ARENA_ALIGN : alignment,
                                    alignment > MOAT_ARENA_ALIGN ? lead_bytes : 0);
}

static bool backend_free(void *context, void *block) {
    if (block != NULL)
        moat_arena_note(context, MOAT_ARENA_RULE_SINGLE, (uintptr_t)block);
    return block == NULL;
}

static bool backend_resize(void *context, void *block, size_t size_bytes) {
    return moat_arena_resize(context, block, size_bytes);
}

static size_t backend_usable(void *context, void *block) { return moat_arena_usable(context, block); }

static bool backend_walk(void *context, bool (*visit)(void *argument, const struct moat_backend_block *block),
                         void *argument) {
    return moat_arena_walk(context, visit, argument);
}

static bool backend_fault(void *context, struct moat_fault *fault) { return moat_arena_take_fault(context, fault); }

const struct moat_backend *moat_arena_backend(void) {
    static const struct moat_backend backend = {
        .alloc = backend_alloc,
        .free = backend_free,
        .resize = backend_resize,
        .usable = backend_usable,
        .walk = backend_walk,
        .fault = backend_fault,
    };
    return &backend;
}
