/* The dressed block: owns every bit of the guard header and of the zones.
 * May include: freestanding headers and moat/finding.h.
 *
 *   backend block
 *   | header (32) | front zone (16) | user bytes: size ........ | rear zone: rear bytes ........ |
 *   ^ block                         ^ user                      ^ user + size                    ^ end of the block
 *
 * Header and front zone lie at a fixed distance before the user pointer; both zones touch the user's bytes; size, stacks and
 * links lie outside the zones, so that an underflow meets the zone first. The header is valid from take until the block goes
 * back to the backend, in all states; free_stack and free_thread from the claim on.
 *
 * Zone bytes come from the run's secret mixed with the address. None is 0x00, 0xff or 7-bit ASCII, so that the commonest
 * overwrites, a lone NUL above all, never pass by luck.
 *
 * The header's sum is its other 28 bytes, read as one number, modulo the prime 2^32 - 5, masked with a key that depends on
 * secret and address. A change confined to 16 adjacent bits moves the number by c * 2^k with 0 < |c| < 2^16, which that prime
 * does not divide, so it is always detected; a wider one passes with probability 2^-32. A change that straddles the sum and
 * its neighbour moves the masked sum in its top 15 bits only and the number by less than 2^15, which never agree. */
#ifndef MOAT_ENGINE_LAYOUT_H
#define MOAT_ENGINE_LAYOUT_H

#include "moat/finding.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define MOAT_HEADER_BYTES 32u
#define MOAT_FRONT_BYTES 16u
#define MOAT_LEAD_BYTES (MOAT_HEADER_BYTES + MOAT_FRONT_BYTES) /* from the backend's block to the user pointer */
#define MOAT_REAR_BYTES_MAX UINT16_MAX
#define MOAT_SIZE_BITS 48u
#define MOAT_SEQUENCE_BITS 40u

#define MOAT_POISON_BYTE 0xdfu /* freed memory; as a pointer, eight of them are no address on any Linux target */
#define MOAT_FILL_BYTE 0xebu   /* new memory */

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "zones and sums are laid out for little-endian targets");

struct moat_header {
    uint32_t sum;
    uint16_t allocation_thread;
    uint16_t free_thread;
    uint64_t size_state_family;   /* size : 48, state : 8, family : 8 */
    uint64_t sequence_moved_rear; /* sequence : 40, moved : 8, rear : 16 */
    uint32_t allocation_stack;
    uint32_t free_stack;
};
_Static_assert(sizeof(struct moat_header) == MOAT_HEADER_BYTES, "the header has no padding");

static inline struct moat_header *moat_header_of(uintptr_t user) {
    return (struct moat_header *)(user - MOAT_LEAD_BYTES);
}

static inline size_t moat_header_size(const struct moat_header *header) {
    return (size_t)(header->size_state_family & ((UINT64_C(1) << MOAT_SIZE_BITS) - 1));
}

static inline unsigned moat_header_state(const struct moat_header *header) {
    return (unsigned)(header->size_state_family >> MOAT_SIZE_BITS) & 0xffu;
}

static inline unsigned moat_header_family(const struct moat_header *header) {
    return (unsigned)(header->size_state_family >> 56);
}

static inline uint64_t moat_header_sequence(const struct moat_header *header) {
    return header->sequence_moved_rear & ((UINT64_C(1) << MOAT_SEQUENCE_BITS) - 1);
}

/* The size when the block was last at a new place, as moat_coarse_size made it. */
static inline unsigned moat_header_moved(const struct moat_header *header) {
    return (unsigned)(header->sequence_moved_rear >> MOAT_SEQUENCE_BITS) & 0xffu;
}

static inline size_t moat_header_rear(const struct moat_header *header) {
    return (size_t)(header->sequence_moved_rear >> 48);
}

static inline void moat_header_set_size(struct moat_header *header, uint64_t size, unsigned state, unsigned family) {
    header->size_state_family = size | (uint64_t)state << MOAT_SIZE_BITS | (uint64_t)family << 56;
}

static inline void moat_header_set_sequence(struct moat_header *header, uint64_t sequence, unsigned moved,
                                            size_t rear) {
    header->sequence_moved_rear = (sequence & ((UINT64_C(1) << MOAT_SEQUENCE_BITS) - 1)) |
                                  (uint64_t)moved << MOAT_SEQUENCE_BITS | (uint64_t)rear << 48;
}

/* A size in eight bits: five of exponent from 2^10 on, three of mantissa; sizes below 1 KiB give 0, those from 2^42 on the
 * largest value. Rounds down, so two sizes in between that lie an eighth apart never give the same value. */
static inline unsigned moat_coarse_size(uint64_t size) {
    if (size < 1024) {
        return 0;
    }
    unsigned exponent = 63u - (unsigned)__builtin_clzll(size);
    if (exponent > 41u) {
        return 255u; /* what is that large moves no more */
    }
    return (exponent - 10u) << 3 | (unsigned)(size >> (exponent - 3u) & 7u);
}

static inline uint64_t moat_mix(uint64_t secret, uintptr_t address) {
    uint64_t mixed = ((uint64_t)address ^ secret) * UINT64_C(0x9e3779b97f4a7c15);
    return mixed ^ mixed >> 32;
}

/* The zone's bytes at an address that is a multiple of 8. Every byte has its top bit set and its bits 0 and 6 differ: never
 * ASCII, never 0x00, never 0xff. */
