/* Arenas: handing out, marking, rewinding.
 * May include: chunk.h and freestanding headers.
 *
 * Sized blocks lie like the heap's: an address is a multiple of the alignment, the word in front of it holds the size,
 * and the block ends where the next one's word begins. So blocks can be found one after the other. What alignment
 * leaves free is a block as well, marked as a gap. */
#include "chunk.h"

#if UINTPTR_MAX > 0xffffffffu
#define CHUNK_BYTES_DEFAULT ((size_t)64 << 10)
#else
#define CHUNK_BYTES_DEFAULT ((size_t)1 << 10)
#endif
/* Requests beyond this fail at once, so that sums of two or three of them cannot wrap. */
#define REQUEST_MAX (SIZE_MAX / 8)
#define MIX_FACTOR ((uintptr_t)0x9e3779b97f4a7c15u) /* odd, bits evenly spread: 2^64 / golden ratio */

static inline uintptr_t round_up(uintptr_t value, uintptr_t unit) { return (value + unit - 1) & ~(unit - 1); }

/* ---- faults and records ------------------------------------------------------------------------------------------ */

void moat_arena_note(struct moat_arena *arena, enum moat_arena_rule rule, uintptr_t block) {
    arena->fault_rule = (uint8_t)rule;
    arena->fault_block = block;
    arena->fault_pending = 1;
    arena->fault_count++;
}

const char *moat_arena_rule_text(unsigned rule) {
#define RULE_TEXT(name, text) text,
    static const char *const texts[] = {MOAT_ARENA_RULES(RULE_TEXT)};
    return texts[rule < MOAT_ARENA_RULE_COUNT ? rule : MOAT_ARENA_RULE_NONE];
}

bool moat_arena_take_fault(struct moat_arena *arena, struct moat_fault *fault) {
    if (arena->fault_pending == 0)
        return false;
    arena->fault_pending = 0;
    *fault = (struct moat_fault){moat_arena_rule_text(arena->fault_rule), arena->fault_block, arena->fault_count};
    return true;
}

static uintptr_t mix(uintptr_t seed, uintptr_t value) {
    uintptr_t mixed = (seed ^ value) * MIX_FACTOR;
    return mixed ^ mixed >> (sizeof mixed * 4 - 3);
}

/* Mixed with the arena's address, so that another arena's chunk is not taken for one of this one. */
static uintptr_t checksum(const struct moat_arena *arena, uintptr_t at) {
    const struct moat_arena_chunk *chunk = moat_arena_chunk_at(at);
    return mix(mix(mix(mix((uintptr_t)arena, at), chunk->previous), chunk->end_and_flags), chunk->used_end);
}

static void sign(const struct moat_arena *arena, uintptr_t at, uintptr_t previous, uintptr_t end_and_flags,
                 uintptr_t used_end) {
    struct moat_arena_chunk *chunk = moat_arena_chunk_at(at);
    chunk->previous = previous;
    chunk->end_and_flags = end_and_flags;
    chunk->used_end = used_end;
    chunk->check = checksum(arena, at);
}

bool moat_arena_chunk_proved(const struct moat_arena *arena, uintptr_t at) {
    const struct moat_arena_chunk *chunk = moat_arena_chunk_at(at);
    return chunk->check == checksum(arena, at) && moat_arena_chunk_end(chunk) > at &&
           chunk->used_end <= moat_arena_chunk_end(chunk);
}

/* ---- chunks ------------------------------------------------------------------------------------------------------ */

/* Makes a chunk the one that blocks are taken from. */
static void go_on_to(struct moat_arena *arena, uintptr_t at, uintptr_t end_and_flags) {
    if (arena->chunk != 0) {
        const struct moat_arena_chunk *left = moat_arena_chunk_at(arena->chunk);
        sign(arena, arena->chunk, left->previous, left->end_and_flags, arena->next);
    }
    sign(arena, at, arena->chunk, end_and_flags, moat_arena_chunk_start(at));
    arena->chunk = at;
    arena->next = moat_arena_chunk_start(at);
    arena->end = end_and_flags & ~MOAT_ARENA_CHUNK_FLAGS;
    arena->last = 0;
}

