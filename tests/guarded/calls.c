/* What the functions of moat/guard*.h promise, one after the other, in one process. Prints a line for each expectation.
 * May include: moat's public headers, the C library. */
#include "tests/entry/verdict.h"

#include "allocators.h"
#include "first_fit.h"
#include "first_fit_guard.h"

#include <moat.h>
#include <moat/guard_arena.h>
#include <moat/guard_pool.h>
#include <moat/heap.h>
#include <moat/sources.h>

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

/* ---- findings, counted ------------------------------------------------------------------------------------------------ */

static unsigned found[MOAT_KIND_COUNT];
static struct moat_finding latest;

void moat_on_finding(const struct moat_finding *finding) {
    found[finding->kind]++;
    latest = *finding;
}

const char *moat_default_options(void) { return "on_error=continue:report=/dev/null:exitcode=1:leak_check=0"; }

/* How many findings there were since this was last asked. */
static unsigned news(void) {
    static unsigned before;
    unsigned now = 0;
    for (unsigned kind = 0; kind < MOAT_KIND_COUNT; kind++) {
        now += found[kind];
    }
    unsigned since = now - before;
    before = now;
    return since;
}

static bool one(unsigned kind, const char *owner) {
    return news() == 1 && latest.kind == kind && strcmp(latest.owner, owner) == 0;
}

/* ---- small allocators for the tests below -------------------------------------------------------------------------------- */

static void *list_alloc(void *heap, size_t bytes, size_t alignment, size_t lead_bytes) {
    (void)lead_bytes;
    return alignment <= 8 ? first_fit_alloc(heap, bytes) : NULL;
}

static bool list_free(void *heap, void *block) {
    first_fit_free(heap, block);
    return true;
}

static size_t list_usable(void *heap, void *block) {
    (void)heap;
    return ((const size_t *)block)[-1] - sizeof(size_t);
}

static const struct moat_backend list_backend = {.alloc = list_alloc, .free = list_free, .usable = list_usable};

static struct moat_guarded_config list_config(const char *name, struct first_fit *list, void *memory, size_t bytes) {
    return (struct moat_guarded_config){
        .name = name, .backend = &list_backend, .context = list, .memory = memory, .memory_bytes = bytes};
}

/* ---- before main ------------------------------------------------------------------------------------------------------------ */

static char *early_block;

__attribute__((constructor)) static void early(void) {
    early_block = moat_guarded_alloc(allocators[POOL].guarded, BLOCK_BYTES);
    memset(early_block, 1, BLOCK_BYTES);
}

static void test_pool(void) {
    struct moat_guarded *pool = allocators[POOL].guarded;
    void *blocks[24];
    size_t count = 0;
    EXPECT(early_block != NULL && (uintptr_t)early_block % 16 == 0);
    moat_guarded_free(pool, early_block);
    while (count < 24 && (blocks[count] = moat_guarded_alloc(pool, BLOCK_BYTES)) != NULL) {
        count++;
    }
    EXPECT(count == 24); /* the one in quarantine, too */
    errno = 0;
    EXPECT(moat_guarded_alloc(pool, BLOCK_BYTES) == NULL && errno == ENOMEM);
    for (size_t i = 0; i < count; i++) {
        moat_guarded_free(pool, blocks[i]);
    }
    /* Eight are held back: the ninth free lets the first go, and only then is it handed out again. */
    void *first = moat_guarded_alloc(pool, 1);
    moat_guarded_free(pool, first);
    unsigned later = 0;
    for (void *next = NULL; next != first && later < 24; later++) {
        next = moat_guarded_alloc(pool, 1);
        moat_guarded_free(pool, next);
    }
    verdict(later > 8 && later <= 16, "a pool's freed block comes back after about eight others");
    EXPECT(moat_guarded_alloc(pool, BLOCK_BYTES + 1) != NULL); /* the rear zone is a byte less, but 16 are left */
    EXPECT(moat_guarded_alloc(pool, 2 * BLOCK_BYTES) == NULL);
    EXPECT(news() == 0);
}

/* ---- init, add, remove ------------------------------------------------------------------------------------------------------- */

