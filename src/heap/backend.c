/* The heap as a backend, and its faults.
 * May include: control.h and freestanding headers. */
#include "control.h"

void moat_heap_note(struct moat_heap *heap, enum moat_rule rule, uintptr_t block) {
    heap->fault_rule = (uint8_t)rule;
    heap->fault_block = block;
    heap->fault_pending = 1;
    heap->fault_count++;
}

const char *moat_rule_text(unsigned rule) {
#define RULE_TEXT(name, text) text,
    static const char *const texts[] = {MOAT_RULES(RULE_TEXT)};
#undef RULE_TEXT
    return texts[rule < MOAT_RULE_COUNT ? rule : MOAT_RULE_NONE];
}

bool moat_heap_take_fault(struct moat_heap *heap, struct moat_fault *fault) {
    if (heap->fault_pending == 0)
        return false;
    heap->fault_pending = 0;
    *fault = (struct moat_fault){moat_rule_text(heap->fault_rule), heap->fault_block, heap->fault_count};
    return true;
}

static void *backend_alloc(void *context, size_t size_bytes, size_t alignment, size_t lead_bytes) {
    return moat_heap_alloc_aligned(context, size_bytes, alignment, lead_bytes);
}

static bool backend_free(void *context, void *block) { return moat_heap_free(context, block); }

static bool backend_resize(void *context, void *block, size_t size_bytes) {
    return moat_heap_resize(context, block, size_bytes);
}

static size_t backend_usable(void *context, void *block) { return moat_heap_usable(context, block); }

static bool backend_walk(void *context, bool (*visit)(void *argument, const struct moat_backend_block *block),
                         void *argument) {
    return moat_heap_walk(context, visit, argument);
}

static bool backend_fault(void *context, struct moat_fault *fault) { return moat_heap_take_fault(context, fault); }

const struct moat_backend *moat_heap_backend(void) {
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
