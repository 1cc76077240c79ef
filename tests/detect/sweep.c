/* The sweep: every small size and samples up to 5,000,000 bytes, every alignment to 64 KiB, every offset of the zones,
 * the byte values that matter: each wrong byte must be found, as the right kind and with the right offsets. Expected
 * values come from what the sweep itself just wrote, never from Moat. Usage: sweep [--deep], preloaded with libmoat.so
 * and MOAT_OPTIONS=on_error=continue:leak_check=0:... */
#include "moat/finding.h"

#include <malloc.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

void moat_on_finding(const struct moat_finding *finding);

enum {
    DENSE_SIZE_MAX = 600,
    LARGE_SIZE_MAX = 5000000,
    REAR_BYTES = 16,  /* option redzone: the least that lies behind a block */
    FRONT_BYTES = 16, /* what docs/design.md promises in front */
    BATCH_MAX = 1024,
    FAILURES_SHOWN = 20,
    OWN_PAGES_BYTES = 1048576 - 4096, /* option large, and room for header and zones */
    RACES = 500
};

/* One finding that is waited for in a batch. */
struct expectation {
    uintptr_t block;
    size_t size;
    long offset;
    unsigned found;
};

static _Atomic unsigned found_count;
static struct moat_finding found_last;
static struct expectation batch[BATCH_MAX];
static size_t batch_count;
static unsigned batch_strays; /* findings that nothing in the batch explains */
static unsigned long passed, failed;
static uint64_t random_state = 0x6d6f6174;

void moat_on_finding(const struct moat_finding *finding) {
    atomic_fetch_add(&found_count, 1);
    found_last = *finding;
    for (size_t i = 0; i < batch_count; i++) {
        struct expectation *e = &batch[i];
        if (e->block == finding->block.address) {
            bool right = finding->kind == MOAT_HEAP_USE_AFTER_FREE && finding->first == e->offset &&
                         finding->last == e->offset && finding->block.size_bytes == e->size && finding->bad_count == 1;
            e->found += right;
            batch_strays += !right;
            return;
        }
    }
    batch_strays++;
}

static uint64_t sweep_random(void) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

static void check(bool good, const char *what, size_t size, long offset, unsigned value) {
    if (good) {
        passed++;
    } else if (failed++ < FAILURES_SHOWN) {
        printf("FAILED sweep: %s: size %zu, offset %ld, byte 0x%02x: %u findings, last kind %u when %u size %llu first "
               "%lld "
               "last %lld\n",
               what, size, offset, value, found_count, found_last.kind, found_last.when,
               (unsigned long long)found_last.block.size_bytes, (long long)found_last.first,
               (long long)found_last.last);
    }
}

static void expect_nothing(void) {
    found_count = 0;
    memset(&found_last, 0, sizeof found_last);
}

/* Whether exactly one finding came, of this kind, for these bytes of this block. */
static bool found_exactly(unsigned kind, const void *block, size_t size, long first, long last) {
    return found_count == 1 && found_last.kind == kind && found_last.block.address == (uintptr_t)block &&
           found_last.block.size_bytes == size && found_last.first == first && found_last.last == last;
}

/* A byte to write where `there` stands: the values that matter in turn, then any other. */
static unsigned char bad_byte(unsigned turn, unsigned char there) {
    static const unsigned char common[] = {0x00, 0xff, 'A'};
    if (turn < sizeof common) {
        return common[turn]; /* these must be found whatever is there: a zone never holds them */
    }
    unsigned char value = (unsigned char)sweep_random();
    return value == there ? (unsigned char)(value ^ 1) : value;
}

/* Writes one byte at an offset outside a fresh block, frees it, and looks at what was found. A block with pages of its own
 * may end at its guard page: then the write itself is found, before it is done, and no look is taken at what is there. */
static void one_bad_byte(unsigned char *block, size_t size, long offset, unsigned turn, const char *what) {
    bool may_fault = size >= OWN_PAGES_BYTES && offset > 0;
    unsigned char value = may_fault ? 'A' : bad_byte(turn, block[offset]);
    if (!may_fault && block[offset] == value) {
        check(false, "a zone holds a common byte", size, offset, value);
    }
    expect_nothing();
    *(volatile unsigned char *)(block + offset) = value;
    unsigned at_access = found_count;
    free(block);
    unsigned kind = offset < 0 ? MOAT_HEAP_BUFFER_UNDERFLOW : MOAT_HEAP_BUFFER_OVERFLOW;
    unsigned when = may_fault && at_access != 0 ? MOAT_WHEN_ACCESS : MOAT_WHEN_FREE;
    check(found_exactly(kind, block, size, offset, offset) && found_last.when == when, what, size, offset, value);
}

