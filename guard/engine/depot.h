/* The depot: every stack once, as a tree of (return address, parent).
 * May include: moat/source.h and freestanding headers.
 *
 * A stack id names its innermost node; its parents are the callers, outwards. Id 0 is "none". Equal outer frames are stored once.
 * The depot is process-wide and grows only; nodes are added by compare-and-swap, before any lock is taken. */
#ifndef MOAT_ENGINE_DEPOT_H
#define MOAT_ENGINE_DEPOT_H

#include "moat/source.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MOAT_DEPOT_SEGMENT_BITS 14u
#define MOAT_DEPOT_SEGMENTS 1024u
#define MOAT_DEPOT_NODES_MAX (MOAT_DEPOT_SEGMENTS << MOAT_DEPOT_SEGMENT_BITS)
#define MOAT_DEPOT_BUCKET_BITS 18u
#define MOAT_DEPOT_NO_MODULE UINT16_MAX

struct moat_depot_node {
    uint64_t pc;
    uint32_t parent;
    uint32_t next; /* in the bucket */
    uint16_t module;
    uint16_t incomplete; /* outermost node of a stack that went on */
};

struct moat_depot {
    const struct moat_source *memory; /* zeroed memory */
    /* Which module a new node's pc lies in, asked once per node so that frames of a module unloaded since keep their name. */
    uint16_t (*module_of)(uintptr_t pc);
    _Atomic(uint32_t) *buckets;
    _Atomic(struct moat_depot_node *) segments[MOAT_DEPOT_SEGMENTS];
    _Atomic(uint32_t) node_count; /* ids handed out, 0 included */
    _Atomic(uint64_t) lost;       /* frames that did not fit */
};

/* Prepares a depot; module_of may be NULL. False when there is no memory for the buckets: every stack is then id 0. */
bool moat_depot_init(struct moat_depot *depot, const struct moat_source *memory, uint16_t (*module_of)(uintptr_t pc));

/* The node of `pc` called from node `parent`, added when it is new; 0 when the depot is full.
 * Cost: one hash and a short list; a new node takes a compare-and-swap. Context: any thread, no lock. */
uint32_t moat_depot_push(struct moat_depot *depot, uint32_t parent, uintptr_t pc, bool incomplete);

/* The frame an id names and its caller's id. False for 0 and for ids never given out. */
bool moat_depot_frame(const struct moat_depot *depot, uint32_t id, struct moat_depot_node *frame);

#endif
