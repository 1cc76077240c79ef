/* The static buffer as a source.
 * May include: moat/sources.h and freestanding headers. */
#include "moat/sources.h"

#define PIECE_ALIGN ((uintptr_t) _Alignof(max_align_t))

static uintptr_t round_up(uintptr_t value) { return (value + PIECE_ALIGN - 1) & ~(PIECE_ALIGN - 1); }

static void *acquire(void *context, size_t size_bytes, size_t *got_bytes) {
    struct moat_static_source *source = context;
    size_t left = source->end - source->next;
    if (size_bytes == 0 || size_bytes > left)
        return NULL;
    uintptr_t piece = source->next;
    source->next += round_up(size_bytes); /* `end` is aligned, so the rounded size is still inside */
    *got_bytes = source->next - piece;
    return (void *)piece;
}

static bool release(void *context, void *start, size_t size_bytes) {
    struct moat_static_source *source = context;
    uintptr_t piece = (uintptr_t)start;
    if (piece < source->start || piece > source->next || source->next - piece != size_bytes || piece % PIECE_ALIGN != 0)
        return false;
    source->next = piece;
    return true;
}

const struct moat_source *moat_static_source_init(struct moat_static_source *source, void *buffer, size_t bytes) {
    uintptr_t start = round_up((uintptr_t)buffer);
    uintptr_t end = ((uintptr_t)buffer + bytes) & ~(PIECE_ALIGN - 1);
    if (end < start || buffer == NULL)
        end = start;
    *source = (struct moat_static_source){{acquire, release, source}, start, start, end};
    return &source->source;
}
