/* Portable tests of the heap's parts from inside: the header's check, the bins, and each proof on its own.
 * May include: tests/test.h, the heap's own headers, string.h. */
#include "src/heap/bins.h"
#include "tests/test.h"

#include <string.h>

#define KIB 1024u
#define SIZE (8 * MOAT_BLOCK_ALIGN) /* of the blocks in the scene, overhead included */

static _Alignas(max_align_t) unsigned char memory[16 * KIB];

/* ---- the check ----------------------------------------------------------------------------------------------------- */

/* Long division, bit by bit. */
static uint32_t remainder_by_division(uint64_t bits) {
    const uint64_t divisor = 1u << 16 | 1u << 5 | 1u << 3 | 1u << 2 | 1u;
    for (int bit = 63; bit >= 16; bit--) {
        if ((bits >> bit & 1u) != 0)
            bits ^= divisor << (bit - 16);
    }
    return (uint32_t)bits;
}

MOAT_TEST(heap_check, remainder_is_that_of_the_division) {
    uint64_t random = 1;
    for (int bit = 0; bit < 64; bit++)
        CHECK_EQ(moat_check_remainder((uint64_t)1 << bit), remainder_by_division((uint64_t)1 << bit));
    for (int i = 0; i < 100000; i++) {
        random = random * 6364136223846793005u + 1442695040888963407u;
        CHECK_EQ(moat_check_remainder(random), remainder_by_division(random));
    }
}

/* The powers of x run through all 65,535 values: then no two changed bits of a header cancel out. */
MOAT_TEST(heap_check, polynomial_is_primitive) {
    uint32_t power = 1;
    uint32_t order = 0;
    do {
        power = remainder_by_division((uint64_t)power << 1);
        order++;
    } while (power != 1);
    CHECK_EQ(order, 65535);
}

/* ---- bins ---------------------------------------------------------------------------------------------------------- */

MOAT_TEST(heap_bins, grow_with_the_size_without_a_gap) {
    for (uint32_t bins_log2 = 0; bins_log2 <= MOAT_BINS_LOG2_MAX; bins_log2++) {
        uint32_t last = 0;
        for (uintptr_t units = 1; units < 100000; units++) {
            uint32_t bin = moat_bin_for(bins_log2, units * MOAT_BLOCK_ALIGN);
            CHECK(bin == last || bin == last + 1);
            if (units < (uintptr_t)2 << bins_log2)
                CHECK_EQ(bin, units); /* one size a bin */
            last = bin;
        }
        /* Each doubling has the same number of bins. */
        CHECK_EQ(moat_bin_for(bins_log2, (uintptr_t)MOAT_BLOCK_ALIGN << 20) -
                     moat_bin_for(bins_log2, (uintptr_t)MOAT_BLOCK_ALIGN << 19),
                 1u << bins_log2);
    }
}

MOAT_TEST(heap_bins, the_map_finds_every_bin) {
    struct moat_heap *heap = moat_heap_create(memory, sizeof memory, NULL);
    uint32_t last = moat_geometry_last_bin(heap->geometry);
    memset(moat_heap_map(heap), 0, moat_geometry_map_words(heap->geometry) * sizeof(uintptr_t));
    heap->filled_words = 0;
    CHECK_EQ(moat_bin_next(heap, 0), MOAT_BIN_NONE);
    for (uint32_t bin = 0; bin <= last; bin++) {
        moat_bin_mark(heap, bin);
        for (uint32_t from = 0; from <= bin; from++)
            CHECK_EQ(moat_bin_next(heap, from), bin);
        CHECK_EQ(moat_bin_next(heap, bin + 1), MOAT_BIN_NONE);
        moat_bin_unmark(heap, bin);
        CHECK_EQ(heap->filled_words, 0);
    }
}

/* ---- a scene to damage --------------------------------------------------------------------------------------------- */

