/* The quarantine: a FIFO of freed blocks with a byte budget that counts its own entries.
 * May include: moat/source.h and freestanding headers. */
#ifndef MOAT_ENGINE_QUARANTINE_H
#define MOAT_ENGINE_QUARANTINE_H

#include "moat/source.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Footprints are counted in granules; a block too large for the field counts as its maximum, on the way in and out alike. */
#define MOAT_FOOTPRINT_SHIFT 4u
#define MOAT_FOOTPRINT_MAX ((UINT64_C(1) << 24) - 1)

struct moat_quarantine_entry {
    uintptr_t user;
    uint64_t event : 40; /* of the free */
    uint64_t footprint : 24;
};

struct moat_quarantine {
    struct moat_quarantine_entry *entries; /* a ring */
    size_t capacity;                       /* a power of two, or 0: nothing is held */
    size_t head;                           /* oldest */
    size_t count;
    size_t held_bytes;
    size_t budget_bytes;
};

/* Prepares a quarantine; the ring is as large as blocks of least_bytes need to fill the budget, or as large as can be had. */
void moat_quarantine_init(struct moat_quarantine *quarantine, size_t budget_bytes, size_t least_bytes,
                          const struct moat_source *memory);

/* Whether the oldest must leave before a block of this footprint may enter. */
static inline bool moat_quarantine_over(const struct moat_quarantine *quarantine, size_t more_bytes) {
    return quarantine->count != 0 && (quarantine->held_bytes + more_bytes > quarantine->budget_bytes ||
                                      quarantine->count == quarantine->capacity);
}

static inline size_t moat_quarantine_bytes(const struct moat_quarantine_entry *entry) {
    return ((size_t)entry->footprint << MOAT_FOOTPRINT_SHIFT) + sizeof *entry;
}

static inline struct moat_quarantine_entry moat_quarantine_entry_make(uintptr_t user, uint64_t event,
                                                                      size_t footprint_bytes) {
    uint64_t granules = footprint_bytes >> MOAT_FOOTPRINT_SHIFT;
    struct moat_quarantine_entry entry = {.user = user};
    entry.event = event & ((UINT64_C(1) << 40) - 1);
    entry.footprint = (granules < MOAT_FOOTPRINT_MAX ? granules : MOAT_FOOTPRINT_MAX) & MOAT_FOOTPRINT_MAX;
    return entry;
}

/* Takes the oldest out; there must be one. */
static inline struct moat_quarantine_entry moat_quarantine_pop(struct moat_quarantine *quarantine) {
    struct moat_quarantine_entry oldest = quarantine->entries[quarantine->head];
    quarantine->head = (quarantine->head + 1) & (quarantine->capacity - 1);
    quarantine->count--;
    quarantine->held_bytes -= moat_quarantine_bytes(&oldest);
    return oldest;
}

/* Adds a block; false when the ring has no room. The budget may be exceeded, so that a block larger than all of it is held as
 * well: how many leave for it is the caller's to decide. */
static inline bool moat_quarantine_push(struct moat_quarantine *quarantine, struct moat_quarantine_entry entry) {
    if (quarantine->count == quarantine->capacity) {
        return false;
    }
    quarantine->entries[(quarantine->head + quarantine->count) & (quarantine->capacity - 1)] = entry;
    quarantine->count++;
    quarantine->held_bytes += moat_quarantine_bytes(&entry);
    return true;
}

#endif
