/* Portable property test of heap, pool and arena: the same million random operations over each beside the model in
 * fuzz/. May include: tests/test.h, fuzz/backend_model.h, moat's public headers, stdio.h, string.h. */
#include "fuzz/backend_model.h"
#include "moat/heap.h"
#include "moat/pool.h"
#include "moat/sources.h"
#include "tests/test.h"

#include <stdio.h>
#include <string.h>

#define STREAM_BYTES 60000u
#define OPERATIONS 1000000u /* over each backend */
#define POOL_BLOCK_BYTES 96u

static _Alignas(64) unsigned char memory[24 * 1024];
static unsigned char owner[sizeof memory];
static uint8_t stream[STREAM_BYTES];
static struct moat_backend_model model;

static void run(const char *name, uint64_t seed, const struct moat_backend_traits *traits) {
    uint64_t random = seed * 0x9e3779b97f4a7c15u + 1;
    for (size_t i = 0; i < sizeof stream; i++) {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        stream[i] = (uint8_t)(random >> 40);
    }
    moat_backend_model_init(&model, traits, owner);
    const char *failure = moat_backend_model_run(&model, stream, sizeof stream);
    if (failure != NULL) {
        printf("%s, seed %llu, after %llu operations: %s\n", name, (unsigned long long)seed,
               (unsigned long long)model.operations, failure);
        fflush(stdout);
    }
    CHECK(failure == NULL);
    CHECK(!traits->proves || model.refusals > 100);
}

/* ---- heap -------------------------------------------------------------------------------------------------------- */

static bool heap_verify(void *context, struct moat_fault *fault) { return moat_heap_verify(context, fault); }

static void *heap_realloc(void *context, void *block, size_t size_bytes) {
    return moat_heap_realloc(context, block, size_bytes);
}

static bool heap_is_empty(void *context) {
    struct moat_heap_statistics said;
    moat_heap_statistics(context, &said);
    return said.used_count == 0 && said.used_bytes == 0 && said.free_count == 1;
}

MOAT_TEST(heap_backends, heap) {
    uint64_t operations = 0;
    for (uint64_t seed = 1; operations < OPERATIONS; seed++) {
        size_t bytes = seed % 2 != 0 ? sizeof memory : sizeof memory / 4;
        struct moat_backend_traits traits = {
            .backend = moat_heap_backend(),
            .context = moat_heap_create(memory, bytes, NULL),
            .memory = memory,
            .memory_bytes = sizeof memory,
            .slack_bytes_max = MOAT_HEAP_SLACK_BYTES_MAX,
            .knows_sizes = true,
            .proves = MOAT_HEAP_HARDENING >= 1,
            .verify = heap_verify,
            .realloc = heap_realloc,
            .is_empty = heap_is_empty,
        };
        run("heap", seed, &traits);
        operations += model.operations;
    }
}

/* ---- pool -------------------------------------------------------------------------------------------------------- */

static bool pool_verify(void *context, struct moat_fault *fault) { return moat_pool_verify(context, fault); }

static bool pool_is_empty(void *context) {
    struct moat_pool_statistics said;
    moat_pool_statistics(context, &said);
    return said.used_count == 0;
}

MOAT_TEST(heap_backends, pool) {
    uint64_t operations = 0;
    for (uint64_t seed = 1; operations < OPERATIONS; seed++) {
        struct moat_pool pool;
        size_t bytes = seed % 2 != 0 ? sizeof memory : 5000;
        size_t count = moat_pool_init(&pool, memory, bytes, POOL_BLOCK_BYTES, NULL);
        struct moat_backend_traits traits = {
            .backend = moat_pool_backend(),
            .context = moat_pool_context(&pool),
            .memory = memory,
            .memory_bytes = sizeof memory,
            .block_bytes = POOL_BLOCK_BYTES,
            .block_count = count,
            .knows_sizes = true,
            .proves = true,
            .verify = pool_verify,
            .is_empty = pool_is_empty,
        };
        run("pool", seed, &traits);
        operations += model.operations;
    }
}

/* ---- arena ------------------------------------------------------------------------------------------------------- */

static bool arena_verify(void *context, struct moat_fault *fault) { return moat_arena_verify(context, fault); }

static bool arena_is_empty(void *context) {
    struct moat_arena_statistics said;
    moat_arena_statistics(context, &said);
    return said.used_bytes == 0 && said.chunk_count <= 1;
}

/* In a buffer, in chunks, and in both; with sizes and without; keeping spare chunks and not. */
MOAT_TEST(heap_backends, arena) {
    uint64_t operations = 0;
    for (uint64_t seed = 1; operations < OPERATIONS; seed++) {
        struct moat_static_source source;
        struct moat_arena arena;
        size_t buffer_bytes = seed % 3 == 0 ? 0 : seed % 3 == 1 ? sizeof memory : 2048;
        struct moat_arena_config config = {
            .source = moat_static_source_init(&source, memory + buffer_bytes, sizeof memory - buffer_bytes),
            .chunk_bytes = 1500,
            .keep_bytes = seed / 2 % 2 != 0 ? 4000 : 1,
            .sized_blocks = seed / 4 % 2 == 0,
        };
        CHECK(moat_arena_init(&arena, buffer_bytes != 0 ? memory : NULL, buffer_bytes, &config));
        struct moat_backend_traits traits = {
            .backend = moat_arena_backend(),
            .context = &arena,
            .memory = memory,
            .memory_bytes = sizeof memory,
            .slack_bytes_max = config.sized_blocks ? 2 * sizeof(uintptr_t) : 0,
            .knows_sizes = config.sized_blocks,
            .proves = true,
            .arena = &arena,
            .verify = arena_verify,
            .is_empty = arena_is_empty,
        };
        run("arena", seed, &traits);
        CHECK(moat_arena_close(&arena));
        CHECK(source.next == source.start);
        operations += model.operations;
    }
}
