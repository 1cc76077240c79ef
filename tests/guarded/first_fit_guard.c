#include "first_fit_guard.h"

#include "first_fit.h"

#include <moat/guard.h>

static void *adapter_alloc(void *heap, size_t bytes, size_t alignment, size_t lead_bytes) {
    (void)lead_bytes; /* 48: a multiple of 8, so whoever is content with 8 gets it */
    return alignment <= 8 ? first_fit_alloc(heap, bytes) : NULL;
}

static bool adapter_free(void *heap, void *block) {
    first_fit_free(heap, block);
    return true;
}

/* The word in front of the block says how long it is. */
static size_t adapter_usable(void *heap, void *block) {
    (void)heap;
    return ((const size_t *)block)[-1] - sizeof(size_t);
}

static const struct moat_backend adapter = {
    .alloc = adapter_alloc,
    .free = adapter_free,
    .usable = adapter_usable,
};

static _Alignas(8) unsigned char memory[16384];
static struct first_fit heap;
struct moat_guarded messages;

bool message_start(void) {
    first_fit_init(&heap, memory, sizeof memory);
    return moat_guarded_init(&messages, &(struct moat_guarded_config){.name = "message heap",
                                                                      .backend = &adapter,
                                                                      .context = &heap,
                                                                      .memory = memory,
                                                                      .memory_bytes = sizeof memory,
                                                                      .quarantine_bytes = 4096});
}

void *message_alloc(size_t bytes) { return moat_guarded_alloc(&messages, bytes); }

void message_free(void *block) { moat_guarded_free(&messages, block); }
