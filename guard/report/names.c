/* The stable names of everything a finding enumerates.
 * May include: guard/report/report.h, string.h for str* only. */
#include "guard/report/report.h"

#include <string.h>

#define COUNT(table) (sizeof(table) / sizeof *(table))
#define NAME_OF(table, index) ((index) < COUNT(table) && (table)[index] != NULL ? (table)[index] : "?")
#define COVERS(table, one_after) _Static_assert(COUNT(table) == (one_after), "a name for each value")

static const char *const kinds[] = {
    [MOAT_HEAP_BUFFER_OVERFLOW] = "heap-buffer-overflow",
    [MOAT_HEAP_BUFFER_UNDERFLOW] = "heap-buffer-underflow",
    [MOAT_HEAP_USE_AFTER_FREE] = "heap-use-after-free",
    [MOAT_DOUBLE_FREE] = "double-free",
    [MOAT_INVALID_FREE] = "invalid-free",
    [MOAT_ALLOC_DEALLOC_MISMATCH] = "alloc-dealloc-mismatch",
    [MOAT_CORRUPTED_METADATA] = "corrupted-metadata",
    [MOAT_INVALID_ARGUMENT] = "invalid-argument",
    [MOAT_OUT_OF_MEMORY] = "out-of-memory",
    [MOAT_CALL_FROM_INTERRUPT] = "call-from-interrupt",
    [MOAT_MEMORY_LEAK] = "memory-leak",
};
COVERS(kinds, MOAT_KIND_COUNT);

static const char *const whens[] = {
    [MOAT_WHEN_FREE] = "free",   [MOAT_WHEN_REALLOC] = "realloc", [MOAT_WHEN_QUARANTINE] = "quarantine",
    [MOAT_WHEN_CHECK] = "check", [MOAT_WHEN_EXIT] = "exit",       [MOAT_WHEN_ACCESS] = "access",
    [MOAT_WHEN_CALL] = "call",
};
COVERS(whens, MOAT_WHEN_COUNT);

/* What a reader needs to know of a block is whether it was freed; the engine's finer states are all one of the two. */
static const char *const states[] = {
    [MOAT_BLOCK_NONE] = "none",         [MOAT_BLOCK_LIVE] = "live",       [MOAT_BLOCK_FILLING] = "freed",
    [MOAT_BLOCK_QUARANTINED] = "freed", [MOAT_BLOCK_RETIRED] = "retired",
};
COVERS(states, MOAT_BLOCK_STATE_COUNT);

static const char *const families[] = {
    [MOAT_FAMILY_MALLOC] = "malloc",
    [MOAT_FAMILY_NEW] = "new",
    [MOAT_FAMILY_NEW_ARRAY] = "new[]",
    [MOAT_FAMILY_ALIGNED] = "aligned",
    [MOAT_FAMILY_NEW_ALIGNED] = "new-aligned",
    [MOAT_FAMILY_NEW_ARRAY_ALIGNED] = "new[]-aligned",
    [MOAT_FAMILY_POOL] = "pool",
    [MOAT_FAMILY_ARENA] = "arena",
    [MOAT_FAMILY_GUARDED] = "guarded",
};
COVERS(families, MOAT_FAMILY_COUNT);

static const char *const leak_classes[] = {
    [MOAT_LEAK_NONE] = "none",         [MOAT_LEAK_DEFINITE] = "definite",   [MOAT_LEAK_INDIRECT] = "indirect",
    [MOAT_LEAK_POSSIBLE] = "possible", [MOAT_LEAK_REACHABLE] = "reachable",
};
COVERS(leak_classes, MOAT_LEAK_CLASS_COUNT);

const char *moat_kind_name(unsigned kind) { return NAME_OF(kinds, kind); }

const char *moat_when_name(unsigned when) { return NAME_OF(whens, when); }

const char *moat_state_name(unsigned state) { return NAME_OF(states, state); }

const char *moat_family_name(unsigned family) { return NAME_OF(families, family); }

const char *moat_leak_class_name(unsigned leak_class) { return NAME_OF(leak_classes, leak_class); }

unsigned moat_kind_of_name(const char *name) {
    for (unsigned kind = 0; kind < COUNT(kinds); kind++) {
        if (kinds[kind] != NULL && strcmp(kinds[kind], name) == 0) {
            return kind;
        }
    }
    return MOAT_KIND_NONE;
}
