/* Portable tests of the dressed block's bits: zone bytes, header sum, coarse sizes, the checks of zones and poison.
 * May include: guard/engine/layout.h, tests/unit/engine_world.h. */
#include "tests/unit/engine_world.h"

/* ---- zones ------------------------------------------------------------------------------------------------------- */

MOAT_TEST(engine_layout, zone_bytes_are_never_what_programs_write) {
    uint64_t random = 1;
    bool seen[256] = {false};
    for (unsigned i = 0; i < 1000000; i++) {
        uint64_t secret = random_next(&random);
        uintptr_t address = (uintptr_t)random_next(&random);
        unsigned char byte = moat_zone_byte(secret, address);
        CHECK(byte >= 0x80 && byte != 0xff);
        CHECK_EQ(byte, moat_zone_word(secret, address & ~(uintptr_t)7) >> 8 * (address & 7) & 0xff);
        seen[byte] = true;
    }
    unsigned values = 0;
    for (unsigned i = 0; i < 256; i++)
        values += seen[i];
    CHECK_EQ(values, 64); /* bit 7 is fixed and bit 0 follows bit 6: six bits are free */
}

/* Copying one block's zone over another's must not go unseen, nor must a stream of equal bytes. */
MOAT_TEST(engine_layout, zone_words_depend_on_address_and_secret) {
    uint64_t random = 2;
    unsigned same_address = 0, same_secret = 0, uniform = 0;
    for (unsigned i = 0; i < 200000; i++) {
        uint64_t secret = random_next(&random);
        uintptr_t address = (uintptr_t)random_next(&random) & ~(uintptr_t)7;
        uint64_t word = moat_zone_word(secret, address);
        same_secret += word == moat_zone_word(secret, address + 8);
        same_address += word == moat_zone_word(secret + 1, address);
        uniform += word == (word & 0xff) * UINT64_C(0x0101010101010101);
    }
    CHECK_EQ(same_secret, 0);
    CHECK_EQ(same_address, 0);
    CHECK_EQ(uniform, 0);
}

#define ZONE_SPAN 40u

/* Every pair of alignments of start and end: a whole zone passes, one changed bit anywhere in it does not, and nothing
 * outside of [start, end) is written or looked at. */
MOAT_TEST(engine_layout, zone_of_every_alignment_is_checked_to_the_byte) {
    static _Alignas(8) unsigned char memory[ZONE_SPAN + 16];
    const uint64_t secret = UINT64_C(0xfeedface0badf00d);
    for (unsigned from = 8; from < 8 + ZONE_SPAN; from++) {
        for (unsigned to = from; to <= 8 + ZONE_SPAN; to++) {
            uintptr_t base = (uintptr_t)memory;
            memset(memory, 0x33, sizeof memory);
            moat_zone_write(secret, base + from, base + to);
            for (unsigned i = 0; i < sizeof memory; i++) {
                bool inside = i >= from && i < to;
                CHECK_EQ(memory[i], inside ? moat_zone_byte(secret, base + i) : 0x33u);
            }
            CHECK(moat_zone_whole(secret, base + from, base + to));
            for (unsigned i = 0; i < sizeof memory; i++) {
                memory[i] ^= (unsigned char)(1u << (i + from) % 8);
                CHECK_EQ(moat_zone_whole(secret, base + from, base + to), i < from || i >= to);
                memory[i] ^= (unsigned char)(1u << (i + from) % 8);
            }
        }
    }
}

MOAT_TEST(engine_layout, front_zone_is_sixteen_bytes) {
    static _Alignas(16) unsigned char memory[64];
    const uint64_t secret = 77;
    uintptr_t user = (uintptr_t)memory + 32;
    moat_zone_write(secret, user - 16, user);
    for (unsigned i = 0; i < sizeof memory; i++) {
        memory[i] ^= 0x40;
        CHECK_EQ(moat_front_whole(secret, user), i < 16 || i >= 32);
        memory[i] ^= 0x40;
    }
}

#define POISON_SPAN 200u

MOAT_TEST(engine_layout, poison_of_every_length_is_checked_to_the_byte) {
    static _Alignas(8) unsigned char memory[POISON_SPAN + 16];
    for (unsigned size = 0; size <= POISON_SPAN; size++) {
        memset(memory, 0, sizeof memory);
        memset(memory + 8, MOAT_POISON_BYTE, size);
        CHECK(moat_poison_whole((uintptr_t)memory + 8, size));
        for (unsigned i = 0; i < sizeof memory; i++) {
            memory[i] ^= (unsigned char)(1u << i % 8);
            CHECK_EQ(moat_poison_whole((uintptr_t)memory + 8, size), i < 8 || i >= 8 + size);
            memory[i] ^= (unsigned char)(1u << i % 8);
        }
    }
}

/* ---- header ------------------------------------------------------------------------------------------------------ */

static struct moat_header header_random(uint64_t *random) {
    struct moat_header header;
    uint64_t words[sizeof header / sizeof(uint64_t)];
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
        words[i] = random_next(random);
    memcpy(&header, words, sizeof header);
    return header;
}

MOAT_TEST(engine_layout, header_fields_do_not_touch_each_other) {
    uint64_t random = 3;
    for (unsigned i = 0; i < 100000; i++) {
        struct moat_header header = header_random(&random);
        uint64_t size = random_next(&random) >> 16;
        unsigned state = (unsigned)random_below(&random, 256);
        unsigned family = (unsigned)random_below(&random, 256);
        uint64_t sequence = random_next(&random) >> 24;
        unsigned moved = (unsigned)random_below(&random, 256);
        size_t rear = random_below(&random, 65536);
        moat_header_set_size(&header, size, state, family);
        moat_header_set_sequence(&header, sequence, moved, rear);
        CHECK_EQ(moat_header_size(&header), (size_t)size);
        CHECK_EQ(moat_header_state(&header), state);
        CHECK_EQ(moat_header_family(&header), family);
        CHECK_EQ(moat_header_sequence(&header), sequence);
        CHECK_EQ(moat_header_moved(&header), moved);
        CHECK_EQ(moat_header_rear(&header), rear);
    }
}