static _Alignas(64) unsigned char ground[65536];

static int init_errno(struct moat_guarded *guarded, void *memory, size_t bytes) {
    static struct first_fit list;
    struct moat_guarded_config config = list_config("ground", &list, memory, bytes);
    errno = 0;
    return moat_guarded_init(guarded, &config) ? 0 : errno;
}

static void test_init(void) {
    static struct moat_guarded middle, guard;
    EXPECT(init_errno(&middle, ground + 4096, 4096) == 0);
    EXPECT(init_errno(&middle, ground + 32768, 4096) == EBUSY);
    EXPECT(init_errno(&guard, ground + 4096, 4096) == EEXIST);
    EXPECT(init_errno(&guard, ground, sizeof ground) == EEXIST);
    EXPECT(init_errno(&guard, ground + 5000, 16) == EEXIST);
    EXPECT(init_errno(&guard, ground, 4096 + 1) == EEXIST);
    EXPECT(init_errno(&guard, ground + 8191, 4096) == 0); /* from 8192 on: blocks are aligned to 8 */
    moat_guarded_close(&guard);
    EXPECT(init_errno(&guard, ground + 8184, 4096) == EEXIST);
    EXPECT(init_errno(&guard, ground, 4096) == 0);
    EXPECT(!moat_guarded_add_memory(&guard, ground + 6000, 100) && errno == EEXIST);
    EXPECT(!moat_guarded_add_memory(&guard, ground + 8192, 0) && errno == EINVAL);
    EXPECT(moat_guarded_add_memory(&guard, ground + 8192, 4096));
    EXPECT(moat_guarded_remove_memory(&guard, ground + 8192, 4096));
    moat_guarded_close(&guard);
    moat_guarded_close(&middle);
    EXPECT(init_errno(&guard, ground + 100, 3) == EINVAL); /* no multiple of 8 in it */
    EXPECT(init_errno(&guard, NULL, 100) == EINVAL);
    EXPECT(init_errno(&guard, (void *)(UINTPTR_MAX - 100), 4096) == EINVAL);
    void *small = malloc(4096), *large = malloc(3u << 20);
    EXPECT(init_errno(&guard, small, 4096) == EEXIST);
    EXPECT(init_errno(&guard, large, 4096) == EEXIST);
    free(small);
    free(large);
    struct moat_guarded_config config = list_config(NULL, NULL, ground, 4096);
    EXPECT(!moat_guarded_init(&guard, &config) && errno == EINVAL);
    config.name = "ground";
    config.backend = NULL;
    EXPECT(!moat_guarded_init(&guard, &config) && errno == EINVAL);
    EXPECT(!moat_guarded_init(&guard, NULL) && errno == EINVAL);
    EXPECT(moat_guarded_alloc(&guard, 1) == NULL);
    EXPECT(!moat_guarded_add_memory(&guard, ground, 4096) && errno == EINVAL);
    EXPECT(init_errno(&guard, ground, sizeof ground) == 0); /* after all that it is still free */
    moat_guarded_close(&guard);
    EXPECT(news() == 0);
    moat_guarded_free(&guard, ground + 64); /* closed */
    EXPECT(one(MOAT_INVALID_FREE, ""));
}

/* ---- two guards side by side in one window of the block map --------------------------------------------------------------------- */

