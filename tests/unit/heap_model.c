/* Portable property test of the heap: millions of random operations beside the model in fuzz/.
 * May include: tests/test.h, fuzz/heap_model.h, stdio.h. */
#include "fuzz/heap_model.h"
#include "tests/test.h"

#include <stdio.h>

#define SLOT_BYTES_MAX 4096u
#define STREAM_BYTES 60000u
#define OPERATIONS 4000000u /* about a third of them find their block missing or taken and do nothing */

static _Alignas(64) unsigned char memory[MOAT_MODEL_SLOTS * SLOT_BYTES_MAX];
static unsigned char owner[sizeof memory / MOAT_HEAP_ALIGNMENT_BYTES];
static uint8_t stream[STREAM_BYTES];
static struct moat_model model;

static void put(const char *text) { fputs(text, stdout); }

static uint64_t run(uint64_t seed, size_t slot_bytes) {
    uint64_t random = seed * 0x9e3779b97f4a7c15u + 1;
    for (size_t i = 0; i < sizeof stream; i++) {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        stream[i] = (uint8_t)(random >> 40);
    }
    moat_model_init(&model, memory, slot_bytes, owner, (size_t)seed);
    const char *failure = moat_model_run(&model, stream, sizeof stream);
    if (failure != NULL) {
        printf("seed %llu, slots of %zu bytes, after %llu operations: %s\n", (unsigned long long)seed, slot_bytes,
               (unsigned long long)model.operations, failure);
        moat_model_draw(&model, put);
        fflush(stdout);
    }
    CHECK(failure == NULL);
    return model.operations;
}

/* Small slots run out all the time, larger ones hardly ever. */
MOAT_TEST(heap_model, millions_of_operations) {
    static const size_t slots[] = {512, 576, 1024, 1984, 4096};
    uint64_t operations = 0;
    for (uint64_t seed = 1; operations < OPERATIONS; seed++)
        operations += run(seed, slots[seed % (sizeof slots / sizeof *slots)]);
}