/* used[0] freed[0] used[1] freed[1] used[2] freed[2] used[3] used[4] rest; the list runs from freed[2] to freed[0]. */
struct scene {
    struct moat_heap *heap;
    uintptr_t used[5];
    uintptr_t freed[3];
};

static uintptr_t allocate(struct moat_heap *heap) {
    uintptr_t block = (uintptr_t)moat_heap_alloc(heap, SIZE - MOAT_BLOCK_OVERHEAD);
    CHECK_EQ(moat_heap_usable(heap, (void *)block), SIZE - MOAT_BLOCK_OVERHEAD);
    return block;
}

static struct scene set_scene(void) {
    struct scene scene;
    memset(memory, 0, sizeof memory);
    scene.heap = moat_heap_create(memory, sizeof memory, NULL);
    for (size_t i = 0; i < 3; i++) {
        scene.used[i] = allocate(scene.heap);
        scene.freed[i] = allocate(scene.heap);
    }
    scene.used[3] = allocate(scene.heap);
    scene.used[4] = allocate(scene.heap);
    for (size_t i = 0; i < 3; i++)
        CHECK(moat_heap_free(scene.heap, (void *)scene.freed[i]));
    CHECK(moat_heap_verify(scene.heap, NULL));
    return scene;
}

static void check_free(const struct scene *scene, uintptr_t block, enum moat_rule rule) {
    struct moat_fault fault = {"no fault", 0, 0};
    bool freed = moat_heap_free(scene->heap, (void *)block);
    (void)moat_heap_take_fault(scene->heap, &fault);
    CHECK_TEXT(fault.rule, moat_rule_text(rule));
    CHECK_EQ(fault.block, block);
    CHECK(!freed);
}

static void check_verify(const struct scene *scene, uintptr_t block, enum moat_rule rule) {
    struct moat_fault fault = {"no fault", 0, 0};
    bool sound = moat_heap_verify(scene->heap, &fault);
    CHECK_TEXT(fault.rule, moat_rule_text(rule));
    CHECK_EQ(fault.block, block);
    CHECK(!sound);
}

static uintptr_t meta_of(const struct scene *scene, uintptr_t block) {
    return moat_block_meta(scene->heap->key, block);
}

static void set_meta(const struct scene *scene, uintptr_t block, uintptr_t meta) {
    moat_block_set_meta(scene->heap->key, block, meta);
}

/* ---- free: each proof ---------------------------------------------------------------------------------------------- */

MOAT_TEST(heap_proofs, links_of_free_neighbours) {
    if (!MOAT_PROVE)
        return;
    struct scene scene = set_scene();
    uintptr_t middle = scene.freed[1];
    uintptr_t bad_links[] = {scene.used[0],     scene.used[4], scene.freed[1],
                             (uintptr_t)&scene, middle + 1,    MOAT_BLOCK_ALIGN};
    for (size_t i = 0; i < sizeof bad_links / sizeof *bad_links; i++) {
        uintptr_t before = *moat_block_next(middle);
        *moat_block_next(middle) = bad_links[i];
        check_free(&scene, scene.used[1], MOAT_RULE_LINK_NEXT);
        check_free(&scene, scene.used[2], MOAT_RULE_LINK_NEXT);
        *moat_block_next(middle) = before;
        before = *moat_block_previous(middle);
        *moat_block_previous(middle) = bad_links[i];
        check_free(&scene, scene.used[1], MOAT_RULE_LINK_PREVIOUS);
        check_free(&scene, scene.used[2], MOAT_RULE_LINK_NEXT); /* freed[2], looked at first, gets no answer */
        *moat_block_previous(middle) = before;
    }
    *moat_block_previous(middle) = 0; /* it says that it is its list's first */
    check_free(&scene, scene.used[1], MOAT_RULE_LINK_PREVIOUS);
    check_free(&scene, scene.used[2], MOAT_RULE_LINK_NEXT);
    *moat_block_previous(middle) = scene.freed[2];
    CHECK(moat_heap_verify(scene.heap, NULL));
    CHECK(moat_heap_free(scene.heap, (void *)scene.used[1]));
    CHECK(moat_heap_free(scene.heap, (void *)scene.used[2]));
    CHECK(moat_heap_verify(scene.heap, NULL));
}

