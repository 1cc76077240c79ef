/* The bits of a block: the only file that knows where a header lies and what is in it.
 * May include: moat/heap.h and freestanding headers.
 *
 * A block is named by the address it is handed out as, `p`. Its size counts from one block's header to the next one's.
 *
 *            p - H     p                                    p + size - H   p + size
 *   used     | header  | the user's bytes ................. | header       |
 *   free     | header  | next  | previous | ....... | size  | header       |
 *                                                   ^ footer: valid only while the block is free; the block behind
 *                                                     knows that by its MOAT_BLOCK_BEFORE_FREE flag
 *
 * The header's meta value is the size (a multiple of the alignment) and the flags in its low bits.
 *   level 0 and 1        one word: meta
 *   level 2, 64-bit      one word: meta << 16 | check. Bytes that run over from the block in front meet the check first
 *   level 2, 32-bit      two words: check << 16 ^ hash of key and address, then meta
 * The check is a cyclic redundancy code, xored with a hash of key and address. The code detects any burst of at most 16 bits,
 * also one that straddles check and meta; the hash makes a header that was overwritten as a whole, or copied from
 * elsewhere, fit by chance only. */
#ifndef MOAT_HEAP_BLOCK_H
#define MOAT_HEAP_BLOCK_H

#include "moat/heap.h"

/* The heap reads and writes memory that is the user's at other times, with types of the user's own. */
typedef uintptr_t moat_word __attribute__((may_alias));

/* For what lies on the way of every allocation or free: one function without calls where speed counts, whatever is smallest where
 * the compiler is told to save space. */
#ifdef __OPTIMIZE_SIZE__
#define MOAT_HEAP_INLINE static inline
#else
#define MOAT_HEAP_INLINE static inline __attribute__((always_inline))
#endif

#define MOAT_BLOCK_ALIGN ((uintptr_t)MOAT_HEAP_ALIGNMENT_BYTES)
#define MOAT_BLOCK_OVERHEAD ((uintptr_t)MOAT_HEAP_OVERHEAD_BYTES)
#define MOAT_BLOCK_MIN ((uintptr_t)MOAT_HEAP_BLOCK_BYTES_MIN)
#define MOAT_BLOCK_WORD ((uintptr_t)MOAT_HEAP_WORD_BYTES)
#define MOAT_PROVE (MOAT_HEAP_HARDENING >= 1)

#define MOAT_BLOCK_FREE ((uintptr_t)1)
#define MOAT_BLOCK_BEFORE_FREE ((uintptr_t)2) /* the block in front is free, and its footer valid */
#define MOAT_BLOCK_FIXED ((uintptr_t)4) /* the heap's own: the control block, and with size 0 a region's sentinel */
#define MOAT_BLOCK_FLAGS (MOAT_BLOCK_ALIGN - 1)
#define MOAT_BLOCK_NEVER (MOAT_BLOCK_FLAGS & ~(uintptr_t)7) /* bits that no meta value has */
#define MOAT_BLOCK_NONE ((uintptr_t)0)                      /* meta of no block at all: an erased or damaged header */

/* Requests beyond this fail at once, so that sums of two or three of them cannot wrap; at level 2 it also keeps meta in
 * 48 bits. */
#if UINTPTR_MAX > 0xffffffffu
#define MOAT_BLOCK_REQUEST_MAX ((uintptr_t)1 << 46)
#else
#define MOAT_BLOCK_REQUEST_MAX ((uintptr_t)1 << 30)
#endif

#define MOAT_MIX_FACTOR ((uintptr_t)0x9e3779b97f4a7c15u) /* odd, bits evenly spread: 2^64 / golden ratio */
#define MOAT_CHECK_BITS 16

static inline moat_word *moat_block_word_at(uintptr_t address) { return (moat_word *)address; }

static inline uintptr_t moat_block_size(uintptr_t meta) { return meta & ~MOAT_BLOCK_FLAGS; }

/* One word out of two, so that a change of either changes it. */
static inline uintptr_t moat_mix(uintptr_t seed, uintptr_t value) {
    uintptr_t mixed = (seed ^ value) * MOAT_MIX_FACTOR;
    return mixed ^ mixed >> (sizeof mixed * 4 - 3);
}

/* ---- level 2: the check -------------------------------------------------------------------------------------------- */

/* The remainder of a polynomial over GF(2) by x^16 + x^5 + x^3 + x^2 + 1, which is primitive. By that polynomial x^16 equals
 * x^5 + x^3 + x^2 + 1 and its square x^32 equals x^10 + x^6 + x^4 + 1, so high parts fold down by shifts. */
