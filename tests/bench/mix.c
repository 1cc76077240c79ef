/* One measurement of one allocator: bench.py runs it again and again, for each allocator in turn.
 * May include: moat/heap.h, moat/sources.h and POSIX.
 *
 * Built with MOAT_BENCH_HEAP it measures Moat's heap, otherwise whatever malloc the process has, which LD_PRELOAD
 * decides.
 *   mix SMALLEST LARGEST LIVE PAIRS SEED   prints the mean nanoseconds of a free and a malloc of a block of random size
 *   worst SEED                             prints the nanoseconds of each call of a hostile sequence, a line each
 *   name                                   prints whose malloc it is */
#define _GNU_SOURCE /* dladdr */

#include "moat/heap.h"
#include "moat/sources.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define NS_PER_S 1000000000u
#define DRAWN 65536u /* drawn before the clock starts; a power of two */

#ifdef MOAT_BENCH_HEAP

static struct moat_mmap_source memory;
static struct moat_heap *heap;

static void begin(void) {
    struct moat_heap_config config = {.source = moat_mmap_source_init(&memory, 0), .largest_block_bytes = SIZE_MAX};
    heap = moat_heap_create_from_source(&config);
    if (heap == NULL)
        exit(1);
}
#define TAKE(size) moat_heap_alloc(heap, size)
#define GIVE(block) (void)moat_heap_free(heap, block)

#else

static void begin(void) {}
/* The compiler must not see that a block is never used. */
static void *(*volatile take_pointer)(size_t) = malloc;
static void (*volatile give_pointer)(void *) = free;
#define TAKE(size) take(size)
#define GIVE(block) give(block)

#endif

static uint32_t random_state;

static uint32_t draw(void) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 17;
    random_state ^= random_state << 5;
    return random_state;
}

/* Means are of processor time, so that others on the machine count less; single calls take the clock that is read
 * fastest. */
static clockid_t clock_id = CLOCK_PROCESS_CPUTIME_ID;

static uint64_t now_ns(void) {
    struct timespec now;
    clock_gettime(clock_id, &now);
    return (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec;
}

static void fail(const char *what) {
    fprintf(stderr, "mix: %s\n", what);
    exit(1);
}

static void **slots_of(size_t count) {
    void **slots = calloc(count, sizeof *slots);
    if (slots == NULL)
        fail("no memory for the benchmark itself");
    return slots;
}

/* Keeps `live` blocks; each step frees one at random and puts another in its place, writing to its first word as any
 * program does. */
static double mix(size_t smallest, size_t largest, size_t live, size_t pairs) {
#ifndef MOAT_BENCH_HEAP
    void *(*take)(size_t) = take_pointer;
    void (*give)(void *) = give_pointer;
#endif
    static uint32_t index[DRAWN], size[DRAWN];
    void **slots = slots_of(live);
    for (size_t i = 0; i < DRAWN; i++) {
        index[i] = draw() % (uint32_t)live;
        size[i] = (uint32_t)smallest + draw() % (uint32_t)(largest - smallest + 1);
    }
    for (size_t i = 0; i < live; i++) {
        slots[i] = TAKE(smallest + draw() % (uint32_t)(largest - smallest + 1));
        if (slots[i] == NULL)
            fail("no memory");
        *(void **)slots[i] = NULL;
    }
    uint64_t before = 0;
    size_t warm = pairs / 2;
    for (size_t i = 0; i < warm + pairs; i++) {
        if (i == warm)
            before = now_ns();
        /* A second pass over what was drawn must not meet the same slots with the same sizes. */
        size_t turn = i / DRAWN * 7919;
        void **slot = &slots[(index[i % DRAWN] + turn) % live];
        GIVE(*slot);
        *slot = TAKE(size[(i + turn) % DRAWN]);
        if (*slot == NULL)
            fail("no memory");
        *(void **)*slot = slot;
    }
    return (double)(now_ns() - before) / (double)pairs;
}

/* Holes of many sizes that no later request fits, then requests that make an allocator look at them all; everything
 * freed at last in an order that joins blocks late. */
#define HOSTILE_BLOCKS 40000u
#define HOSTILE_LARGE 200u
#define HOSTILE_LARGE_BYTES 6000u
static uint32_t times[4 * HOSTILE_BLOCKS];

static void worst(void) {
#ifndef MOAT_BENCH_HEAP
    void *(*take)(size_t) = take_pointer;
    void (*give)(void *) = give_pointer;
#endif
    void **slots = slots_of(HOSTILE_BLOCKS + HOSTILE_LARGE);
    size_t count = 0;
    memset(times, 1, sizeof times); /* their pages are there before they are measured with */
#define TIMED(statement)                                                                                               \
    do {                                                                                                               \
        uint64_t from = now_ns();                                                                                      \
        statement;                                                                                                     \
        times[count++] = (uint32_t)(now_ns() - from);                                                                  \
    } while (0)
    for (size_t i = 0; i < HOSTILE_BLOCKS; i++) {
        size_t size = 1100 + draw() % 3000;
        TIMED(slots[i] = TAKE(size));
        if (slots[i] == NULL)
            fail("no memory");
        *(void **)slots[i] = NULL;
    }
    for (size_t i = 0; i < HOSTILE_BLOCKS; i += 2)
        TIMED(GIVE(slots[i]));
    for (size_t i = 0; i < HOSTILE_LARGE; i++)
        TIMED(slots[HOSTILE_BLOCKS + i] = TAKE(HOSTILE_LARGE_BYTES + i * 16));
    for (size_t i = 1; i < HOSTILE_BLOCKS; i += 2)
        TIMED(GIVE(slots[i]));
    for (size_t i = 0; i < HOSTILE_LARGE; i++)
        TIMED(GIVE(slots[HOSTILE_BLOCKS + i]));
    for (size_t i = 0; i < count; i++)
        printf("%u\n", times[i]);
}

static size_t number(const char *text) { return (size_t)strtoull(text, NULL, 10); }

int main(int argc, char **argv) {
    begin();
    if (argc == 7 && strcmp(argv[1], "mix") == 0) {
        random_state = (uint32_t)number(argv[6]);
        printf("%.2f\n", mix(number(argv[2]), number(argv[3]), number(argv[4]), number(argv[5])));
    } else if (argc == 3 && strcmp(argv[1], "worst") == 0) {
        random_state = (uint32_t)number(argv[2]);
        clock_id = CLOCK_MONOTONIC;
        worst();
    } else if (argc == 2 && strcmp(argv[1], "name") == 0) {
        Dl_info info;
        void *(*take)(size_t) = malloc;
        void *address = NULL;
        memcpy(&address, &take, sizeof address);
        printf("%s\n", dladdr(address, &info) != 0 ? info.dli_fname : "?");
    } else {
        fail("usage: mix SMALLEST LARGEST LIVE PAIRS SEED | worst SEED | name");
    }
    return 0;
}
