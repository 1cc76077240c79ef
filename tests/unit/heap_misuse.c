/* Portable tests of what the heap refuses: double frees, wild pointers, damaged headers; from hardening level 1.
 * May include: tests/test.h, moat/heap.h, string.h. */
#include "moat/heap.h"
#include "tests/test.h"

#include <string.h>

#define KIB 1024u
#define KEY ((uintptr_t)0x5bd1e995a7c3f1d7u)
#define ALIGN MOAT_HEAP_ALIGNMENT_BYTES
#define HEADER_BYTES MOAT_HEAP_OVERHEAD_BYTES

static _Alignas(max_align_t) unsigned char memory[16 * KIB];
static _Alignas(max_align_t) unsigned char copy[16 * KIB];

static struct moat_heap *fresh(void) {
    memset(memory, 0, sizeof memory);
    struct moat_heap_config config = {.key = KEY};
    return moat_heap_create(memory, sizeof memory, &config);
}

/* A refused call leaves every byte of the blocks alone and names the pointer. */
static void check_refused(struct moat_heap *heap, void *pointer) {
    struct moat_fault fault;
    size_t bytes = (size_t)(memory + sizeof memory - (unsigned char *)heap);
    size_t blocks_at = moat_heap_control_bytes(sizeof memory, NULL);
    memcpy(copy, heap, bytes);
    CHECK(!moat_heap_free(heap, pointer));
    CHECK(moat_heap_take_fault(heap, &fault));
    CHECK_EQ(fault.block, (uintptr_t)pointer);
    CHECK(fault.rule != NULL && strlen(fault.rule) > 10 && strlen(fault.rule) < 48);
    CHECK(!moat_heap_resize(heap, pointer, 8));
    CHECK(moat_heap_take_fault(heap, &fault));
    CHECK_EQ(moat_heap_usable(heap, pointer), 0);
    CHECK(moat_heap_take_fault(heap, &fault));
    CHECK_EQ(memcmp(copy + blocks_at, (unsigned char *)heap + blocks_at, bytes - blocks_at), 0);
}

MOAT_TEST(heap_misuse, double_free) {
    if (MOAT_HEAP_HARDENING < 1)
        return;
    struct moat_heap *heap = fresh();
    void *block[6];
    for (size_t i = 0; i < 6; i++)
        block[i] = moat_heap_alloc(heap, 40);
    /* 0 stays alone, 2 to 4 join from both sides, 5 joins what follows. */
    static const unsigned char order[] = {0, 2, 4, 3, 5};
    for (size_t i = 0; i < sizeof order; i++) {
        CHECK(moat_heap_free(heap, block[order[i]]));
        for (size_t j = 0; j <= i; j++)
            check_refused(heap, block[order[j]]);
        CHECK(moat_heap_verify(heap, NULL));
    }
    CHECK(moat_heap_free(heap, block[1]));
    for (size_t i = 0; i < 6; i++)
        check_refused(heap, block[i]);
}

MOAT_TEST(heap_misuse, pointers_into_a_block) {
    if (MOAT_HEAP_HARDENING < 1)
        return;
    struct moat_heap *heap = fresh();
    unsigned char *block = moat_heap_alloc(heap, 400);
    memset(block, 0x30, 400);
    for (size_t offset = 1; offset < 400; offset++)
        check_refused(heap, block + offset);
    memset(block, 0, 400);
    for (size_t offset = 1; offset < 400; offset++)
        check_refused(heap, block + offset);
    CHECK(moat_heap_free(heap, block));
    CHECK(moat_heap_verify(heap, NULL));
}

MOAT_TEST(heap_misuse, pointers_elsewhere) {
    if (MOAT_HEAP_HARDENING < 1)
        return;
    struct moat_heap *heap = fresh();
    uintptr_t local[4] = {0};
    check_refused(heap, heap); /* the control block is one of the heap's own blocks */
    check_refused(heap, memory);
    check_refused(heap, memory + sizeof memory);
    check_refused(heap, memory + sizeof memory - ALIGN);
    check_refused(heap, copy);
    check_refused(heap, local);
    check_refused(heap, (void *)(uintptr_t)ALIGN);
    check_refused(heap, (void *)(uintptr_t)1);
    check_refused(heap, (void *)(UINTPTR_MAX & ~(uintptr_t)(ALIGN - 1)));
    CHECK(moat_heap_verify(heap, NULL));
}

MOAT_TEST(heap_misuse, the_control_block_can_not_be_freed_by_bytes_of_its_own) {
    if (MOAT_HEAP_HARDENING < 1)
        return;
    struct moat_heap *heap = fresh();
    for (unsigned char *p = (unsigned char *)heap;
         p < (unsigned char *)heap + moat_heap_control_bytes(sizeof memory, NULL); p += ALIGN)
        CHECK(!moat_heap_free(heap, p));
    CHECK(moat_heap_verify(heap, NULL));
}