MOAT_TEST(heap_proofs, footers_and_flags_of_free_neighbours) {
    if (!MOAT_PROVE)
        return;
    struct scene scene = set_scene();
    uintptr_t middle = scene.freed[1];
    moat_word *footer = moat_block_footer_before(middle + SIZE);
    uintptr_t bad_footers[] = {0, 1, SIZE - MOAT_BLOCK_ALIGN, SIZE + MOAT_BLOCK_ALIGN, 3 * SIZE, UINTPTR_MAX, 1 << 20};
    for (size_t i = 0; i < sizeof bad_footers / sizeof *bad_footers; i++) {
        *footer = bad_footers[i];
        check_free(&scene, scene.used[1], MOAT_RULE_FOOTER);
        check_free(&scene, scene.used[2], MOAT_RULE_FOOTER);
    }
    *footer = SIZE;
    set_meta(&scene, middle, SIZE | MOAT_BLOCK_FREE | MOAT_BLOCK_BEFORE_FREE);
    check_free(&scene, scene.used[2], MOAT_RULE_JOINED);
    set_meta(&scene, middle, SIZE);
    check_free(&scene, scene.used[2], MOAT_RULE_FREE);
    set_meta(&scene, middle, SIZE | MOAT_BLOCK_FREE);
    CHECK(moat_heap_verify(scene.heap, NULL));
}

/* A footer that leads to a header which looks right but names another size. */
MOAT_TEST(heap_proofs, footer_and_header_in_front_must_name_one_size) {
    if (!MOAT_PROVE)
        return;
    struct scene scene = set_scene();
    uintptr_t inner = scene.used[3] - SIZE / 2;
    *moat_block_footer_before(scene.used[3]) = SIZE / 2;
    set_meta(&scene, inner, SIZE | MOAT_BLOCK_FREE);
    *moat_block_footer_before(inner + SIZE) = SIZE;
    *moat_block_next(inner) = 0;
    *moat_block_previous(inner) = 0;
    uintptr_t *head = &moat_heap_heads(scene.heap)[moat_bin_of(scene.heap, SIZE)];
    *head = inner;
    check_free(&scene, scene.used[3], MOAT_RULE_FOOTER);
}

MOAT_TEST(heap_proofs, used_blocks_and_what_follows_them) {
    if (!MOAT_PROVE)
        return;
    struct scene scene = set_scene();
    check_free(&scene, scene.freed[0], MOAT_RULE_USED);
    set_meta(&scene, scene.used[4], SIZE | MOAT_BLOCK_BEFORE_FREE);
    check_free(&scene, scene.used[3], MOAT_RULE_NEXT_FLAG);
    set_meta(&scene, scene.used[4], (uintptr_t)1 << 20);
    check_free(&scene, scene.used[3], MOAT_RULE_NEXT_HEADER);
    set_meta(&scene, scene.used[4], MOAT_BLOCK_FIXED); /* a sentinel where no region ends */
    check_free(&scene, scene.used[3], MOAT_RULE_NEXT_HEADER);
    set_meta(&scene, scene.used[4], SIZE);
    check_free(&scene, scene.used[3] + 1, MOAT_RULE_ALIGNED);
    set_meta(&scene, scene.used[3], 0);
    check_free(&scene, scene.used[3], MOAT_RULE_HEADER);
    set_meta(&scene, scene.used[3], MOAT_BLOCK_ALIGN);
    check_free(&scene, scene.used[3], MOAT_RULE_HEADER);
    set_meta(&scene, scene.used[3], SIZE | MOAT_BLOCK_BEFORE_FREE);
    CHECK(moat_heap_verify(scene.heap, NULL));
}

/* ---- alloc: each proof --------------------------------------------------------------------------------------------- */