static void test_neighbours(void) {
    static struct moat_guarded guards[2];
    static struct first_fit lists[2];
    const size_t split = 16384 + 8;
    char *blocks[2][200];
    unsigned count[2] = {0, 0};
    for (unsigned i = 0; i < 2; i++) {
        void *memory = ground + i * split;
        first_fit_init(&lists[i], memory, split);
        struct moat_guarded_config config = list_config(i == 0 ? "left" : "right", &lists[i], memory, split);
        EXPECT(moat_guarded_init(&guards[i], &config));
        while (count[i] < 200 && (blocks[i][count[i]] = moat_guarded_alloc(&guards[i], 24 + count[i] % 9)) != NULL) {
            memset(blocks[i][count[i]], 1, 24 + count[i] % 9);
            count[i]++;
        }
    }
    EXPECT(count[0] == count[1] && count[0] > 100);
    EXPECT(moat_check() == 0);
    moat_guarded_free(&guards[1], blocks[0][count[0] - 1]);
    EXPECT(one(MOAT_ALLOC_DEALLOC_MISMATCH, "left") && strcmp(latest.asked, "right") == 0);
    moat_guarded_free(&guards[0], blocks[1][0]);
    EXPECT(one(MOAT_ALLOC_DEALLOC_MISMATCH, "right") && strcmp(latest.asked, "left") == 0);
    for (unsigned i = 0; i < 2; i++) {
        for (unsigned k = i; k + 1 - i < count[i]; k++) {
            moat_guarded_free(&guards[i], blocks[i][k]);
        }
        moat_guarded_close(&guards[i]);
    }
    EXPECT(news() == 0);
}

/* ---- closing and opening ---------------------------------------------------------------------------------------------------------- */

static uint64_t own_bytes(void) {
    struct moat_statistics now;
    moat_stats(&now);
    return now.own_bytes;
}

static void test_close(void) {
    static struct moat_guarded guard;
    static struct first_fit list;
    struct moat_guarded_config config = list_config("brief", &list, ground, sizeof ground);
    config.quarantine_bytes = sizeof ground;
    uint64_t before = 0;
    bool whole = true;
    for (int round = 0; round < 300; round++) {
        first_fit_init(&list, ground, sizeof ground);
        whole &= moat_guarded_init(&guard, &config);
        for (int i = 0; i < 50; i++) {
            moat_guarded_free(&guard, moat_guarded_alloc(&guard, 100));
        }
        moat_guarded_close(&guard);
        /* What was in quarantine is the list's again. */
        void *all = first_fit_alloc(&list, sizeof ground - sizeof(size_t));
        whole &= all == ground + sizeof(size_t);
        before = round == 10 ? own_bytes() : before;
    }
    verdict(whole, "what is in quarantine at close goes back to the allocator");
    EXPECT(own_bytes() == before); /* nothing is lost from round to round */
    first_fit_init(&list, ground, sizeof ground);
    moat_guarded_init(&guard, &config);
    char *block = moat_guarded_alloc(&guard, 33);
    moat_guarded_free(&guard, block);
    block[32] = 1;
    EXPECT(news() == 0);
    moat_guarded_close(&guard);
    EXPECT(one(MOAT_HEAP_USE_AFTER_FREE, "brief") && latest.first == 32 && latest.when == MOAT_WHEN_CHECK);
    first_fit_init(&list, ground, sizeof ground);
    moat_guarded_init(&guard, &config);
    block = moat_guarded_alloc(&guard, 33);
    block[33] = 1;
    moat_guarded_close(&guard);
    EXPECT(one(MOAT_HEAP_BUFFER_OVERFLOW, "brief") && latest.first == 33);
    EXPECT(moat_check() == 0 && news() == 0);
}

/* ---- backends that fail ------------------------------------------------------------------------------------------------------------ */

enum fault { FAULT_NONE, FAULT_EMPTY, FAULT_REFUSES, FAULT_TWICE, FAULT_INSIDE, FAULT_SMALL, FAULT_ELSEWHERE };

struct faulty {
    struct first_fit list;
    enum fault fault;
    unsigned char *victim; /* a block that is handed out already, as the list gave it */
    void *odd;             /* what a fault gave, and how large it is said to be */
    size_t odd_bytes;
    unsigned given_back;
};

static void *faulty_alloc(void *context, size_t bytes, size_t alignment, size_t lead_bytes) {
    static _Alignas(16) unsigned char elsewhere[1024];
    struct faulty *faulty = context;
    void *block = NULL;
    if (faulty->fault == FAULT_NONE || faulty->fault == FAULT_REFUSES || faulty->fault == FAULT_SMALL) {
        block = list_alloc(&faulty->list, bytes, alignment, lead_bytes);
    } else if (faulty->fault == FAULT_TWICE) {
        block = faulty->victim;
    } else if (faulty->fault == FAULT_INSIDE) {
        block = faulty->victim + 56; /* in the middle of its user's bytes */
    } else if (faulty->fault == FAULT_ELSEWHERE) {
        block = elsewhere + 16;
    }
    faulty->odd = faulty->fault == FAULT_NONE || faulty->fault == FAULT_REFUSES ? NULL : block;
    faulty->odd_bytes = faulty->fault == FAULT_SMALL ? 16 : 200;
    return block;
}