/* Takes the first spare chunk of at least so many bytes into use. */
static bool take_spare(struct moat_arena *arena, size_t bytes) {
    uintptr_t before = 0;
    for (uintptr_t at = arena->spare; at != 0;) {
        if (!moat_arena_chunk_proved(arena, at)) {
            moat_arena_note(arena, MOAT_ARENA_RULE_RECORD, at);
            return false;
        }
        struct moat_arena_chunk *chunk = moat_arena_chunk_at(at);
        uintptr_t after = chunk->previous;
        uintptr_t end = moat_arena_chunk_end(chunk);
        if (end - at >= bytes) {
            if (before == 0)
                arena->spare = after;
            else
                sign(arena, before, after, moat_arena_chunk_at(before)->end_and_flags,
                     moat_arena_chunk_at(before)->used_end);
            arena->spare_bytes -= end - at;
            go_on_to(arena, at, end);
            return true;
        }
        before = at;
        at = after;
    }
    return false;
}

static bool acquire(struct moat_arena *arena, size_t bytes) {
    size_t got = 0;
    uintptr_t start = (uintptr_t)arena->source->acquire(arena->source->context, bytes, &got);
    if (start == 0)
        return false;
    uintptr_t end = (start + got) & ~MOAT_ARENA_CHUNK_FLAGS;
    if (start % MOAT_ARENA_ALIGN == 0 && got >= bytes) {
        go_on_to(arena, start, end);
        return true;
    }
    if (arena->source->release != NULL)
        (void)arena->source->release(arena->source->context, (void *)start, got);
    return false;
}

/* Goes on to a chunk with room for so many bytes behind its record. */
static bool grow(struct moat_arena *arena, size_t bytes) {
    size_t need = round_up(bytes + MOAT_ARENA_RECORD_BYTES, MOAT_ARENA_ALIGN);
    if (take_spare(arena, need))
        return true;
    if (arena->source == NULL)
        return false;
    return (need < arena->chunk_bytes && acquire(arena, arena->chunk_bytes)) || acquire(arena, need);
}

/* ---- alloc ------------------------------------------------------------------------------------------------------- */

/* Where the next block goes; it may lie beyond the chunk's end. */
static uintptr_t place(const struct moat_arena *arena, size_t alignment, size_t lead_bytes) {
    uintptr_t mask = alignment - 1;
    return ((arena->next + arena->header_bytes + lead_bytes + mask) & ~mask) - lead_bytes;
}

/* A place before `next` comes from an address that wrapped. */
static inline bool fits(const struct moat_arena *arena, uintptr_t p, size_t size) {
    return arena->chunk != 0 && p >= arena->next && p <= arena->end && size <= arena->end - p;
}

/* Writes the size in front of a block, and makes what alignment left before it a gap. */
static void write_size(struct moat_arena *arena, uintptr_t p, size_t size) {
    uintptr_t first = round_up(arena->next + MOAT_ARENA_WORD, MOAT_ARENA_ALIGN);
    if (p > first)
        *moat_arena_size_of(first) = (p - first - MOAT_ARENA_WORD) | MOAT_ARENA_GAP;
    *moat_arena_size_of(p) = size;
}

static void *take(struct moat_arena *arena, size_t size, size_t alignment, size_t lead_bytes) {
    uintptr_t p = place(arena, alignment, lead_bytes);
    if (!fits(arena, p, size)) {
        size_t chunk_rest = arena->chunk != 0 ? arena->end - arena->next : 0;
        if (!grow(arena, size + arena->header_bytes + alignment + (lead_bytes & (alignment - 1)))) {
            arena->failure_count++;
            return NULL;
        }
        arena->used_bytes += chunk_rest; /* what a chunk's end left unused counts as used until it is rewound past */
        p = place(arena, alignment, lead_bytes);
    }
    if (arena->header_bytes != 0)
        write_size(arena, p, size);
    arena->used_bytes += p + size - arena->next;
    arena->next = p + size;
    arena->last = p;
    arena->allocation_count++;
    if (arena->used_bytes > arena->used_bytes_peak)
        arena->used_bytes_peak = arena->used_bytes;
    return (void *)p;
}

/* The size a block is made with. */
static inline size_t made_size(const struct moat_arena *arena, size_t size_bytes) {
    size_t least = size_bytes != 0 ? size_bytes : 1;
    return arena->header_bytes != 0 ? round_up(least + MOAT_ARENA_WORD, MOAT_ARENA_ALIGN) - MOAT_ARENA_WORD : least;
}

void *moat_arena_alloc_aligned(struct moat_arena *arena, size_t size_bytes, size_t alignment, size_t lead_bytes) {
    bool is_sized = arena->header_bytes != 0;
    size_t unit = alignment < MOAT_ARENA_ALIGN ? alignment : MOAT_ARENA_ALIGN;
    bool possible =
        alignment != 0 && (alignment & (alignment - 1)) == 0 && (!is_sized || (lead_bytes & (unit - 1)) == 0);
    if (!possible || size_bytes > REQUEST_MAX || alignment > REQUEST_MAX) {
        arena->failure_count++;
        return NULL;
    }
    if (is_sized && alignment < MOAT_ARENA_ALIGN)
        alignment = MOAT_ARENA_ALIGN;
    if (is_sized && alignment == MOAT_ARENA_ALIGN)
        lead_bytes = 0;
    return take(arena, made_size(arena, size_bytes), alignment, lead_bytes & (alignment - 1));
}