/* Allocates what freed[2], the first of its list, would hold. */
static void check_alloc(const struct scene *scene, uintptr_t block, enum moat_rule rule) {
    struct moat_fault fault = {"no fault", 0, 0};
    uintptr_t got = (uintptr_t)moat_heap_alloc(scene->heap, SIZE - MOAT_BLOCK_OVERHEAD);
    (void)moat_heap_take_fault(scene->heap, &fault);
    CHECK_TEXT(fault.rule, moat_rule_text(rule));
    CHECK_EQ(fault.block, block);
    CHECK(got != 0 && got != scene->freed[2]);
}

MOAT_TEST(heap_proofs, first_block_of_a_list) {
    if (!MOAT_PROVE)
        return;
    for (int damage = 0; damage < 9; damage++) {
        struct scene scene = set_scene();
        uintptr_t first = scene.freed[2];
        uintptr_t behind = scene.used[3];
        uintptr_t *head = &moat_heap_heads(scene.heap)[moat_bin_of(scene.heap, SIZE)];
        switch (damage) {
        case 0:
            *moat_block_next(first) = scene.freed[0];
            check_alloc(&scene, first, MOAT_RULE_LINK_NEXT);
            break;
        case 1:
            *moat_block_previous(first) = scene.freed[1];
            check_alloc(&scene, first, MOAT_RULE_LINK_PREVIOUS);
            break;
        case 2:
            *moat_block_footer_before(behind) = 2 * SIZE;
            check_alloc(&scene, first, MOAT_RULE_FOOTER);
            break;
        case 3:
            set_meta(&scene, first, SIZE);
            check_alloc(&scene, first, MOAT_RULE_FREE);
            break;
        case 4: /* half the size, everything to match */
            set_meta(&scene, first, SIZE / 2 | MOAT_BLOCK_FREE);
            *moat_block_footer_before(first + SIZE / 2) = SIZE / 2;
            set_meta(&scene, first + SIZE / 2, SIZE / 2 | MOAT_BLOCK_BEFORE_FREE);
            check_alloc(&scene, first, MOAT_RULE_BIN);
            break;
        case 5: /* what follows is damaged: that block alone is lost, the list lives on */
            set_meta(&scene, behind, SIZE);
            check_alloc(&scene, behind, MOAT_RULE_NEXT_FLAG);
            CHECK_EQ(*head, scene.freed[0]);
            break;
        case 6:
            set_meta(&scene, behind, SIZE | MOAT_BLOCK_FREE | MOAT_BLOCK_BEFORE_FREE);
            check_alloc(&scene, behind, MOAT_RULE_JOINED);
            break;
        case 7:
            *head = (uintptr_t)&scene & ~(MOAT_BLOCK_ALIGN - 1);
            check_alloc(&scene, (uintptr_t)&scene & ~(MOAT_BLOCK_ALIGN - 1), MOAT_RULE_INSIDE);
            break;
        default:
            *head = 0;
            check_alloc(&scene, (uintptr_t)scene.heap, MOAT_RULE_BIN_MAP);
        }
    }
}

/* A block of that size that joins nothing is put in front of a damaged list: the list is dropped, the block starts a new one. */
MOAT_TEST(heap_proofs, a_list_that_is_added_to) {
    if (!MOAT_PROVE)
        return;
    struct scene scene = set_scene();
    struct moat_fault fault = {"no fault", 0, 0};
    uintptr_t *head = &moat_heap_heads(scene.heap)[moat_bin_of(scene.heap, SIZE)];
    uintptr_t lone = allocate(scene.heap);
    CHECK_EQ(lone, scene.freed[2]);
    *moat_block_previous(scene.freed[1]) = scene.used[0];
    CHECK(moat_heap_free(scene.heap, (void *)lone));
    CHECK(moat_heap_take_fault(scene.heap, &fault));
    CHECK_TEXT(fault.rule, moat_rule_text(MOAT_RULE_LINK_PREVIOUS));
    CHECK_EQ(fault.block, scene.freed[1]);
    CHECK_EQ(*head, lone);
    CHECK_EQ(*moat_block_next(lone), 0);
}

