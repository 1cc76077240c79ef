/* The depot's tree. May include: depot.h only. */
#include "guard/engine/depot.h"

bool moat_depot_init(struct moat_depot *depot, const struct moat_source *memory, uint16_t (*module_of)(uintptr_t pc)) {
    size_t got_bytes;
    depot->memory = memory;
    depot->module_of = module_of;
    depot->buckets = memory->acquire(memory->context, sizeof(uint32_t) << MOAT_DEPOT_BUCKET_BITS, &got_bytes);
    for (size_t i = 0; i < MOAT_DEPOT_SEGMENTS; i++) {
        atomic_init(&depot->segments[i], NULL);
    }
    atomic_init(&depot->node_count, 1);
    atomic_init(&depot->lost, 0);
    return depot->buckets != NULL;
}

static struct moat_depot_node *node_at(const struct moat_depot *depot, uint32_t id) {
    struct moat_depot_node *segment =
        atomic_load_explicit(&depot->segments[id >> MOAT_DEPOT_SEGMENT_BITS], memory_order_acquire);
    return segment == NULL ? NULL : &segment[id & ((1u << MOAT_DEPOT_SEGMENT_BITS) - 1)];
}

static uint32_t bucket_find(const struct moat_depot *depot, uint32_t id, uint32_t stop, uint32_t parent, uintptr_t pc) {
    while (id != stop) {
        const struct moat_depot_node *node = node_at(depot, id);
        if (node->pc == pc && node->parent == parent) {
            return id;
        }
        id = node->next;
    }
    return 0;
}

/* A fresh node's id, its segment present; 0 when the depot is full. */
static uint32_t node_new(struct moat_depot *depot) {
    uint32_t id = atomic_load_explicit(&depot->node_count, memory_order_relaxed);
    do {
        if (id >= MOAT_DEPOT_NODES_MAX) {
            return 0;
        }
    } while (!atomic_compare_exchange_weak(&depot->node_count, &id, id + 1));
    _Atomic(struct moat_depot_node *) *slot = &depot->segments[id >> MOAT_DEPOT_SEGMENT_BITS];
    struct moat_depot_node *segment = atomic_load_explicit(slot, memory_order_acquire);
    if (segment == NULL) {
        size_t got_bytes;
        size_t size_bytes = sizeof *segment << MOAT_DEPOT_SEGMENT_BITS;
        struct moat_depot_node *fresh = depot->memory->acquire(depot->memory->context, size_bytes, &got_bytes);
        if (fresh == NULL) {
            return 0;
        }
        if (!atomic_compare_exchange_strong(slot, &segment, fresh) && depot->memory->release != NULL) {
            depot->memory->release(depot->memory->context, fresh, got_bytes);
        }
    }
    return id;
}

uint32_t moat_depot_push(struct moat_depot *depot, uint32_t parent, uintptr_t pc, bool incomplete) {
    if (depot->buckets == NULL) {
        return 0;
    }
    uint64_t hash = ((uint64_t)pc ^ (uint64_t)parent << 32) * UINT64_C(0x9e3779b97f4a7c15);
    hash = (hash ^ hash >> 29) * UINT64_C(0xbf58476d1ce4e5b9);
    _Atomic(uint32_t) *bucket = &depot->buckets[hash >> (64 - MOAT_DEPOT_BUCKET_BITS)];
    uint32_t head = atomic_load_explicit(bucket, memory_order_acquire);
    uint32_t found = bucket_find(depot, head, 0, parent, pc);
    if (found != 0) {
        return found;
    }
    uint32_t id = node_new(depot);
    if (id == 0) {
        atomic_fetch_add_explicit(&depot->lost, 1, memory_order_relaxed);
        return 0;
    }
    struct moat_depot_node *node = node_at(depot, id);
    node->pc = pc;
    node->parent = parent;
    node->module = depot->module_of != NULL ? depot->module_of(pc) : MOAT_DEPOT_NO_MODULE;
    node->incomplete = incomplete;
    for (;;) {
        uint32_t seen = head;
        node->next = head;
        if (atomic_compare_exchange_strong(bucket, &head, id)) {
            return id;
        }
        /* Somebody added to the bucket: perhaps this very node. Ours then stays unused. */
        found = bucket_find(depot, head, seen, parent, pc);
        if (found != 0) {
            return found;
        }
    }
}

bool moat_depot_frame(const struct moat_depot *depot, uint32_t id, struct moat_depot_node *frame) {
    if (id == 0 || id >= atomic_load(&depot->node_count)) {
        return false;
    }
    const struct moat_depot_node *node = node_at(depot, id);
    if (node == NULL || node->pc == 0) {
        return false;
    }
    *frame = *node;
    return true;
}
