/* The program break as a source.
 * May include: moat/sources.h, errno.h, unistd.h and freestanding headers. */
#include "moat/sources.h"

#include <errno.h>
#include <unistd.h>

#define STEP_BYTES_DEFAULT ((size_t)4 << 10)
#define PIECE_ALIGN _Alignof(max_align_t)
#define SBRK_FAILED ((uintptr_t)-1)

/* sbrk with errno left as it was. */
static uintptr_t move_break(intptr_t bytes) {
    int saved = errno;
    uintptr_t before = (uintptr_t)sbrk(bytes);
    errno = saved;
    return before;
}

static void *acquire(void *context, size_t size_bytes, size_t *got_bytes) {
    const struct moat_sbrk_source *source = context;
    uintptr_t mask = source->step_bytes - 1;
    uintptr_t now = move_break(0);
    if (now == SBRK_FAILED || size_bytes == 0 || size_bytes > (size_t)INTPTR_MAX - 2 * source->step_bytes)
        return NULL;
    /* Somebody else may have left the break anywhere: bring it to a step first. */
    size_t skip = (source->step_bytes - (now & mask)) & mask;
    size_t total = ((size_bytes + mask) & ~mask) + skip;
    if (total > (size_t)INTPTR_MAX)
        return NULL;
    uintptr_t before = move_break((intptr_t)total);
    if (before == SBRK_FAILED)
        return NULL;
    if (before != now) /* somebody moved the break in between: use what came, if it is enough */
        skip = (PIECE_ALIGN - before % PIECE_ALIGN) % PIECE_ALIGN;
    if (skip > total || total - skip < size_bytes) {
        (void)move_break(-(intptr_t)total);
        return NULL;
    }
    *got_bytes = total - skip;
    return (void *)(before + skip);
}

static bool release(void *context, void *start, size_t size_bytes) {
    (void)context;
    uintptr_t end = (uintptr_t)start + size_bytes;
    if (size_bytes == 0 || size_bytes > (size_t)INTPTR_MAX || move_break(0) != end)
        return false;
    return move_break(-(intptr_t)size_bytes) != SBRK_FAILED;
}

const struct moat_source *moat_sbrk_source_init(struct moat_sbrk_source *source, size_t step_bytes) {
    *source = (struct moat_sbrk_source){{acquire, release, source}, step_bytes != 0 ? step_bytes : STEP_BYTES_DEFAULT};
    return &source->source;
}
