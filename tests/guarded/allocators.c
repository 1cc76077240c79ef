/* The allocators under test, each in static memory. */
#include "allocators.h"

#include "first_fit_guard.h"

#include <moat/guard_arena.h>
#include <moat/guard_pool.h>
#include <moat/heap.h>

#include <string.h>

MOAT_GUARDED_POOL_DEFINE(tickets, BLOCK_BYTES, 24, 8);
MOAT_GUARDED_POOL_DEFINE(receipts, BLOCK_BYTES, 8, 2);

static unsigned char heap_memory[65536];
static struct moat_guarded heap_guard;
static unsigned char arena_memory[16384];
static struct moat_arena arena;
static struct moat_guarded arena_guard;

const struct allocator allocators[ALLOCATOR_COUNT] = {
    [LIST] = {"list", "message heap", &messages, false},    [HEAP] = {"heap", "session heap", &heap_guard, false},
    [POOL] = {"pool", "tickets", &tickets, false},          [ARENA] = {"arena", "scratch arena", &arena_guard, true},
    [OTHER_POOL] = {"other", "receipts", &receipts, false},
};

struct moat_arena *allocators_arena(void) {
    return &arena;
}

bool allocators_start(void) {
    const struct moat_arena_config sized = {.sized_blocks = true};
    struct moat_heap *heap = moat_heap_create(heap_memory, sizeof heap_memory, NULL);
    const struct moat_guarded_config heap_config = {.name = "session heap",
                                                    .backend = moat_heap_backend(),
                                                    .context = heap,
                                                    .memory = heap_memory,
                                                    .memory_bytes = sizeof heap_memory,
                                                    .quarantine_bytes = 8192};
    return message_start() && heap != NULL && moat_guarded_init(&heap_guard, &heap_config) &&
           moat_arena_init(&arena, arena_memory, sizeof arena_memory, &sized) &&
           moat_guarded_arena_init(&arena_guard, "scratch arena", &arena, arena_memory, sizeof arena_memory);
}