/* ---- the verifier: rules that damage by hand from outside does not reach ------------------------------------------- */

MOAT_TEST(heap_verifier, touching_free_blocks) {
    struct scene scene = set_scene();
    set_meta(&scene, scene.used[3], SIZE | MOAT_BLOCK_FREE | MOAT_BLOCK_BEFORE_FREE);
    *moat_block_footer_before(scene.used[4]) = SIZE;
    set_meta(&scene, scene.used[4], SIZE | MOAT_BLOCK_BEFORE_FREE);
    check_verify(&scene, scene.used[3], MOAT_RULE_JOINED);
}

MOAT_TEST(heap_verifier, sentinels) {
    struct scene scene = set_scene();
    uintptr_t end = (uintptr_t)memory + sizeof memory;
    uintptr_t sentinel = meta_of(&scene, end);
    CHECK_EQ(sentinel, MOAT_BLOCK_FIXED | MOAT_BLOCK_BEFORE_FREE);
    uintptr_t bad[] = {0, MOAT_BLOCK_FIXED, MOAT_BLOCK_BEFORE_FREE, sentinel | MOAT_BLOCK_FREE, sentinel + SIZE};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        set_meta(&scene, end, bad[i]);
        check_verify(&scene, end, MOAT_RULE_SENTINEL);
    }
}

MOAT_TEST(heap_verifier, lists_and_their_map) {
    struct scene scene = set_scene();
    uint32_t bin = moat_bin_of(scene.heap, SIZE);
    uintptr_t *head = &moat_heap_heads(scene.heap)[bin];
    moat_bin_unmark(scene.heap, bin);
    check_verify(&scene, (uintptr_t)scene.heap, MOAT_RULE_BIN_MAP);
    moat_bin_mark(scene.heap, bin);
    moat_bin_mark(scene.heap, bin + 1);
    check_verify(&scene, (uintptr_t)scene.heap, MOAT_RULE_BIN_MAP);
    moat_bin_unmark(scene.heap, bin + 1);
    CHECK(moat_heap_verify(scene.heap, NULL));
    uintptr_t before = *head;
    *head = scene.used[0];
    check_verify(&scene, scene.freed[2], MOAT_RULE_BIN);
    *head = before;
    moat_heap_heads(scene.heap)[bin + 1] = before; /* a second list that leads to the same block */
    moat_bin_mark(scene.heap, bin + 1);
    check_verify(&scene, before, MOAT_RULE_BIN);
}

MOAT_TEST(heap_verifier, control_block_records_and_counts) {
    struct scene scene = set_scene();
    scene.heap->grow_bytes++;
    check_verify(&scene, (uintptr_t)scene.heap, MOAT_RULE_CONTROL);
    scene.heap->grow_bytes--;
    scene.heap->geometry ^= 1;
    check_verify(&scene, (uintptr_t)scene.heap, MOAT_RULE_CONTROL);
    scene.heap->geometry ^= 1;
    memory[0] ^= 1;
    check_verify(&scene, (uintptr_t)memory, MOAT_RULE_REGION);
    memory[0] ^= 1;
    size_t *counts[] = {&scene.heap->used_bytes, &scene.heap->used_count, &scene.heap->free_count,
                        &scene.heap->block_bytes};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        ++*counts[i];
        check_verify(&scene, (uintptr_t)scene.heap, MOAT_RULE_COUNTS);
        --*counts[i];
    }
    CHECK(moat_heap_verify(scene.heap, NULL));
}

MOAT_TEST(heap_rules, texts_fit_a_finding) {
    for (unsigned rule = 0; rule < MOAT_RULE_COUNT; rule++)
        CHECK(strlen(moat_rule_text(rule)) >= 12 && strlen(moat_rule_text(rule)) <= 47);
    CHECK_TEXT(moat_rule_text(MOAT_RULE_COUNT), moat_rule_text(MOAT_RULE_NONE));
}
