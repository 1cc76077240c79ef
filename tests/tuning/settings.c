/* What changes when an option does, by moat_set_option, by mallopt, and what moat_stats says of it. Prints a line for each expectation.
 * May include: moat's public headers, the C library. */
#include "tests/entry/verdict.h"

#include <moat.h>
#include <moat/guard_pool.h>

#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define MIB ((size_t)1 << 20)

/* volatile: to the compiler, free is a function that never calls back. */
static volatile unsigned finding_count;
static volatile struct {
    unsigned kind;
    int64_t first, last;
    uint64_t size_bytes;
} latest;

void moat_on_finding(const struct moat_finding *finding) {
    finding_count++;
    latest.kind = finding->kind;
    latest.first = finding->first;
    latest.last = finding->last;
    latest.size_bytes = finding->block.size_bytes;
}

const char *moat_default_options(void) {
    return "on_error=continue:report=/dev/null:exitcode=1:leak_check=0:shards=1:quarantine_far=0";
}

static struct moat_statistics now(void) {
    struct moat_statistics statistics;
    moat_stats(&statistics);
    return statistics;
}

static void set(const char *setting) {
    if (!moat_set_option(setting)) {
        verdict(false, setting);
    }
}

/* ---- which settings are taken ----------------------------------------------------------------------------------------------------- */

static int answer(const char *setting) {
    errno = 0;
    return moat_set_option(setting) ? 0 : errno;
}

static void test_answers(void) {
    EXPECT(answer("redzone=20") == 0);
    EXPECT(answer("quarantine=1M") == 0);
    EXPECT(answer("on_error=continue") == 0);
    EXPECT(answer("shards=3") == EPERM);
    EXPECT(answer("secret=1") == EPERM);
    EXPECT(answer("budget=1G") == EPERM);
    EXPECT(answer("report=/tmp/x") == EPERM);
    EXPECT(answer("nonsense=1") == EINVAL);
    EXPECT(answer("redzone=5000") == EINVAL);
    EXPECT(answer("redzone=") == EINVAL);
    EXPECT(answer("redzone") == EINVAL);
    EXPECT(answer("=1") == EINVAL);
    EXPECT(answer("") == EINVAL);
    EXPECT(answer(NULL) == EINVAL);
    EXPECT(answer("redzone=8:fill=1") == EINVAL); /* one at a time */
    EXPECT(answer("on_error=perhaps") == EINVAL);
}

/* ---- fills -------------------------------------------------------------------------------------------------------------------------- */

/* How many bytes from the start hold the byte. */
static size_t run_of(const unsigned char *block, size_t most, unsigned byte) {
    size_t count = 0;
    while (count < most && block[count] == byte) {
        count++;
    }
    return count;
}

static size_t filled(size_t size, unsigned byte) {
    unsigned char *block = malloc(size);
    size_t count = run_of(block, size, byte);
    memset(block, 1, size);
    free(block);
    return count;
}

static void test_fills(void) {
    set("quarantine=0");
    EXPECT(filled(100, 0xeb) == 100);
    EXPECT(filled(20000, 0xeb) == 4096);
    EXPECT(mallopt(M_PERTURB, 0x3c) == 1 && filled(20000, 0xc3) == 20000);
    EXPECT(mallopt(M_PERTURB, 0) == 1 && filled(100, 0xc3) == 100);
    set("fill_byte=0xeb");
    set("fill=100000");
    EXPECT(filled(20000, 0xeb) == 20000);
    set("fill=17");
    EXPECT(filled(100, 0xeb) == 17);
    set("fill_byte=0x5a");
    EXPECT(filled(100, 0x5a) == 17);
    set("fill_byte=0");
    EXPECT(filled(100, 0) == 17);
    set("fill=0");
    EXPECT(filled(100, 0) == 0); /* what was there: poison */
    unsigned char *zeroed = calloc(1, 5000);
    EXPECT(run_of(zeroed, 5000, 0) == 5000);
    free(zeroed);
    set("fill=4096"); /* given now: it goes over mallopt */
    set("fill_byte=0xeb");
    EXPECT(mallopt(M_PERTURB, 0x3c) == 1 && filled(20000, 0xeb) == 4096);
}

/* ---- zones ------------------------------------------------------------------------------------------------------------------------- */