static inline uint32_t moat_check_remainder(uint64_t bits) {
    uint64_t high = bits >> 32;
    uint64_t folded = (bits & 0xffffffffu) ^ high ^ high << 4 ^ high << 6 ^ high << 10;
    uint32_t high32 = (uint32_t)(folded >> 32);
    uint32_t folded32 = (uint32_t)folded ^ high32 ^ high32 << 4 ^ high32 << 6 ^ high32 << 10;
    for (int round = 0; round < 2; round++) {
        high32 = folded32 >> 16;
        folded32 = (folded32 & 0xffffu) ^ high32 ^ high32 << 2 ^ high32 << 3 ^ high32 << 5;
    }
    return folded32;
}

/* The hash of key and address that a header is xored with. */
static inline uintptr_t moat_check_hash(uintptr_t key, uintptr_t p) { return (key ^ p) * MOAT_MIX_FACTOR; }

#if MOAT_HEAP_HARDENING >= 2 && UINTPTR_MAX > 0xffffffffu

static inline uintptr_t moat_block_meta(uintptr_t key, uintptr_t p) {
    uintptr_t header = *moat_block_word_at(p - MOAT_BLOCK_OVERHEAD);
    bool whole = moat_check_remainder(header) == moat_check_hash(key, p) >> (64 - MOAT_CHECK_BITS);
    return whole ? header >> MOAT_CHECK_BITS : MOAT_BLOCK_NONE;
}

static inline void moat_block_set_meta(uintptr_t key, uintptr_t p, uintptr_t meta) {
    uintptr_t shifted = meta << MOAT_CHECK_BITS;
    uintptr_t check = moat_check_remainder(shifted) ^ moat_check_hash(key, p) >> (64 - MOAT_CHECK_BITS);
    *moat_block_word_at(p - MOAT_BLOCK_OVERHEAD) = shifted | check;
}

#elif MOAT_HEAP_HARDENING >= 2

static inline uintptr_t moat_block_check_word(uintptr_t key, uintptr_t p, uintptr_t meta) {
    uintptr_t check = moat_check_remainder((uint64_t)meta << MOAT_CHECK_BITS);
    return check << MOAT_CHECK_BITS ^ moat_check_hash(key, p);
}

static inline uintptr_t moat_block_meta(uintptr_t key, uintptr_t p) {
    uintptr_t meta = *moat_block_word_at(p - MOAT_BLOCK_WORD);
    bool whole = *moat_block_word_at(p - MOAT_BLOCK_OVERHEAD) == moat_block_check_word(key, p, meta);
    return whole ? meta : MOAT_BLOCK_NONE;
}

static inline void moat_block_set_meta(uintptr_t key, uintptr_t p, uintptr_t meta) {
    *moat_block_word_at(p - MOAT_BLOCK_OVERHEAD) = moat_block_check_word(key, p, meta);
    *moat_block_word_at(p - MOAT_BLOCK_WORD) = meta;
}

#else

static inline uintptr_t moat_block_meta(uintptr_t key, uintptr_t p) {
    (void)key;
    return *moat_block_word_at(p - MOAT_BLOCK_OVERHEAD);
}

static inline void moat_block_set_meta(uintptr_t key, uintptr_t p, uintptr_t meta) {
    (void)key;
    *moat_block_word_at(p - MOAT_BLOCK_OVERHEAD) = meta;
}

#endif

/* Makes a header that a larger block swallows unusable, so that a stale pointer to it is refused later. */
static inline void moat_block_erase(uintptr_t p) {
    if (MOAT_PROVE)
        *moat_block_word_at(p - MOAT_BLOCK_WORD) = MOAT_BLOCK_NONE;
}

/* ---- what only free blocks have ------------------------------------------------------------------------------------ */

static inline moat_word *moat_block_next(uintptr_t p) { return moat_block_word_at(p); }

static inline moat_word *moat_block_previous(uintptr_t p) { return moat_block_word_at(p + MOAT_BLOCK_WORD); }

/* The footer of the free block in front of p: the size of that block. */
static inline moat_word *moat_block_footer_before(uintptr_t p) {
    return moat_block_word_at(p - MOAT_BLOCK_OVERHEAD - MOAT_BLOCK_WORD);
}

/* The size of a block with room for so many usable bytes. */
static inline uintptr_t moat_block_size_for(uintptr_t usable_bytes) {
    uintptr_t size = (usable_bytes + MOAT_BLOCK_OVERHEAD + MOAT_BLOCK_ALIGN - 1) & ~(MOAT_BLOCK_ALIGN - 1);
    return size < MOAT_BLOCK_MIN ? MOAT_BLOCK_MIN : size;
}

#endif