/* A sequence number too large for its field must not spill into its neighbours. */
MOAT_TEST(engine_layout, header_sequence_wraps) {
    struct moat_header header = {0};
    moat_header_set_sequence(&header, UINT64_MAX, 0, 0);
    CHECK_EQ(moat_header_sequence(&header), (UINT64_C(1) << 40) - 1);
    CHECK_EQ(moat_header_moved(&header), 0);
    CHECK_EQ(moat_header_rear(&header), 0);
}

static void flip(unsigned char *bytes, unsigned first_bit, unsigned pattern) {
    uint32_t shifted = (uint32_t)pattern << first_bit % 8;
    for (unsigned i = 0; i < 4 && first_bit / 8 + i < MOAT_HEADER_BYTES; i++)
        bytes[first_bit / 8 + i] ^= (unsigned char)(shifted >> 8 * i);
}

/* All changes confined to 16 adjacent bits, sum included, of a few headers: the promise of design.md. A pattern's
 * lowest bit is set, so that each change is tried once. */
MOAT_TEST(engine_layout, header_sum_detects_every_short_burst) {
    uint64_t random = 4;
    for (unsigned round = 0; round < 4; round++) {
        struct moat_header header = header_random(&random);
        uint64_t secret = random_next(&random);
        uintptr_t user = (uintptr_t)random_next(&random) & ~(uintptr_t)15;
        if (round == 1)
            memset(&header, 0, sizeof header);
        if (round == 2)
            memset(&header, 0xff, sizeof header);
        moat_header_seal(&header, secret, user);
        CHECK(moat_header_whole(&header, secret, user));
        unsigned undetected = 0;
        for (unsigned bit = 0; bit < 8 * MOAT_HEADER_BYTES; bit++) {
            unsigned bits_left = 8 * MOAT_HEADER_BYTES - bit;
            for (unsigned pattern = 1; pattern < (bits_left < 16 ? 1u << bits_left : 0x10000u); pattern += 2) {
                struct moat_header changed = header;
                flip((unsigned char *)&changed, bit, pattern);
                undetected += moat_header_whole(&changed, secret, user);
            }
        }
        CHECK_EQ(undetected, 0);
    }
}

/* Wide changes pass with probability 2^-32. That is too rare to count, so each half of the sum is looked at by itself:
 * agreement by chance must be as rare as 2^-16 allows, five standard deviations at most away from it. */
MOAT_TEST(engine_layout, header_sum_detects_wide_changes) {
    enum { TRIALS = 1 << 23, EXPECTED = TRIALS >> 16, MARGIN = 5 * 12 /* sqrt(128) = 11.3 */ };
    uint64_t random = 5;
    unsigned low = 0, high = 0, both = 0;
    struct moat_header header = header_random(&random);
    uint64_t secret = random_next(&random);
    uintptr_t user = (uintptr_t)random_next(&random);
    uint32_t sum = moat_header_sum(&header, secret, user);
    for (unsigned i = 0; i < TRIALS; i++) {
        struct moat_header changed = header_random(&random);
        uint32_t difference = moat_header_sum(&changed, secret, user) ^ sum;
        low += (difference & 0xffff) == 0;
        high += difference >> 16 == 0;
        both += difference == 0;
    }
    CHECK(low > EXPECTED - MARGIN && low < EXPECTED + MARGIN);
    CHECK(high > EXPECTED - MARGIN && high < EXPECTED + MARGIN);
    CHECK(both <= 1);
}

/* A header copied to another place, or of another run, is not whole there. */
MOAT_TEST(engine_layout, header_sum_depends_on_address_and_secret) {
    uint64_t random = 6;
    for (unsigned i = 0; i < 100000; i++) {
        struct moat_header header = header_random(&random);
        uint64_t secret = random_next(&random);
        uintptr_t user = (uintptr_t)random_next(&random);
        moat_header_seal(&header, secret, user);
        CHECK(!moat_header_whole(&header, secret, user + 16));
        CHECK(!moat_header_whole(&header, secret + 1, user));
    }
}

/* ---- coarse sizes ------------------------------------------------------------------------------------------------ */

MOAT_TEST(engine_layout, coarse_sizes_grow_and_fit_their_field) {
    unsigned last = 0;
    for (uint64_t size = 0; size < UINT64_C(1) << 48; size += 1 + size / 64) {
        unsigned coarse = moat_coarse_size(size);
        CHECK(coarse >= last && coarse <= 255);
        CHECK(size >= 1024 || coarse == 0);
        /* Grown by a quarter, it is two steps further on and realloc moves; by a sixteenth, at most one. */
        if (size >= 1024 && size < UINT64_C(1) << 41) {
            CHECK(moat_coarse_size(size + size / 4) >= coarse + 2);
            CHECK(moat_coarse_size(size + size / 16) <= coarse + 1);
        }
        last = coarse;
    }
    CHECK_EQ(last, 255);
    CHECK_EQ(moat_coarse_size(1024), 0);
    CHECK_EQ(moat_coarse_size(1151), 0);
    CHECK_EQ(moat_coarse_size(1152), 1); /* 1024 * 9/8 */
    CHECK_EQ(moat_coarse_size(2047), 7);
    CHECK_EQ(moat_coarse_size(2048), 8);
}