MOAT_GUARDED_POOL_DEFINE(pool, 32, 4, 1);

/* Whether a byte so far behind a block's end is found wrong when it is freed. */
static bool sees(size_t size, size_t behind) {
    unsigned before = finding_count;
    char *block = malloc(size);
    block[size + behind] ^= 1;
    free(block);
    return finding_count == before + 1 && latest.kind == MOAT_HEAP_BUFFER_OVERFLOW &&
           latest.first == (int64_t)(size + behind) && latest.last == latest.first;
}

static void test_zones(void) {
    static const unsigned zones[] = {1, 2, 7, 8, 9, 16, 100, 4095, 4096};
    for (size_t i = 0; i < sizeof zones / sizeof zones[0]; i++) {
        char setting[32];
        bool seen = true;
        snprintf(setting, sizeof setting, "redzone=%u", zones[i]);
        set(setting);
        for (size_t size = 0; size < 70; size += 1 + i) {
            seen &= sees(size, 0) && sees(size, zones[i] - 1);
        }
        verdict(seen, setting);
    }
    void *block = moat_guarded_alloc(&pool, 32); /* its blocks have room for 16 */
    EXPECT(block != NULL);
    moat_guarded_free(&pool, block);
    set("redzone=16");
}

/* ---- quarantine -------------------------------------------------------------------------------------------------------------------- */

/* How many other blocks of its size are freed before a freed block's memory is handed out again. */
static unsigned held_for(size_t size, unsigned most) {
    void *first = malloc(size);
    free(first);
    for (unsigned count = 0; count < most; count++) {
        void *next = malloc(size);
        free(next);
        if (next == first) {
            return count;
        }
    }
    return most;
}

static void test_quarantine(void) {
    /* 104 bytes and header, zones, the heap's word: 176; the entry: 16. */
    const size_t held_bytes = 192, size = 104;
    set("quarantine=0");
    struct moat_statistics none = now();
    free(malloc(size));
    EXPECT(now().quarantine_blocks == none.quarantine_blocks && now().used_bytes == none.used_bytes);
    set("quarantine=64K");
    EXPECT(held_for(size, 5000) >= 65536 / held_bytes - 3 && held_for(size, 5000) <= 65536 / held_bytes + 3);
    EXPECT(now().quarantine_bytes > 65536 - 2 * held_bytes && now().quarantine_bytes <= 65536 + 2 * held_bytes);
    set("quarantine=8M"); /* larger than what the ring was made for */
    unsigned held = held_for(size, 100000);
    EXPECT(held >= (8u << 20) / held_bytes - 3 && held <= (8u << 20) / held_bytes + 3);
    uint64_t before = now().own_bytes;
    set("quarantine=1M");
    set("quarantine=8M");
    set("quarantine=1M");
    set("quarantine=8M");
    EXPECT(now().own_bytes == before); /* a ring that is long enough stays */
    set("quarantine=4K");
    for (int i = 0; i < 50000; i++) {
        free(malloc(size));
    }
    EXPECT(now().quarantine_bytes <= 4096 + 2 * held_bytes);
    /* The far tier takes one in so many; in it they stay long. */
    set("quarantine_far_one_in=1");
    set("quarantine_far=1M");
    for (int i = 0; i < 50000; i++) {
        free(malloc(size));
    }
    EXPECT(now().quarantine_bytes > MIB - 4 * held_bytes && now().quarantine_bytes <= MIB + 4096 + 4 * held_bytes);
    set("quarantine_far=0");
    set("quarantine_far_one_in=16");
    for (int i = 0; i < 50000; i++) {
        free(malloc(size));
    }
    set("quarantine=0");
    for (int i = 0; i < 10; i++) {
        free(malloc(size));
    }
    EXPECT(moat_check() == 0);
}

/* ---- large blocks, high-water mark --------------------------------------------------------------------------------------------------- */

static bool is_large(size_t size) {
    uint64_t before = now().large_blocks;
    void *block = malloc(size);
    bool large = now().large_blocks == before + 1;
    free(block);
    return large;
}