static inline uint64_t moat_zone_word(uint64_t secret, uintptr_t address) {
    uint64_t word = moat_mix(secret, address) | UINT64_C(0x8080808080808080);
    uint64_t low = UINT64_C(0x0101010101010101);
    return (word & ~low) | (~(word >> 6) & low);
}

static inline unsigned char moat_zone_byte(uint64_t secret, uintptr_t address) {
    return (unsigned char)(moat_zone_word(secret, address & ~(uintptr_t)7) >> 8 * (address & 7));
}

static inline uint64_t moat_load_word(uintptr_t address) {
    uint64_t word;
    memcpy(&word, (const void *)address, sizeof word);
    return word;
}

static inline void moat_store_word(uintptr_t address, uint64_t word) { memcpy((void *)address, &word, sizeof word); }

/* Writes zone bytes over [start, end). */
static inline void moat_zone_write(uint64_t secret, uintptr_t start, uintptr_t end) {
    for (; start < end && (start & 7) != 0; start++) {
        *(unsigned char *)start = moat_zone_byte(secret, start);
    }
    for (; end - start >= 8; start += 8) {
        moat_store_word(start, moat_zone_word(secret, start));
    }
    for (; start < end; start++) {
        *(unsigned char *)start = moat_zone_byte(secret, start);
    }
}

/* Whether [start, end) holds zone bytes throughout. The word that holds `start` must be readable: it begins in the block. */
static inline bool moat_zone_whole(uint64_t secret, uintptr_t start, uintptr_t end) {
    uint64_t difference = 0;
    uintptr_t word_start = start & ~(uintptr_t)7;
    if (word_start != start && end - word_start >= 8) {
        uint64_t mask = ~UINT64_C(0) << 8 * (start & 7);
        difference = (moat_load_word(word_start) ^ moat_zone_word(secret, word_start)) & mask;
        start = word_start + 8;
    }
    for (; start < end && (start & 7) != 0; start++) {
        difference |= (uint64_t)(*(const unsigned char *)start ^ moat_zone_byte(secret, start));
    }
    for (; end - start >= 8; start += 8) {
        difference |= moat_load_word(start) ^ moat_zone_word(secret, start);
    }
    for (; start < end; start++) {
        difference |= (uint64_t)(*(const unsigned char *)start ^ moat_zone_byte(secret, start));
    }
    return difference == 0;
}

/* Whether `size` bytes from `user` (a multiple of 8) hold poison throughout. */
static inline bool moat_poison_whole(uintptr_t user, size_t size) {
    const uint64_t poison = UINT64_C(0x0101010101010101) * MOAT_POISON_BYTE;
    uintptr_t end = user + size;
    uint64_t difference = 0;
    for (; end - user >= 64; user += 64) {
        for (unsigned i = 0; i < 64; i += 8) {
            difference |= moat_load_word(user + i) ^ poison;
        }
        if (difference != 0) {
            return false;
        }
    }
    for (; end - user >= 8; user += 8) {
        difference |= moat_load_word(user) ^ poison;
    }
    for (; user < end; user++) {
        difference |= (uint64_t)(*(const unsigned char *)user ^ MOAT_POISON_BYTE);
    }
    return difference == 0;
}

static inline uint32_t moat_header_sum(const struct moat_header *header, uint64_t secret, uintptr_t user) {
    const uint64_t low = UINT32_MAX;
    const uint64_t prime = UINT64_C(4294967291); /* 2^32 - 5: so 2^32 is 5, and digit i weighs 5^i */
    uint64_t threads = (uint64_t)header->allocation_thread | (uint64_t)header->free_thread << 16;
    uint64_t number = threads + 5 * (header->size_state_family & low) + 25 * (header->size_state_family >> 32) +
                      125 * (header->sequence_moved_rear & low) + 625 * (header->sequence_moved_rear >> 32) +
                      UINT64_C(3125) * header->allocation_stack + UINT64_C(15625) * header->free_stack;
    number = (number & low) + 5 * (number >> 32);
    number = (number & low) + 5 * (number >> 32);
    number = number >= prime ? number - prime : number;
    return (uint32_t)number ^ (uint32_t)(moat_mix(~secret, user) >> 16);
}

static inline void moat_header_seal(struct moat_header *header, uint64_t secret, uintptr_t user) {
    header->sum = moat_header_sum(header, secret, user);
}

static inline bool moat_header_whole(const struct moat_header *header, uint64_t secret, uintptr_t user) {
    return header->sum == moat_header_sum(header, secret, user);
}

static inline bool moat_front_whole(uint64_t secret, uintptr_t user) {
    uint64_t difference = 0;
    for (uintptr_t at = user - MOAT_FRONT_BYTES; at < user; at += 8) {
        difference |= moat_load_word(at) ^ moat_zone_word(secret, at);
    }
    return difference == 0;
}

/* Facts of a block from a header that was proved whole. */
static inline struct moat_block_facts moat_header_facts(const struct moat_header *header, uintptr_t user) {
    return (struct moat_block_facts){
        .address = user,
        .size_bytes = moat_header_size(header),
        .sequence = moat_header_sequence(header),
        .allocation_stack = header->allocation_stack,
        .free_stack = header->free_stack,
        .allocation_thread = header->allocation_thread,
        .free_thread = header->free_thread,
        .state = (uint8_t)moat_header_state(header),
        .family = (uint8_t)moat_header_family(header),
    };
}

#endif