static void sweep_small(void) {
    for (size_t size = 0; size <= DENSE_SIZE_MAX; size++) {
        for (unsigned turn = 0; turn < 4; turn++) {
            for (long i = 0; i < REAR_BYTES; i++) {
                one_bad_byte(malloc(size), size, (long)size + i, turn, "overflow of malloc");
            }
            for (long i = 1; i <= FRONT_BYTES; i++) {
                one_bad_byte(malloc(size), size, -i, turn, "underflow of malloc");
            }
            one_bad_byte(calloc(1, size), size, (long)size, turn, "overflow of calloc");
            one_bad_byte(realloc(malloc(size / 2), size ? size : 1), size ? size : 1, size ? (long)size : 1, turn,
                         "overflow after realloc");
        }
    }
}

/* Runs of bad bytes: first and last are the run's ends. */
static void sweep_runs(void) {
    for (size_t size = 0; size <= DENSE_SIZE_MAX; size += 7) {
        for (long from = -FRONT_BYTES; from < REAR_BYTES; from++) {
            for (long length = 2; length <= 8; length++) {
                long start = from < 0 ? from : (long)size + from;
                if ((from < 0 && from + length > 0) || from + length > REAR_BYTES) {
                    continue; /* it would leave the zone */
                }
                unsigned char *block = malloc(size);
                expect_nothing();
                memset(block + start, 'A', (size_t)length);
                free(block);
                check(found_exactly(from < 0 ? MOAT_HEAP_BUFFER_UNDERFLOW : MOAT_HEAP_BUFFER_OVERFLOW, block, size,
                                    start, start + length - 1),
                      "run of bad bytes", size, start, 'A');
            }
        }
    }
}

static size_t sample_size(void) {
    unsigned bits = 10 + (unsigned)(sweep_random() % 13);
    size_t size = ((size_t)1 << bits) + (size_t)(sweep_random() % ((size_t)1 << bits));
    return size > LARGE_SIZE_MAX ? LARGE_SIZE_MAX : size;
}

static void sweep_large(unsigned samples) {
    static const size_t borders[] = {4095, 4096, 65536, 1048575, 1048576, 1048577, 4194304, 4999999, LARGE_SIZE_MAX};
    for (unsigned i = 0; i < samples; i++) {
        size_t size = i < sizeof borders / sizeof *borders ? borders[i] : sample_size();
        unsigned turn = i % 4;
        one_bad_byte(malloc(size), size, (long)size, turn, "overflow of a large block");
        one_bad_byte(malloc(size), size, (long)size + REAR_BYTES - 1, turn, "end of a large block's rear zone");
        one_bad_byte(malloc(size), size, -1, turn, "underflow of a large block");
        one_bad_byte(malloc(size), size, -FRONT_BYTES, turn, "start of a large block's front zone");
    }
}

static void sweep_alignments(void) {
    static const size_t sizes[] = {0, 1, 7, 8, 63, 64, 65, 500, 4096, 10001, 65536, 2000003};
    for (size_t alignment = sizeof(void *); alignment <= 65536; alignment *= 2) {
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            for (unsigned turn = 0; turn < 4; turn++) {
                size_t size = sizes[i];
                void *block = NULL;
                int error = posix_memalign(&block, alignment, size);
                check(error == 0 && (uintptr_t)block % alignment == 0, "alignment", size, (long)alignment, 0);
                if (error == 0) {
                    one_bad_byte(block, size, (long)size, turn, "overflow of an aligned block");
                }
                one_bad_byte(memalign(alignment, size), size, -1, turn, "underflow of an aligned block");
            }
        }
    }
}

/* Drives everything out of the quarantine: more bytes than it holds, freed after. */
static void flush_quarantine(void) {
    enum { FLUSH_BLOCKS = 700, FLUSH_BYTES = 256 };
    for (unsigned i = 0; i < FLUSH_BLOCKS; i++) {
        free(malloc(FLUSH_BYTES));
    }
}

static void settle_batch(const char *what) {
    flush_quarantine();
    for (size_t i = 0; i < batch_count; i++) {
        check(batch[i].found == 1, what, batch[i].size, batch[i].offset, batch[i].found);
    }
    check(batch_strays == 0, "findings that nothing explains", 0, 0, batch_strays);
    batch_count = 0;
    batch_strays = 0;
}

static void write_after_free(unsigned char *block, size_t size, size_t offset) {
    batch[batch_count] = (struct expectation){(uintptr_t)block, size, (long)offset, 0};
    batch_count++;
    block[offset] = bad_byte((unsigned)(sweep_random() % 4), block[offset]);
}