static bool faulty_free(void *context, void *block) {
    struct faulty *faulty = context;
    if (faulty->fault == FAULT_REFUSES) {
        return false;
    }
    faulty->given_back++;
    bool is_foreign = faulty->fault == FAULT_ELSEWHERE && block == faulty->odd;
    return is_foreign || list_free(&faulty->list, block);
}

static size_t faulty_usable(void *context, void *block) {
    const struct faulty *faulty = context;
    return block == faulty->odd ? faulty->odd_bytes : list_usable(NULL, block);
}

static const struct moat_backend faulty_backend = {.alloc = faulty_alloc, .free = faulty_free, .usable = faulty_usable};

static struct faulty faulty;
static struct moat_guarded faulty_guard;

static void faulty_start(size_t quarantine_bytes) {
    struct moat_guarded_config config = list_config("faulty heap", NULL, ground, sizeof ground);
    config.backend = &faulty_backend;
    config.context = &faulty;
    config.quarantine_bytes = quarantine_bytes;
    faulty = (struct faulty){.fault = FAULT_NONE};
    first_fit_init(&faulty.list, ground, sizeof ground);
    EXPECT(moat_guarded_init(&faulty_guard, &config));
}

static void *with_fault(enum fault fault, size_t bytes) {
    faulty.fault = fault;
    errno = 0;
    void *block = moat_guarded_alloc(&faulty_guard, bytes);
    faulty.fault = FAULT_NONE;
    faulty.odd = NULL;
    return block;
}

static void test_failing(void) {
    faulty_start(0);
    char *block = moat_guarded_alloc(&faulty_guard, 136); /* 200 with header and zones */
    memset(block, 'b', 136);
    faulty.victim = (unsigned char *)block - MOAT_GUARD_LEAD_BYTES;
    EXPECT(with_fault(FAULT_EMPTY, 100) == NULL && errno == ENOMEM && news() == 0);
    EXPECT(with_fault(FAULT_SMALL, 100) == NULL && errno == ENOMEM);
    EXPECT(with_fault(FAULT_ELSEWHERE, 100) == NULL && errno == ENOMEM && faulty.given_back == 2);
    EXPECT(news() == 0);
    EXPECT(with_fault(FAULT_TWICE, 100) == NULL && errno == ENOMEM);
    EXPECT(one(MOAT_CORRUPTED_METADATA, "faulty heap") && latest.block.address == (uintptr_t)block);
    EXPECT(strcmp(latest.rule, "memory is handed out to one owner at a time") == 0);
    EXPECT(with_fault(FAULT_INSIDE, 8) == NULL && errno == ENOMEM);
    EXPECT(one(MOAT_CORRUPTED_METADATA, "faulty heap") && latest.block.address == (uintptr_t)block);
    bool untouched = true;
    for (int i = 0; i < 136; i++) {
        untouched &= block[i] == 'b';
    }
    verdict(untouched && moat_check() == 0, "a block whose memory was handed out again is untouched");
    /* A free that is refused: the block is lost, and said to be. */
    faulty.fault = FAULT_REFUSES;
    moat_guarded_free(&faulty_guard, block);
    faulty.fault = FAULT_NONE;
    EXPECT(one(MOAT_CORRUPTED_METADATA, "faulty heap") && latest.block.address == (uintptr_t)block);
    EXPECT(strcmp(latest.rule, "the allocator takes its own blocks back") == 0);
    EXPECT(with_fault(FAULT_TWICE, 100) == NULL && one(MOAT_CORRUPTED_METADATA, "faulty heap"));
    moat_guarded_free(&faulty_guard, block);
    EXPECT(one(MOAT_DOUBLE_FREE, "faulty heap"));
    moat_guarded_close(&faulty_guard);
    EXPECT(news() == 0);
}

