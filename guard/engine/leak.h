/* The leak scan: which live blocks nothing reachable points to. May include: the engine's own headers.
 *
 * A conservative mark phase: every aligned word of the roots and of reached blocks that lies in a live block (interior pointers count)
 * reaches it. What is not reached is lost: definite, or indirect when only other lost blocks point to it.
 * All guards are locked, and no thread changes memory, from begin to end. */
#ifndef MOAT_ENGINE_LEAK_H
#define MOAT_ENGINE_LEAK_H

#include "guard/engine/guard.h"

#define MOAT_LEAK_GUARDS_MAX 256u

struct moat_leak_group {
    uint32_t stack; /* of the allocations */
    uint64_t blocks, bytes;
    uint64_t indirect_blocks, indirect_bytes; /* lost with them */
    struct moat_block_facts example;          /* one of its blocks */
};

struct moat_leak_scan {
    const struct moat_source *memory; /* zeroed memory for marks, the work list and the groups */
    struct moat_guard *guards[MOAT_LEAK_GUARDS_MAX];
    size_t guard_count;
    uint64_t since;  /* blocks with a lower allocation number are not this process's to report */
    uintptr_t *work; /* reached blocks not yet scanned: a stack; at its far end the candidates for definite */
    size_t work_count, work_most;
    size_t work_bytes;
    struct moat_leak_group *groups; /* after moat_leak_finish: the largest first */
    size_t group_count, group_most;
    size_t group_bytes;
    uint64_t definite_blocks, definite_bytes, indirect_blocks, indirect_bytes;
};

/* Prepares a scan over the guards named in it.
 * Fails:   false when there is no memory for marks and work list: the check cannot be run. Call moat_leak_end in any case. */
bool moat_leak_begin(struct moat_leak_scan *scan);

/* Marks everything that [start, start + size_bytes) reaches. The memory must be readable. */
void moat_leak_root(struct moat_leak_scan *scan, uintptr_t start, size_t size_bytes);

/* Classifies and groups what was not reached; false when there is no memory for the groups. */
bool moat_leak_finish(struct moat_leak_scan *scan);

/* Gives the scan's memory back. */
void moat_leak_end(struct moat_leak_scan *scan);

#endif
