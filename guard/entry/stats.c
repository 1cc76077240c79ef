/* Where the memory went: moat_stats and the line at exit. May include: process.h, the port's text, the
 * report's formatter. */
#include "guard/entry/process.h"
#include "guard/port/linux/text.h"
#include "guard/report/format.h"
#include "moat.h"

static void add_shard(void *context, struct moat_shard *shard) {
    struct moat_statistics *sum = context;
    moat_lock_take(&shard->lock);
    const struct moat_guard *guard = &shard->guard;
    sum->live_blocks += guard->counts.live_blocks;
    sum->live_bytes += guard->counts.live_bytes;
    sum->peak_bytes += guard->counts.peak_bytes;
    sum->allocations += guard->counts.allocations;
    sum->frees += guard->counts.frees;
    sum->retired_blocks += guard->counts.retired_blocks;
    sum->header_bytes += guard->counts.live_blocks * MOAT_HEADER_BYTES;
    sum->zone_bytes +=
        guard->counts.dressed_bytes - guard->counts.live_bytes - guard->counts.live_blocks * MOAT_HEADER_BYTES;
    if (shard == &moat_process.large) {
        sum->large_blocks = guard->counts.live_blocks;
        sum->large_bytes = guard->counts.live_bytes;
    } else {
        sum->quarantine_blocks += guard->near.count + guard->far.count;
        sum->quarantine_bytes += guard->near.held_bytes + guard->far.held_bytes;
    }
    if (shard != &moat_process.large && shard->guarded == NULL) {
        struct moat_heap_statistics heap;
        moat_heap_statistics(shard->heap, &heap);
        sum->heap_bytes += heap.region_bytes;
        sum->used_bytes += heap.used_bytes;
        sum->used_peak_bytes += heap.used_bytes_peak;
        sum->free_bytes += heap.free_bytes;
        sum->largest_free_bytes =
            heap.free_bytes_largest > sum->largest_free_bytes ? heap.free_bytes_largest : sum->largest_free_bytes;
    }
    moat_lock_give(&shard->lock);
}

MOAT_EXPORT void moat_stats(struct moat_statistics *statistics) {
    *statistics = (struct moat_statistics){.live_blocks = 0};
    moat_thread_self(); /* starts Moat where nobody has allocated yet */
    moat_shards_each(add_shard, statistics);
    statistics->stack_frames = atomic_load(&moat_process.depot.node_count) - 1;
    statistics->stack_bytes = statistics->stack_frames * sizeof(struct moat_depot_node) +
                              (moat_process.depot.buckets == NULL ? 0 : sizeof(uint32_t) << MOAT_DEPOT_BUCKET_BITS);
    statistics->stacks_lost = atomic_load(&moat_process.depot.lost);
    statistics->own_bytes = atomic_load(&moat_process.own_bytes);
    statistics->map_bytes = moat_map_bytes(&moat_process.map);
    statistics->fragmentation_permille =
        statistics->free_bytes == 0 ? 0
                                    : (uint32_t)(1000 - statistics->largest_free_bytes * 1000 / statistics->free_bytes);
}

/* ---- the line of stats=1 ------------------------------------------------------------------------------------------- */

static void line_add(void *context, const char *text, size_t length_bytes) {
    moat_text_add_bytes(context, text, length_bytes);
}

struct item {
    const char *before;
    uint64_t value;
};

void moat_stats_note(void) {
    struct moat_statistics now;
    char line[MOAT_NOTE_BYTES];
    struct moat_text_buffer text = moat_text_begin(line, sizeof line);
    struct moat_out out;
    moat_stats(&now);
    const struct item items[] = {
        {"statistics: bytes live ", now.live_bytes},
        {" in blocks ", now.live_blocks},
        {", peak ", now.peak_bytes},
        {"; allocations ", now.allocations},
        {", frees ", now.frees},
        {"; overhead: headers ", now.header_bytes},
        {", zones ", now.zone_bytes},
        {", quarantine ", now.quarantine_bytes},
        {", stacks ", now.stack_bytes},
        {", map ", now.map_bytes},
        {"; heap ", now.heap_bytes},
        {", free ", now.free_bytes},
        {", largest free ", now.largest_free_bytes},
        {", fragmentation ", now.fragmentation_permille / 10},
    };
    moat_out_start(&out, (struct moat_sink){line_add, &text}, false);
    for (size_t i = 0; i < sizeof items / sizeof items[0]; i++) {
        moat_out_text(&out, items[i].before);
        moat_out_grouped(&out, items[i].value);
    }
    moat_out_char(&out, '.');
    moat_out_number(&out, now.fragmentation_permille % 10);
    moat_out_text(&out, " %");
    moat_out_finish(&out);
    moat_note(line);
}
