/* Portable test of how much a small heap holds: the workload of tests/bench/fill.h.
 * May include: tests/test.h, tests/bench/fill.h. */
#include "tests/bench/fill.h"
#include "tests/test.h"

/* What must be held at the first failure and after the last round. Eight bytes a block more go to headers on 64-bit,
 * and to checks at level 2 on 32-bit. */
#if UINTPTR_MAX <= 0xffffffffu && MOAT_HEAP_HARDENING < 2
#define FIRST_BYTES_LEAST 55000u
#define LAST_BYTES_LEAST 54000u
#elif UINTPTR_MAX <= 0xffffffffu
#define FIRST_BYTES_LEAST 50500u
#define LAST_BYTES_LEAST 49000u
#else
#define FIRST_BYTES_LEAST 45500u
#define LAST_BYTES_LEAST 44500u
#endif

static _Alignas(64) unsigned char memory[FILL_BYTES];
static struct fill fill;

MOAT_TEST(heap_space, holds_what_it_should) {
    struct fill_result result = fill_run(&fill, memory, FILL_SEED);
    CHECK(result.first_bytes >= FIRST_BYTES_LEAST);
    CHECK(result.last_bytes >= LAST_BYTES_LEAST);
}

/* Not by luck of one seed: the mean over many is as good, but for the scatter of the last request's size. */
MOAT_TEST(heap_space, other_seeds_hold_as_much) {
    size_t first_bytes = 0;
    size_t last_bytes = 0;
    for (uint32_t i = 1; i <= 64; i++) {
        struct fill_result result = fill_run(&fill, memory, FILL_SEED * i + i);
        first_bytes += result.first_bytes;
        last_bytes += result.last_bytes;
    }
    CHECK(first_bytes / 64 >= FIRST_BYTES_LEAST - 500);
    CHECK(last_bytes / 64 >= LAST_BYTES_LEAST - 500);
}

/* The control block takes its share and no more. */
MOAT_TEST(heap_space, control_block_keeps_to_its_share) {
    size_t share = sizeof(uintptr_t) > 4 ? FILL_BYTES / 32 + 256 : FILL_BYTES / 64 + 128;
    CHECK(moat_heap_control_bytes(FILL_BYTES, NULL) <= share);
    for (size_t bytes = MOAT_HEAP_BUFFER_BYTES_MIN; bytes <= FILL_BYTES; bytes += 8) {
        struct moat_heap *heap = moat_heap_create(memory, bytes, NULL);
        CHECK(heap != NULL && moat_heap_alloc(heap, 8) != NULL);
    }
}
