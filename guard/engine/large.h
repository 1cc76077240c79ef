/* The page backend: blocks with pages of their own, a guard page behind, no access once freed.
 * May include: the engine's own headers, moat's public ones and freestanding headers.
 *
 *   reserved address space of one block
 *   | pages, readable and writable                  | room to grow + guard page: every access faults |
 *   | . . | header, front zone, user bytes, rear zone |
 *         ^ block                                     ^ committed end
 *
 * Blocks are placed so that they end at the committed end, as far as their alignment lets them. A sorted table finds the
 * block of an address. All that is kept of a block lies in the table, so a freed block needs no accessible page. */
#ifndef MOAT_ENGINE_LARGE_H
#define MOAT_ENGINE_LARGE_H

#include "guard/engine/layout.h"
#include "guard/engine/map.h"
#include "moat/backend.h"

/* What a platform's pages can do. Sizes and addresses are multiples of page_bytes. */
struct moat_page_operations {
    size_t page_bytes;
    void *(*reserve)(size_t size_bytes, size_t alignment); /* address space without access; NULL: none */
    bool (*commit)(void *start, size_t size_bytes);        /* readable, writable, zero when new */
    bool (*conceal)(void *start, size_t size_bytes);       /* no access, contents and memory dropped */
    bool (*release)(void *start, size_t size_bytes);       /* all of a reservation */
};

struct moat_large_block {
    struct moat_span span; /* from the user pointer to the end of the reservation, one granule */
    uintptr_t bits[2];     /* the span's: starts, live */
    uintptr_t reserved_start;
    uintptr_t reserved_end;
    uintptr_t committed_start;
    uintptr_t committed_end;
    uintptr_t block;
    bool detached;
    union {
        struct moat_header header;
        unsigned char bytes[MOAT_HEADER_BYTES];
    } dress; /* valid once detached */
};

struct moat_large {
    const struct moat_page_operations *pages;
    struct moat_guard *guard;        /* whose blocks these are */
    struct moat_large_block *blocks; /* records, in no order */
    uint32_t *order;                 /* indices of records in use, sorted by address; behind them the unused ones */
    uint32_t count;
    uint32_t most;
};

/* Prepares the backend for `most` blocks, freed ones included; its tables come from `memory` (zeroed).
 * Gives false, and a backend that never has a block, when there is no memory for them. */
bool moat_large_init(struct moat_large *large, struct moat_guard *guard, const struct moat_page_operations *pages,
                     uint32_t most, const struct moat_source *memory);

/* The backend's table; its context is the struct moat_large. */
const struct moat_backend *moat_large_backend(void);

/* The block whose reserved address space holds `address`, or NULL. Cost: a binary search. */
struct moat_large_block *moat_large_at(const struct moat_large *large, uintptr_t address);

/* For the guard's locator: the span that holds the address, and the next one. Context: a struct moat_large. */
struct moat_span *moat_large_find(const void *context, uintptr_t address);
struct moat_span *moat_large_next(const void *context, const struct moat_guard *guard, uintptr_t address);

/* Lets the program go on after a fault at `address` was reported: makes the page accessible. */
bool moat_large_open(struct moat_large *large, uintptr_t address);

#endif
