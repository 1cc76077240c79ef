/* The sweep at exit: blocks that are never freed, each with one bad byte before or behind it, and freed blocks written
 * to: all must be found when the process ends, each once, with the right offsets. The hook counts and speaks, since
 * nothing runs after it. Preloaded with libmoat.so and MOAT_OPTIONS=on_error=continue:leak_check=0:... */
#include "moat/finding.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void moat_on_finding(const struct moat_finding *finding);

enum { SIZE_MAX_BYTES = 600, BLOCKS = 3 * (SIZE_MAX_BYTES + 1) };

struct expectation {
    uintptr_t block;
    size_t size;
    long offset;
    unsigned kind;
    bool found;
};

static struct expectation expected[BLOCKS];
static unsigned expected_count, passed, failed;

void moat_on_finding(const struct moat_finding *finding) {
    char text[120];
    unsigned i = 0;
    while (i < expected_count && expected[i].block != finding->block.address) {
        i++;
    }
    struct expectation *e = &expected[i];
    bool good = i < expected_count && !e->found && finding->when == MOAT_WHEN_EXIT && finding->kind == e->kind &&
                finding->first == e->offset && finding->last == e->offset && finding->block.size_bytes == e->size;
    if (good) {
        e->found = true;
        passed++;
    } else {
        failed++;
    }
    if (passed + failed == expected_count) {
        int length = snprintf(text, sizeof text, "%u passed, %u failed\n", passed, failed);
        if (write(STDOUT_FILENO, text, (size_t)length) != length) {
            abort();
        }
    }
}

static void spoil(unsigned char *block, size_t size, long offset, unsigned kind) {
    expected[expected_count++] = (struct expectation){(uintptr_t)block, size, offset, kind, false};
    block[offset] = 'A';
}

int main(void) {
    for (size_t size = 0; size <= SIZE_MAX_BYTES; size++) {
        spoil(malloc(size), size, (long)size, MOAT_HEAP_BUFFER_OVERFLOW);
        spoil(malloc(size), size, -1, MOAT_HEAP_BUFFER_UNDERFLOW);
        if (size % 6 == 1) { /* few enough to be in quarantine still when the process ends */
            unsigned char *block = malloc(size);
            free(block);
            spoil(block, size, (long)size / 2, MOAT_HEAP_USE_AFTER_FREE);
        }
    }
    return 0;
}