static uint64_t random_state = 88172645463325252u;

static uint64_t random_next(void) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

/* Whatever the allocator does wrong, live blocks never overlap and keep their contents. */
static void test_never_twice(void) {
    enum { SLOTS = 64, STEPS = 60000 };
    static struct {
        unsigned char *start;
        size_t bytes;
    } live[SLOTS];
    bool overlapped = false, changed = false;
    unsigned given = 0, faults[FAULT_ELSEWHERE + 1] = {0};
    faulty_start(3000);
    for (unsigned step = 0; step < STEPS; step++) {
        unsigned at = (unsigned)(random_next() % SLOTS), victim = (unsigned)(random_next() % SLOTS);
        enum fault fault = random_next() % 8 == 0 ? (enum fault)(random_next() % 7) : FAULT_NONE;
        size_t bytes = random_next() % 120;
        if (live[at].start != NULL) {
            for (size_t i = 0; i < live[at].bytes; i++) {
                changed |= live[at].start[i] != (unsigned char)at;
            }
            /* What is refused is lost for good: not too often. */
            faulty.fault = fault == FAULT_REFUSES && step % 8 == 0 ? FAULT_REFUSES : FAULT_NONE;
            faults[faulty.fault]++;
            moat_guarded_free(&faulty_guard, live[at].start);
            faulty.fault = FAULT_NONE;
            live[at].start = NULL;
            continue;
        }
        bool needs_victim = fault == FAULT_TWICE || fault == FAULT_INSIDE;
        if (fault == FAULT_REFUSES || (needs_victim && live[victim].start == NULL)) {
            fault = FAULT_NONE;
        }
        faulty.victim = live[victim].start - MOAT_GUARD_LEAD_BYTES;
        faults[fault]++;
        unsigned char *block = with_fault(fault, bytes);
        if (block == NULL) {
            continue;
        }
        given++;
        for (unsigned i = 0; i < SLOTS; i++) {
            overlapped |=
                live[i].start != NULL && block < live[i].start + live[i].bytes + 1 && live[i].start < block + bytes + 1;
        }
        memset(block, (int)at, bytes);
        live[at].start = block;
        live[at].bytes = bytes;
    }
    verdict(!overlapped, "a backend that hands out what it must not: no two live blocks overlap");
    verdict(!changed, "and none changes");
    EXPECT(given > 20000);
    for (unsigned fault = FAULT_NONE; fault <= FAULT_ELSEWHERE; fault++) {
        verdict(faults[fault] >= 50, "each fault was tried");
    }
    moat_guarded_close(&faulty_guard);
    /* All that was found is the backend's own doing. */
    EXPECT(found[MOAT_HEAP_BUFFER_OVERFLOW] + found[MOAT_HEAP_BUFFER_UNDERFLOW] == 1); /* test_close's */
    news();
}

/* ---- arenas ----------------------------------------------------------------------------------------------------------------------------- */

static uint64_t live_blocks(void) {
    struct moat_statistics now;
    moat_stats(&now);
    return now.live_blocks;
}