/* A byte of every offset of every small size, each in a freed block of its own. */
static void sweep_use_after_free(void) {
    enum { AT_ONCE = 64 }; /* 64 blocks of up to 700 bytes fit the 64 KiB of quarantine the driver sets */
    for (size_t size = 1; size <= DENSE_SIZE_MAX; size++) {
        for (size_t offset = 0; offset < size; offset += AT_ONCE) {
            unsigned char *blocks[AT_ONCE];
            size_t count = size - offset < AT_ONCE ? size - offset : AT_ONCE;
            for (size_t i = 0; i < count; i++) {
                blocks[i] = malloc(size);
            }
            for (size_t i = 0; i < count; i++) {
                free(blocks[i]);
            }
            for (size_t i = 0; i < count; i++) {
                write_after_free(blocks[i], size, offset + i);
            }
            settle_batch("write after free");
        }
    }
    for (unsigned i = 0; i < 400; i++) {
        size_t size = DENSE_SIZE_MAX + (size_t)(sweep_random() % 40000);
        unsigned char *block = malloc(size);
        free(block);
        write_after_free(block, size, (size_t)(sweep_random() % size));
        settle_batch("write after free of a larger block");
    }
}

static void expect_free(void *pointer, unsigned kind, const char *what, size_t size, long first) {
    expect_nothing();
    free(pointer);
    bool where = size == 0 || (found_last.block.size_bytes == size && found_last.first == first);
    check(found_count == 1 && found_last.kind == kind && found_last.address == (uintptr_t)pointer && where, what, size,
          first, 0);
}

/* Wrong frees: each must be refused, and must leave the block as it was. */
static void sweep_wrong_frees(void) {
    static long global[8];
    long local[8] = {0};
    for (size_t size = 0; size <= DENSE_SIZE_MAX; size += 5) {
        char *block = malloc(size);
        for (size_t inside = 1; inside < size; inside++) {
            expect_free(block + inside, MOAT_INVALID_FREE, "interior pointer", size, (long)inside);
        }
        expect_nothing();
        free(block);
        check(found_count == 0, "free after refused frees", size, 0, 0);
        expect_free(block, MOAT_DOUBLE_FREE, "double free", size, 0);
        expect_free(block, MOAT_DOUBLE_FREE, "triple free", size, 0);
        expect_nothing();
        void *moved = realloc(block, size + 10);
        check(found_count == 1 && found_last.kind == MOAT_DOUBLE_FREE && found_last.when == MOAT_WHEN_REALLOC,
              "realloc of a freed block", size, 0, 0);
        free(moved);
    }
    for (unsigned i = 0; i < sizeof local; i++) {
        expect_free((char *)local + i, MOAT_INVALID_FREE, "stack", 0, 0);
        expect_free((char *)global + i, MOAT_INVALID_FREE, "global", 0, 0);
    }
    char *pages = mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (unsigned i = 0; i < 65536; i += 1021) {
        expect_free(pages + i, MOAT_INVALID_FREE, "mapped", 0, 0);
    }
    munmap(pages, 65536);
    for (unsigned i = 0; i < 65536; i += 1021) {
        expect_free(pages + i, MOAT_INVALID_FREE, "unmapped", 0, 0);
    }
    for (unsigned i = 0; i < 2000; i++) {
        uintptr_t wild = (uintptr_t)sweep_random() | UINT64_C(1) << 63;
        expect_free((void *)wild, MOAT_INVALID_FREE, "wild", 0, 0);
    }
}

static pthread_barrier_t race_start;
static void *race_block;

static void *race(void *rounds) {
    for (unsigned i = 0; i < *(unsigned *)rounds; i++) {
        pthread_barrier_wait(&race_start);
        free(race_block);
        pthread_barrier_wait(&race_start);
    }
    return NULL;
}

/* Two threads free the same block at the same moment: one of them, and only one, is told. */
static void sweep_races(void) {
    unsigned rounds = RACES;
    pthread_t threads[2];
    pthread_barrier_init(&race_start, NULL, 3);
    for (unsigned i = 0; i < 2; i++) {
        pthread_create(&threads[i], NULL, race, &rounds);
    }
    for (unsigned i = 0; i < rounds; i++) {
        size_t size = (size_t)(sweep_random() % 3000);
        race_block = malloc(size);
        expect_nothing();
        pthread_barrier_wait(&race_start);
        pthread_barrier_wait(&race_start);
        check(found_count == 1 && found_last.kind == MOAT_DOUBLE_FREE && found_last.block.size_bytes == size,
              "double free by two threads at once", size, 0, 0);
    }
    for (unsigned i = 0; i < 2; i++) {
        pthread_join(threads[i], NULL);
    }
}

int main(int argc, char **argv) {
    bool deep = argc > 1 && strcmp(argv[1], "--deep") == 0;
    setvbuf(stdout, NULL, _IOLBF, 0);
    sweep_small();
    sweep_runs();
    sweep_large(deep ? 1000 : 60);
    sweep_alignments();
    sweep_wrong_frees();
    batch_strays = 0; /* the above explain their findings themselves */
    sweep_use_after_free();
    sweep_races();
    printf("%lu passed, %lu failed\n", passed, failed);
    return failed != 0 || passed == 0;
}
