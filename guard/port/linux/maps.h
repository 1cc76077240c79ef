/* The memory map of this process, read without allocating.
 * May include: moat/finding.h and the C library's freestanding headers. */
#ifndef MOAT_PORT_MAPS_H
#define MOAT_PORT_MAPS_H

#include "moat/finding.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct moat_map {
    uintptr_t start;
    uintptr_t end; /* first byte behind it */
    uint64_t offset;
    uint64_t inode;
    bool readable, writable, executable, shared;
    const char *path; /* "" when it has none; valid during the call only */
};

/* Shows every mapping in address order until `each` says false.
 * Gives:   true when all were shown or `each` ended it; false when /proc cannot be read (some may have been shown).
 * Cost:    5 KiB of stack. The kernel's list is read in pieces, so what changes meanwhile may be seen either way.
 * Context: any thread, signal handlers; `each` may map memory but should not rely on seeing it. errno is kept. */
bool moat_maps_each(bool (*each)(void *context, const struct moat_map *map), void *context);

/* What lies at an address that is no block of Moat's, in words.
 * Takes:   any address; name: room for name_bytes >= 1.
 * Gives:   MOAT_PLACE_STACK, _GLOBAL, _CODE, _MAPPED or _UNMAPPED (_UNKNOWN without /proc); `name` says which stack,
 * variable and module ("counter+0x4 in /usr/bin/prog", "the main thread's stack"), or is "". Context: as
 * moat_symtab_symboliser: one caller at a time. errno is kept. */
enum moat_place moat_maps_classify(uintptr_t address, char *name, size_t name_bytes);

#endif