static void test_arena(void) {
    struct moat_guarded *arena = allocators[ARENA].guarded;
    const char *name = allocators[ARENA].name;
    uint64_t live = live_blocks();
    char *kept = moat_guarded_alloc(arena, 100);
    memset(kept, 'k', 100);
    struct moat_arena_mark mark = moat_guarded_arena_mark(arena);
    char *blocks[10];
    for (int i = 0; i < 10; i++) {
        blocks[i] = moat_guarded_alloc(arena, 50);
        memset(blocks[i], 'b', 50);
    }
    EXPECT(live_blocks() == live + 11);
    EXPECT(moat_guarded_arena_rewind(arena, mark));
    EXPECT(live_blocks() == live + 1 && kept[99] == 'k' && moat_check() == 0);
    blocks[9][3] = 'x';
    EXPECT(moat_check() == 1 && one(MOAT_HEAP_USE_AFTER_FREE, name) && latest.first == 3);
    EXPECT(moat_check() == 0); /* reported once */
    /* A block with a large alignment starts in the middle of an old one. */
    char *aligned = moat_guarded_alloc_aligned(arena, 300, 1024);
    EXPECT((uintptr_t)aligned % 1024 == 0);
    memset(aligned, 'a', 300);
    EXPECT(moat_check() == 0 && news() == 0);
    /* So it is with all sizes and alignments: what the arena writes is never taken for damage. */
    for (unsigned round = 0; round < 2000; round++) {
        moat_guarded_arena_rewind(arena, mark);
        for (unsigned i = 0; i < random_next() % 20; i++) {
            size_t bytes = random_next() % 150, alignment = (size_t)8 << random_next() % 7;
            void *block = moat_guarded_alloc_aligned(arena, bytes, random_next() % 2 == 0 ? alignment : 8);
            memset(block, (int)i, bytes);
        }
    }
    EXPECT(moat_check() == 0 && news() == 0);
    EXPECT(moat_guarded_arena_rewind(arena, mark));
    /* Two damaged blocks in the memory of one new block: both are said. */
    char *first = moat_guarded_alloc(arena, 20), *second = moat_guarded_alloc(arena, 20);
    EXPECT(moat_guarded_arena_rewind(arena, mark));
    first[1] = 1;
    second[2] = 1;
    moat_guarded_alloc(arena, 400);
    EXPECT(news() == 2 && latest.first == 2 && latest.when == MOAT_WHEN_QUARANTINE);
    /* What an aligned block skips is proved before, since the arena writes there. */
    EXPECT(moat_guarded_arena_rewind(arena, mark));
    for (int i = 0; i < 10; i++) {
        blocks[i] = moat_guarded_alloc(arena, 100);
    }
    EXPECT(moat_guarded_arena_rewind(arena, mark));
    for (int i = 0; i < 10; i++) {
        blocks[i][50] = 1;
    }
    EXPECT(moat_guarded_alloc_aligned(arena, 10, 1024) != NULL && news() == 10);
    /* Damage is found at the rewind itself. */
    EXPECT(moat_guarded_arena_rewind(arena, mark));
    first = moat_guarded_alloc(arena, 20);
    first[20] = 1;
    EXPECT(moat_guarded_arena_rewind(arena, mark));
    EXPECT(one(MOAT_HEAP_BUFFER_OVERFLOW, name) && latest.when == MOAT_WHEN_FREE && latest.first == 20);
    /* A mark that was rewound past. */
    moat_guarded_alloc(arena, 10);
    struct moat_arena_mark stale = moat_guarded_arena_mark(arena);
    EXPECT(moat_guarded_arena_rewind(arena, mark) && news() == 0);
    EXPECT(!moat_guarded_arena_rewind(arena, stale));
    EXPECT(one(MOAT_CORRUPTED_METADATA, "") && latest.rule[0] != '\0');
    /* Rewound behind the guard's back: the blocks go when their memory does. */
    first = moat_guarded_alloc(arena, 20);
    second = moat_guarded_alloc(arena, 20);
    EXPECT(live_blocks() == live + 3);
    second[20] = 1;
    moat_guarded_lock(arena);
    moat_arena_rewind(allocators_arena(), mark);
    moat_guarded_unlock(arena);
    moat_guarded_alloc(arena, 400);
    EXPECT(one(MOAT_HEAP_BUFFER_OVERFLOW, name) && latest.when == MOAT_WHEN_QUARANTINE && latest.first == 20);
    EXPECT(live_blocks() == live + 2);
    EXPECT(moat_guarded_arena_reset(arena) && live_blocks() == live && moat_check() == 0 && news() == 0);
    EXPECT(!moat_guarded_arena_rewind(allocators[POOL].guarded, mark)); /* not an arena */
    EXPECT(!moat_guarded_arena_close(allocators[POOL].guarded) && news() == 0);
}

/* ---- memory that comes and goes ------------------------------------------------------------------------------------------------------------ */

enum { CHUNKS = 8, CHUNK_BYTES = 8192 };

/* Gives chunks of `chunks`. A chunk that comes back must not be guarded any more: another guard can have it at once. */
struct chunk_source {
    struct moat_source source;
    bool used[CHUNKS];
    unsigned acquired, released, still_guarded, refuse;
};