void *moat_arena_alloc(struct moat_arena *arena, size_t size_bytes) {
    return moat_arena_alloc_aligned(arena, size_bytes, MOAT_ARENA_ALIGN, 0);
}

bool moat_arena_resize(struct moat_arena *arena, void *block, size_t size_bytes) {
    uintptr_t p = (uintptr_t)block;
    if (p == 0 || size_bytes > REQUEST_MAX)
        return false;
    size_t size = made_size(arena, size_bytes);
    if (p != arena->last)
        return size <= moat_arena_usable(arena, block);
    if (size > arena->end - p)
        return false;
    arena->used_bytes += p + size - arena->next;
    arena->next = p + size;
    if (arena->header_bytes != 0)
        *moat_arena_size_of(p) = size;
    if (arena->used_bytes > arena->used_bytes_peak)
        arena->used_bytes_peak = arena->used_bytes;
    return true;
}

/* ---- mark and rewind --------------------------------------------------------------------------------------------- */

struct moat_arena_mark moat_arena_mark(struct moat_arena *arena) {
    arena->last = 0; /* a block that changed its size after the mark would lie on both sides of it */
    return (struct moat_arena_mark){arena->chunk, arena->next, arena->used_bytes};
}

struct moat_arena_mark moat_arena_mark_start(void) {
    return (struct moat_arena_mark){0, 0, 0};
}

enum moat_arena_rule moat_arena_mark_proved(const struct moat_arena *arena, const struct moat_arena_mark *mark,
                                            size_t *bytes_after, uintptr_t *broken) {
    size_t used_after = 0;
    uintptr_t at = arena->chunk;
    *bytes_after = 0;
    while (at != 0) {
        const struct moat_arena_chunk *chunk = moat_arena_chunk_at(at);
        *broken = at;
        if (!moat_arena_chunk_proved(arena, at))
            return MOAT_ARENA_RULE_RECORD;
        uintptr_t used_to = at == arena->chunk ? arena->next : moat_arena_chunk_end(chunk);
        *broken = mark->next;
        if (at == mark->chunk) {
            bool inside = mark->next >= moat_arena_chunk_start(at) && mark->next <= moat_arena_used_end(arena, at);
            used_after += used_to - mark->next;
            return inside && arena->used_bytes - mark->used_bytes == used_after ? MOAT_ARENA_RULE_NONE
                                                                                : MOAT_ARENA_RULE_MARK;
        }
        used_after += used_to - moat_arena_chunk_start(at);
        if ((chunk->end_and_flags & MOAT_ARENA_CHUNK_GIVEN) == 0)
            *bytes_after += moat_arena_chunk_end(chunk) - at;
        at = chunk->previous;
    }
    *broken = mark->next;
    return mark->chunk == 0 ? MOAT_ARENA_RULE_NONE : MOAT_ARENA_RULE_MARK;
}

/* Keeps an emptied chunk for reuse. */
static void keep(struct moat_arena *arena, uintptr_t at, uintptr_t end) {
    sign(arena, at, arena->spare, end | MOAT_ARENA_CHUNK_SPARE, moat_arena_chunk_start(at));
    arena->spare = at;
    arena->spare_bytes += end - at;
}

static bool give_back(const struct moat_arena *arena, uintptr_t at, uintptr_t end) {
    const struct moat_source *source = arena->source;
    return source != NULL && source->release != NULL && source->release(source->context, (void *)at, end - at);
}

/* Empties the newest chunk: gives it back when more than keep_bytes would be kept with it and the `older_bytes` of
 * those that go after it. So the newest go back, as stacks of memory want it, and the oldest are kept. */
static void pop(struct moat_arena *arena, size_t older_bytes) {
    uintptr_t at = arena->chunk;
    struct moat_arena_chunk *chunk = moat_arena_chunk_at(at);
    uintptr_t end = moat_arena_chunk_end(chunk);
    size_t kept = arena->spare_bytes + older_bytes;
    bool has_room = kept <= arena->keep_bytes && end - at <= arena->keep_bytes - kept;
    arena->chunk = chunk->previous;
    if (has_room || !give_back(arena, at, end))
        keep(arena, at, end);
}

