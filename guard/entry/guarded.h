/* What the files about guarded allocators share. May include: process.h, moat/guard.h. */
#ifndef MOAT_ENTRY_GUARDED_H
#define MOAT_ENTRY_GUARDED_H

#include "guard/entry/process.h"
#include "moat/guard.h"

/* The shard behind the program's struct; opens it when it was initialised at file scope. For one that is not guarded, a shard that is
 * never ready. */
struct moat_shard *moat_guarded_shard(struct moat_guarded *guarded);

/* moat_guarded_release on behalf of `caller`. */
void moat_guarded_release_blocks(struct moat_shard *shard, uintptr_t start, uintptr_t end, uintptr_t caller);

/* Reports at once what memory did not leave for. Context: no lock held. */
void moat_guarded_sweep_refused(struct moat_shard *shard, uintptr_t caller);

/* moat_guarded_close on behalf of `caller`. */
void moat_guarded_end(struct moat_guarded *guarded, uintptr_t caller);

#endif