static _Alignas(64) unsigned char chunks[CHUNKS][CHUNK_BYTES + 64]; /* they do not touch: a heap would join them */

static void *chunk_acquire(void *context, size_t bytes, size_t *got_bytes) {
    struct chunk_source *source = context;
    for (unsigned i = 0; i < CHUNKS && bytes <= CHUNK_BYTES; i++) {
        if (!source->used[i]) {
            source->used[i] = true;
            source->acquired++;
            *got_bytes = CHUNK_BYTES;
            return chunks[i];
        }
    }
    return NULL;
}

static bool chunk_release(void *context, void *start, size_t bytes) {
    static struct moat_guarded probe;
    struct chunk_source *source = context;
    if (source->refuse != 0) {
        source->refuse--;
        return false;
    }
    if (init_errno(&probe, start, bytes) == 0) {
        moat_guarded_close(&probe);
    } else {
        source->still_guarded++;
    }
    source->used[((unsigned char *)start - chunks[0]) / (CHUNK_BYTES + 64)] = false;
    source->released++;
    return bytes == CHUNK_BYTES;
}

static void test_source_arena(void) {
    static struct chunk_source inner = {.source = {chunk_acquire, chunk_release, &inner}};
    static struct moat_guarded_source outer;
    static struct moat_guarded guard;
    static struct moat_arena arena;
    const struct moat_arena_config config = {.source = moat_guarded_source_init(&outer, &guard, &inner.source),
                                             .chunk_bytes = CHUNK_BYTES,
                                             .keep_bytes = 1,
                                             .sized_blocks = true};
    EXPECT(moat_arena_init(&arena, NULL, 0, &config));
    EXPECT(moat_guarded_arena_init(&guard, "grown arena", &arena, NULL, 0));
    struct moat_arena_mark start = moat_guarded_arena_mark(&guard);
    unsigned count = 0;
    while (moat_guarded_alloc(&guard, 1000) != NULL) {
        count++;
    }
    EXPECT(inner.acquired == CHUNKS && count >= CHUNKS * 6);
    EXPECT(moat_guarded_arena_rewind(&guard, start));
    EXPECT(inner.released == CHUNKS && inner.still_guarded == 0 && news() == 0);
    /* A chunk with damage that was not reported yet stays until it was. */
    for (int i = 0; i < 9; i++) {
        moat_guarded_alloc(&guard, 1000);
    }
    struct moat_arena_mark mark = moat_guarded_arena_mark(&guard);
    char *late = moat_guarded_alloc(&guard, 100);
    EXPECT(moat_guarded_arena_rewind(&guard, mark));
    late[50] = 1;
    unsigned released = inner.released;
    EXPECT(moat_guarded_arena_rewind(&guard, start));
    EXPECT(one(MOAT_HEAP_USE_AFTER_FREE, "grown arena") && latest.first == 50);
    EXPECT(inner.released == released + 1); /* two chunks, one kept */
    /* A source that does not take its memory back: it is used again, and guarded. */
    inner.refuse = 100;
    char *block = moat_guarded_alloc(&guard, 1000);
    EXPECT(block != NULL && moat_guarded_arena_rewind(&guard, start));
    EXPECT(block == moat_guarded_alloc(&guard, 1000));
    block[1000] = 1;
    EXPECT(moat_check() == 1 && one(MOAT_HEAP_BUFFER_OVERFLOW, "grown arena"));
    inner.refuse = 0;
    EXPECT(moat_guarded_arena_close(&guard));
    EXPECT(inner.released == inner.acquired && inner.still_guarded == 0 && news() == 0);
    EXPECT(moat_guarded_alloc(&guard, 1) == NULL);
}