/* ---- damage -------------------------------------------------------------------------------------------------------- */

MOAT_TEST(heap_damage, an_overflow_into_the_next_header_is_noticed) {
    struct moat_heap *heap = fresh();
    unsigned char *block = moat_heap_alloc(heap, 64);
    unsigned char *next = moat_heap_alloc(heap, 64);
    size_t usable = moat_heap_usable(heap, block);
    memset(block, 'A', usable + HEADER_BYTES);
    struct moat_fault fault;
    CHECK(!moat_heap_verify(heap, &fault));
    CHECK_EQ(fault.block, (uintptr_t)next);
    CHECK_TEXT(fault.rule, "a block's header is whole");
    if (MOAT_HEAP_HARDENING < 1)
        return;
    CHECK(!moat_heap_free(heap, block));
    CHECK(!moat_heap_free(heap, next));
    CHECK(moat_heap_take_fault(heap, &fault));
    CHECK_EQ(fault.fault_count, 2);
}

MOAT_TEST(heap_damage, a_broken_free_list_is_set_aside) {
    if (MOAT_HEAP_HARDENING < 1)
        return;
    struct moat_heap *heap = fresh();
    void *keep[8];
    uintptr_t *freed[8];
    for (size_t i = 0; i < 8; i++) {
        freed[i] = moat_heap_alloc(heap, 48);
        keep[i] = moat_heap_alloc(heap, 48);
    }
    for (size_t i = 8; i-- > 0;)
        CHECK(moat_heap_free(heap, freed[i]));
    freed[0][0] = 0x41414141u; /* the list's first block: its next link */
    struct moat_fault fault;
    CHECK(!moat_heap_verify(heap, &fault));
    CHECK_EQ(fault.block, (uintptr_t)freed[0]);
    CHECK_TEXT(fault.rule, "a free block's next link is answered");
    unsigned char *block = moat_heap_alloc(heap, 48);
    CHECK(block != NULL); /* from elsewhere */
    for (size_t i = 0; i < 8; i++)
        CHECK(block != (unsigned char *)freed[i]);
    CHECK(moat_heap_take_fault(heap, &fault));
    CHECK_EQ(fault.block, (uintptr_t)freed[0]);
    CHECK(moat_heap_alloc(heap, 48) != NULL);
    CHECK(!moat_heap_take_fault(heap, &fault)); /* noted once, then it is gone */
    CHECK(!moat_heap_free(heap, keep[0]));      /* its neighbour is the damaged block */
}

MOAT_TEST(heap_damage, a_damaged_region_record_costs_that_region) {
    if (MOAT_HEAP_HARDENING < 1)
        return;
    memset(memory, 0, sizeof memory);
    struct moat_heap *heap = moat_heap_create(memory, 4 * KIB, NULL);
    void *low = moat_heap_alloc(heap, 1000);
    CHECK(moat_heap_add_region(heap, memory + 8 * KIB, 4 * KIB));
    void *far = moat_heap_alloc(heap, 3500);
    CHECK((unsigned char *)far > memory + 8 * KIB);
    memory[8 * KIB + 3] ^= 0x10;
    struct moat_fault fault;
    CHECK(!moat_heap_verify(heap, &fault));
    CHECK_EQ(fault.block, (uintptr_t)(memory + 8 * KIB));
    CHECK(!moat_heap_free(heap, memory + 15 * KIB)); /* a miss walks the list and cuts it there */
    CHECK(!moat_heap_free(heap, far));
    CHECK(moat_heap_free(heap, low));
    CHECK(moat_heap_take_fault(heap, &fault));
}

