/* What the files behind moat_block_* share: allocate.c, free.c, resize.c and sweep.c. May include: process.h. */
#ifndef MOAT_ENTRY_BLOCK_H
#define MOAT_ENTRY_BLOCK_H

#include "guard/entry/process.h"

#define MOAT_COLD __attribute__((noinline, cold))

/* The latest allocation number, for events that are not allocations. */
static inline uint64_t moat_block_event(const struct moat_thread *self) {
    return self->sequence_next != self->sequence_end
               ? self->sequence_next - 1
               : atomic_load_explicit(&moat_process.sequence, memory_order_relaxed) - 1;
}

static inline struct moat_call moat_block_call_make(const struct moat_thread *self, uint64_t event, uint32_t stack,
                                                    unsigned family, unsigned when) {
    return (struct moat_call){
        .event = event, .stack = stack, .thread = self->number, .family = (uint8_t)family, .when = (uint8_t)when};
}

/* allocate.c: an allocation that failure injection has been asked about already. */
void *moat_block_allocate_now(const struct moat_request *request);

/* Whether this allocation of the program's own is one that is to fail; counts it. */
bool moat_block_is_injected(const struct moat_thread *self);

/* The failure that the options asked for: NULL. */
MOAT_COLD void *moat_block_injected(size_t size_bytes, size_t alignment, unsigned family, unsigned when,
                                    const char *owner, uintptr_t caller);

/* free.c: frees to `asked`, NULL being malloc's heap. */
void moat_block_free_as(void *user, struct moat_thread *self, uint32_t stack, unsigned family, unsigned when,
                        struct moat_claimed claimed, struct moat_shard *asked);

/* Takes one block or two out of a quarantine to make room. Context: shard's lock held, and released meanwhile for reports. */
bool moat_block_drain_one(struct moat_shard *shard, const struct moat_call *call);

/* Proves victims and gives them back. Context: as drain_one. */
void moat_block_victims_leave(struct moat_shard *shard, const struct moat_victim *victims, size_t count,
                              const struct moat_call *leaving);

/* An allocator's name into a finding. */
void moat_block_name_copy(char to[MOAT_OWNER_BYTES], const char *name);

#endif