static void test_large(void) {
    EXPECT(is_large(MIB) && !is_large(MIB - 64));
    EXPECT(mallopt(M_MMAP_THRESHOLD, 100000) == 1 && is_large(100000) && !is_large(99000));
    EXPECT(mallopt(M_MMAP_THRESHOLD, 10) == 1 && is_large(65536) &&
           !is_large(65000)); /* no less than the option's least */
    char *block = malloc(65536);
    set("large=16M");
    EXPECT(!is_large(8 * MIB) && is_large(16 * MIB));
    EXPECT(mallopt(M_MMAP_THRESHOLD, 100000) == 1 && !is_large(8 * MIB)); /* the option was given */
    char *huge = malloc(8 * MIB);
    set("large=1M");
    /* The search for a block's start goes as far as the largest that there may be. */
    unsigned before = finding_count;
    free(huge + 5 * MIB);
    EXPECT(finding_count == before + 1 && latest.kind == MOAT_INVALID_FREE && latest.first == 5 * MIB);
    huge[8 * MIB] = 1;
    EXPECT(moat_check() == 1 && latest.size_bytes == 8 * MIB && latest.first == 8 * MIB);
    free(huge);
    free(block);
    EXPECT(moat_check() == 0);
}

/* What is free after 100 MiB were had and freed. */
static uint64_t left_after_use(void) {
    enum { COUNT = 1000 };
    static void *blocks[COUNT];
    for (int i = 0; i < COUNT; i++) {
        blocks[i] = malloc(100000);
    }
    bool grown = now().heap_bytes > 95 * MIB;
    for (int i = 0; i < COUNT; i++) {
        free(blocks[i]);
    }
    return grown ? now().free_bytes : 0;
}

static void test_high_water(void) {
    set("quarantine=0");
    const uint64_t slack = 8 * MIB; /* it goes some megabytes at a time */
    uint64_t left = left_after_use();
    EXPECT(left > 60 * MIB && left < 64 * MIB + slack);
    EXPECT(mallopt(M_TRIM_THRESHOLD, 20 << 20) == 1);
    left = left_after_use();
    EXPECT(left > 16 * MIB && left < 20 * MIB + slack);
    EXPECT(mallopt(M_TRIM_THRESHOLD, -1) == 1 && left_after_use() > 95 * MIB); /* never */
    set("high_water=0");
    left = left_after_use();
    EXPECT(left > 0 && left < slack);
    EXPECT(mallopt(M_TRIM_THRESHOLD, -1) == 1 && left_after_use() < slack); /* the option was given */
    set("high_water=64M");
}

/* ---- statistics beside an independent count -------------------------------------------------------------------------------------------- */

static void test_statistics(void) {
    enum { COUNT = 500 };
    static void *blocks[COUNT];
    struct moat_statistics before = now(), during, after;
    uint64_t bytes = 0;
    set("quarantine=1M");
    for (unsigned i = 0; i < COUNT; i++) {
        blocks[i] = malloc(i);
        bytes += i;
    }
    void *large = malloc(3 * MIB);
    void *guarded = moat_guarded_alloc(&pool, 30);
    during = now();
    EXPECT(during.allocations - before.allocations == COUNT + 2 && during.frees == before.frees);
    EXPECT(during.live_blocks - before.live_blocks == COUNT + 2);
    EXPECT(during.live_bytes - before.live_bytes == bytes + 3 * MIB + 30);
    EXPECT(during.peak_bytes >= during.live_bytes);
    EXPECT(during.large_blocks - before.large_blocks == 1 && during.large_bytes - before.large_bytes == 3 * MIB);
    EXPECT(during.header_bytes - before.header_bytes == 32 * (COUNT + 2));
    /* A front zone of 16 and a rear zone of 16 to 31 each; the large one's ends with its page. */
    uint64_t zones = during.zone_bytes - before.zone_bytes;
    EXPECT(zones >= 32 * (COUNT + 1) + 16 && zones <= 47 * (COUNT + 1) + 16 + 4096);
    /* Blocks of the heap: headers, zones, bytes, without the large and the pool's. */
    uint64_t used = during.used_bytes - before.used_bytes;
    EXPECT(used >= bytes + 64 * COUNT && used <= bytes + 79 * COUNT && during.used_peak_bytes >= during.used_bytes);
    EXPECT(during.heap_bytes >= during.used_bytes + during.free_bytes &&
           during.free_bytes >= during.largest_free_bytes);
    EXPECT(during.fragmentation_permille == 1000 - during.largest_free_bytes * 1000 / during.free_bytes);
    for (unsigned i = 0; i < COUNT; i++) {
        free(blocks[i]);
    }
    free(large);
    moat_guarded_free(&pool, guarded);
    after = now();
    EXPECT(after.frees - before.frees == COUNT + 2 && after.allocations == during.allocations);
    EXPECT(after.live_blocks == before.live_blocks && after.live_bytes == before.live_bytes);
    EXPECT(after.header_bytes == before.header_bytes && after.zone_bytes == before.zone_bytes);
    EXPECT(after.peak_bytes == during.peak_bytes);
    /* All of them are held, the pool's one in its own quarantine. */
    EXPECT(after.quarantine_blocks - before.quarantine_blocks == COUNT + (before.quarantine_blocks == 0));
    EXPECT(after.quarantine_bytes - before.quarantine_bytes >= bytes + (64 + 16) * COUNT);
    uint64_t retired = after.retired_blocks;
    char *bad = malloc(10);
    bad[10] ^= 1;
    free(bad);
    EXPECT(now().retired_blocks == retired + 1);
    EXPECT(after.own_bytes >= after.stack_bytes && after.own_bytes >= after.map_bytes && after.map_bytes > 0);
    EXPECT(after.stack_frames > 10 && after.stacks_lost == 0);
}