/* Each rule of the verifier, broken by hand. */
MOAT_TEST(heap_damage, the_verifier_names_block_and_rule) {
    struct moat_heap *heap = fresh();
    uintptr_t *block[6];
    for (size_t i = 0; i < 6; i++)
        block[i] = moat_heap_alloc(heap, 104);
    CHECK(moat_heap_free(heap, block[1]));
    CHECK(moat_heap_free(heap, block[3]));
    size_t usable = moat_heap_usable(heap, block[0]);
    size_t words = usable / sizeof(uintptr_t);
    size_t header_words = HEADER_BYTES / sizeof(uintptr_t);
    struct {
        uintptr_t *word;
        uintptr_t value;
        uintptr_t *named;
        const char *rule;
    } table[] = {
        {&block[1][words - 1], 8 * ALIGN, block[1], "a free block's footer is its size"},
        {&block[1][0], (uintptr_t)block[5], block[1], "a free block's next link is answered"},
        {&block[1][0], (uintptr_t)copy, block[1], "a free block's next link is answered"},
        {&block[1][1], (uintptr_t)block[5], block[1], "a free block's previous link is answered"},
        {&block[3][0], (uintptr_t)block[3] + 1, block[1], "a free block's previous link is answered"},
        {&block[3][1], UINTPTR_MAX, block[3], "a free block's previous link is answered"},
        {&block[4][words], 0, block[5], "a block's header is whole"},
        {&block[4][words + header_words - 1], UINTPTR_MAX, block[5], "a block's header is whole"},
    };
    CHECK(moat_heap_verify(heap, NULL));
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        struct moat_fault fault = {"", 0, 0};
        uintptr_t before = *table[i].word;
        *table[i].word = table[i].value;
        CHECK(!moat_heap_verify(heap, &fault));
        CHECK_TEXT(fault.rule, table[i].rule);
        CHECK_EQ(fault.block, (uintptr_t)table[i].named);
        *table[i].word = before;
        CHECK(moat_heap_verify(heap, NULL));
    }
}

/* ---- level 2: the check of a header -------------------------------------------------------------------------------- */

static void load(unsigned char *header, unsigned char *bytes) { memcpy(bytes, header, HEADER_BYTES); }

/* Exhaustive: every change confined to 16 adjacent bits. Bits count along the header as the machine orders them. */
MOAT_TEST(heap_keyed, every_burst_of_16_bits_is_detected) {
    if (MOAT_HEAP_HARDENING < 2)
        return;
    struct moat_heap *heap = fresh();
    unsigned char *block = moat_heap_alloc(heap, 64);
    size_t usable = moat_heap_usable(heap, block);
    size_t bits = HEADER_BYTES * 8;
    for (size_t at = 0; at + 16 <= bits; at++) {
        /* Windows share their inner patterns: those that begin at this very bit are enough, all of them in the last one. */
        for (unsigned long burst = 1; burst < 1ul << 16; burst += at + 16 == bits ? 1 : 2) {
            unsigned char saved[16];
            load(block - HEADER_BYTES, saved);
            for (size_t bit = 0; bit < 16; bit++) {
                if ((burst >> bit & 1u) != 0)
                    (block - HEADER_BYTES)[(at + bit) / 8] ^= (unsigned char)(1u << (at + bit) % 8);
            }
            if (moat_heap_usable(heap, block) != 0)
                CHECK_EQ(burst, 0);
            memcpy(block - HEADER_BYTES, saved, HEADER_BYTES);
        }
    }
    CHECK_EQ(moat_heap_usable(heap, block), usable);
}

/* Headers with another, plausible size, then a wild check: 2^-16 of them pass on average. */
MOAT_TEST(heap_keyed, wider_changes_pass_by_chance_only) {
    if (MOAT_HEAP_HARDENING < 2)
        return;
    struct moat_heap *heap = fresh();
    unsigned char *block = moat_heap_alloc(heap, 64);
    unsigned char saved[16];
    load(block - HEADER_BYTES, saved);
    uint64_t random = 0x853c49e6748fea9bu;
    unsigned passed = 0;
    unsigned tries = 1u << 22;
    for (unsigned i = 0; i < tries; i++) {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        uint64_t meta =
            (random & 0xff) * ALIGN; /* all headers but the damaged one are whole, so only the check is in the way */
        uint64_t header = sizeof(uintptr_t) == 8 ? meta << 16 | (random >> 32 & 0xffff) : meta << 32 | random >> 32;
        memcpy(block - HEADER_BYTES, &header, HEADER_BYTES);
        size_t now = moat_heap_usable(heap, block);
        passed += now != 0 && memcmp(&header, saved, HEADER_BYTES) != 0;
    }
    /* 64 on 64-bit before the proofs of what follows take their share, next to none on 32-bit. */
    CHECK(passed < 120);
    memcpy(block - HEADER_BYTES, saved, HEADER_BYTES);
    CHECK(moat_heap_verify(heap, NULL));
}

MOAT_TEST(heap_keyed, a_header_fits_its_own_address_and_key_only) {
    if (MOAT_HEAP_HARDENING < 2)
        return;
    struct moat_heap *heap = fresh();
    unsigned char *first = moat_heap_alloc(heap, 64);
    unsigned char *second = moat_heap_alloc(heap, 64);
    CHECK(memcmp(first - HEADER_BYTES, second - HEADER_BYTES, HEADER_BYTES) != 0);
    memcpy(first - HEADER_BYTES, second - HEADER_BYTES, HEADER_BYTES);
    CHECK_EQ(moat_heap_usable(heap, first), 0);
}