static void rewind_to(struct moat_arena *arena, const struct moat_arena_mark *mark, size_t bytes_after) {
    uintptr_t chunk = mark->chunk;
    while (arena->chunk != chunk) {
        const struct moat_arena_chunk *newest = moat_arena_chunk_at(arena->chunk);
        if ((newest->end_and_flags & MOAT_ARENA_CHUNK_GIVEN) != 0)
            break; /* the caller's buffer stays the first chunk */
        bytes_after -= moat_arena_chunk_end(newest) - arena->chunk;
        pop(arena, bytes_after);
    }
    arena->next = arena->chunk == 0 ? 0 : arena->chunk == chunk ? mark->next : moat_arena_chunk_start(arena->chunk);
    arena->end = arena->chunk == 0 ? 0 : moat_arena_chunk_end(moat_arena_chunk_at(arena->chunk));
    arena->used_bytes = mark->used_bytes;
    arena->last = 0;
}

bool moat_arena_rewind(struct moat_arena *arena, struct moat_arena_mark mark) {
    size_t bytes_after = 0;
    uintptr_t broken = 0;
    enum moat_arena_rule rule = moat_arena_mark_proved(arena, &mark, &bytes_after, &broken);
    if (rule != MOAT_ARENA_RULE_NONE) {
        moat_arena_note(arena, rule, broken);
        return false;
    }
    rewind_to(arena, &mark, bytes_after);
    return true;
}

bool moat_arena_reset(struct moat_arena *arena) { return moat_arena_rewind(arena, moat_arena_mark_start()); }

/* Offers every spare chunk to the source, in the list's order; what it refuses stays, in the opposite order.
 * Gives:   false at a damaged record; *given says whether anything was taken. */
static bool offer_spare(struct moat_arena *arena, bool *given) {
    uintptr_t kept = 0;
    uintptr_t at = arena->spare;
    *given = false;
    while (at != 0) {
        if (!moat_arena_chunk_proved(arena, at)) {
            moat_arena_note(arena, MOAT_ARENA_RULE_RECORD, at);
            return false;
        }
        const struct moat_arena_chunk *chunk = moat_arena_chunk_at(at);
        uintptr_t after = chunk->previous;
        if (give_back(arena, at, moat_arena_chunk_end(chunk))) {
            *given = true;
        } else {
            sign(arena, at, kept, chunk->end_and_flags, chunk->used_end);
            kept = at;
        }
        at = after;
    }
    arena->spare = kept;
    return true;
}

/* Gives the spare chunks back. A source may take only its newest piece back, and reuse has mixed them, so they are
 * offered until it takes no more; turning the list round makes two rounds enough for a list that is in order. */
static bool give_spare_back(struct moat_arena *arena) {
    bool given = true;
    while (given && arena->spare != 0) {
        if (!offer_spare(arena, &given))
            return false;
    }
    return true;
}

bool moat_arena_close(struct moat_arena *arena) {
    size_t keep_bytes = arena->keep_bytes;
    arena->keep_bytes = 0;
    bool whole = moat_arena_reset(arena);
    if (!whole)
        arena->keep_bytes = keep_bytes;
    whole = whole && give_spare_back(arena);
    if (whole)
        *arena = (struct moat_arena){0};
    return whole;
}

/* ---- init -------------------------------------------------------------------------------------------------------- */

bool moat_arena_init(struct moat_arena *arena, void *buffer, size_t bytes, const struct moat_arena_config *config) {
    static const struct moat_arena_config none;
    const struct moat_arena_config *used = config != NULL ? config : &none;
    uintptr_t begin = (uintptr_t)buffer;
    uintptr_t start = round_up(begin, MOAT_ARENA_ALIGN);
    uintptr_t end = (begin + bytes) & ~MOAT_ARENA_CHUNK_FLAGS;
    *arena = (struct moat_arena){
        .source = used->source,
        .chunk_bytes = used->chunk_bytes != 0 ? used->chunk_bytes : CHUNK_BYTES_DEFAULT,
        .header_bytes = used->sized_blocks ? MOAT_ARENA_WORD : 0,
    };
    arena->keep_bytes = used->keep_bytes != 0 ? used->keep_bytes : arena->chunk_bytes;
    if (buffer == NULL)
        return used->source != NULL;
    bool has_room =
        begin + bytes >= begin && end > start && end - start >= MOAT_ARENA_BUFFER_BYTES_MIN - MOAT_ARENA_ALIGN;
    if (has_room)
        go_on_to(arena, start, end | MOAT_ARENA_CHUNK_GIVEN);
    return has_room || used->source != NULL;
}