/* malloc_info says the same in XML. */
static void test_xml(void) {
    static char xml[1 << 16], buffer[4096], wanted[256];
    FILE *file = fmemopen(xml, sizeof xml, "w");
    setvbuf(file, buffer, _IOFBF, sizeof buffer);
    struct moat_statistics s = now();
    EXPECT(malloc_info(0, file) == 0);
    fclose(file);
    const struct {
        const char *part;
        uint64_t value;
    } parts[] = {{"overhead part=\"headers\" size", s.header_bytes},
                 {"overhead part=\"zones\" size", s.zone_bytes},
                 {"overhead part=\"quarantine\" size", s.quarantine_bytes},
                 {"overhead part=\"stacks\" size", s.stack_bytes},
                 {"overhead part=\"map\" size", s.map_bytes},
                 {"own size", s.own_bytes},
                 {"used size", s.used_bytes},
                 {"free size", s.free_bytes}};
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        snprintf(wanted, sizeof wanted, "<%s=\"%llu\"", parts[i].part, (unsigned long long)parts[i].value);
        verdict(strstr(xml, wanted) != NULL, wanted);
    }
    snprintf(wanted, sizeof wanted, "<requested count=\"%llu\" size=\"%llu\" peak=\"%llu\"/>",
             (unsigned long long)s.live_blocks, (unsigned long long)s.live_bytes, (unsigned long long)s.peak_bytes);
    verdict(strstr(xml, wanted) != NULL, wanted);
    snprintf(wanted, sizeof wanted, "largest=\"%llu\" fragmentation=\"%u.%u\"",
             (unsigned long long)s.largest_free_bytes, s.fragmentation_permille / 10, s.fragmentation_permille % 10);
    verdict(strstr(xml, wanted) != NULL, wanted);
}

/* ---- while others allocate ---------------------------------------------------------------------------------------------------- */

static void *allocate_much(void *unused) {
    (void)unused;
    for (int i = 0; i < 100000; i++) {
        free(malloc((size_t)i % 300));
    }
    return NULL;
}

/* Options change while other threads allocate. */
static void test_meanwhile(void) {
    static const char *const settings[] = {"quarantine=0", "redzone=100",   "quarantine=4M", "fill=0",
                                           "redzone=1",    "quarantine=1K", "fill=4096",     "high_water=0",
                                           "redzone=16",   "high_water=64M"};
    unsigned before = finding_count;
    pthread_t threads[2];
    for (int i = 0; i < 2; i++) {
        pthread_create(&threads[i], NULL, allocate_much, NULL);
    }
    for (unsigned i = 0; i < 300; i++) {
        set(settings[i % (sizeof settings / sizeof settings[0])]);
    }
    for (int i = 0; i < 2; i++) {
        pthread_join(threads[i], NULL);
    }
    EXPECT(moat_check() == 0 && finding_count == before);
}

int main(void) {
    test_answers();
    test_fills();
    test_zones();
    test_quarantine();
    test_large();
    test_high_water();
    test_statistics();
    test_xml();
    test_meanwhile();
    _Exit(0);
}