static void test_source_heap(void) {
    static struct chunk_source inner = {.source = {chunk_acquire, chunk_release, &inner}};
    static struct moat_guarded_source outer;
    static struct moat_guarded guard;
    static _Alignas(64) unsigned char control[4096];
    const struct moat_heap_config config = {.source = moat_guarded_source_init(&outer, &guard, &inner.source),
                                            .grow_bytes = CHUNK_BYTES,
                                            .largest_block_bytes = CHUNK_BYTES};
    struct moat_heap *heap = moat_heap_create_apart(control, sizeof control, NULL, 0, &config);
    const struct moat_guarded_config guard_config = {
        .name = "grown heap", .backend = moat_heap_backend(), .context = heap, .quarantine_bytes = 4096};
    EXPECT(heap != NULL && moat_guarded_init(&guard, &guard_config));
    void *blocks[100];
    unsigned count = 0;
    while (count < 100 && (blocks[count] = moat_guarded_alloc(&guard, 1500)) != NULL) {
        memset(blocks[count++], 1, 1500);
    }
    EXPECT(inner.acquired == CHUNKS && count >= CHUNKS * 3);
    EXPECT(moat_check() == 0);
    for (unsigned i = 0; i < count; i++) {
        moat_guarded_free(&guard, blocks[i]);
    }
    moat_guarded_lock(&guard);
    moat_heap_trim(heap, 0);
    moat_guarded_unlock(&guard);
    EXPECT(inner.released >= CHUNKS - 2 && inner.still_guarded == 0); /* all but what the quarantine holds */
    moat_guarded_close(&guard);
    EXPECT(news() == 0);
}

/* ---- threads that share one guarded allocator --------------------------------------------------------------------------------------------- */

enum { THREADS = 4, THREAD_STEPS = 20000, THREAD_BLOCKS = 6 };

static void *share(void *argument) {
    const unsigned number = *(const unsigned *)argument;
    struct moat_guarded *shared[] = {allocators[LIST].guarded, allocators[HEAP].guarded, allocators[POOL].guarded};
    unsigned char *blocks[THREAD_BLOCKS] = {NULL};
    unsigned owner[THREAD_BLOCKS];
    uint32_t state = number + 1;
    bool changed = false;
    for (unsigned step = 0; step < THREAD_STEPS; step++) {
        state = state * 1664525u + 1013904223u;
        unsigned at = (state >> 16) % THREAD_BLOCKS;
        if (blocks[at] == NULL) {
            owner[at] = (state >> 24) % 3;
            blocks[at] = moat_guarded_alloc(shared[owner[at]], BLOCK_BYTES);
            if (blocks[at] != NULL) {
                memset(blocks[at], (int)(number * 16 + at), BLOCK_BYTES);
            }
            continue;
        }
        for (unsigned i = 0; i < BLOCK_BYTES; i++) {
            changed |= blocks[at][i] != (unsigned char)(number * 16 + at);
        }
        moat_guarded_free(shared[owner[at]], blocks[at]);
        blocks[at] = NULL;
    }
    for (unsigned at = 0; at < THREAD_BLOCKS; at++) {
        if (blocks[at] != NULL) {
            moat_guarded_free(shared[owner[at]], blocks[at]);
        }
    }
    return changed ? argument : NULL;
}

static void test_threads(void) {
    pthread_t threads[THREADS];
    unsigned numbers[THREADS];
    bool changed = false;
    for (unsigned i = 0; i < THREADS; i++) {
        numbers[i] = i;
        pthread_create(&threads[i], NULL, share, &numbers[i]);
    }
    for (unsigned i = 0; i < THREADS; i++) {
        void *result;
        pthread_join(threads[i], &result);
        changed |= result != NULL;
    }
    verdict(!changed, "no thread's block is another's");
    EXPECT(moat_check() == 0 && news() == 0);
    unsigned left = 0;
    while (moat_guarded_alloc(allocators[POOL].guarded, BLOCK_BYTES) != NULL) {
        left++;
    }
    EXPECT(left == 23); /* all came back; test_pool kept one */
}

int main(void) {
    if (!allocators_start()) {
        puts("FAIL allocators_start");
        return 1;
    }
    test_pool();
    test_init();
    test_neighbours();
    test_close();
    test_failing();
    test_never_twice();
    test_arena();
    test_source_arena();
    test_source_heap();
    test_threads();
    _Exit(moat_check() == 0 ? 0 : 1);
}
