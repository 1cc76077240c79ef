/* Free and usable size.
 * May include: used.h and freestanding headers.
 *
 * All that is going to be touched is proved first, at hardening level 1 and 2, and only then is anything changed. */
#include "used.h"

bool moat_heap_free(struct moat_heap *heap, void *block) {
    uintptr_t p = (uintptr_t)block;
    if (p == 0)
        return true;
    struct moat_used used;
    uintptr_t before = 0;
    enum moat_rule rule = moat_used_proved(heap, p, &used);
    if (rule == MOAT_RULE_NONE)
        rule = moat_behind_proved(heap, &used);
    if (rule == MOAT_RULE_NONE)
        rule = moat_front_proved(heap, p, &used, &before);
    if (rule != MOAT_RULE_NONE) {
        moat_heap_note(heap, rule, p);
        return false;
    }
    uintptr_t size = moat_used_size(&used);
    bool joins_behind = (used.behind_meta & MOAT_BLOCK_FREE) != 0;
    uintptr_t behind_size = joins_behind ? moat_block_size(used.behind_meta) : 0;
    heap->used_count--;
    heap->used_bytes -= size - MOAT_BLOCK_OVERHEAD;
    if (!joins_behind)
        moat_block_tell(heap, used.behind, used.behind_meta, true);
    if (before != 0) {
        if (joins_behind)
            moat_bin_remove(heap, used.behind, behind_size);
        moat_bin_replace(heap, moat_bin_of(heap, before), p - before, p - before, before + size + behind_size,
                         used.extent);
        moat_block_erase(p);
    } else if (joins_behind) {
        moat_bin_replace(heap, moat_bin_of(heap, behind_size), used.behind, p, size + behind_size, used.extent);
    } else {
        moat_bin_insert(heap, p, size, used.extent);
    }
    if (joins_behind)
        moat_block_erase(used.behind);
    if (before + size + behind_size >= heap->trim_least)
        moat_heap_trim_around(heap, p - before, before + size + behind_size, used.extent);
    return true;
}

size_t moat_heap_usable(struct moat_heap *heap, const void *block) {
    struct moat_used used;
    if (block == NULL)
        return 0;
    enum moat_rule rule = moat_used_proved(heap, (uintptr_t)block, &used);
    if (rule != MOAT_RULE_NONE) {
        moat_heap_note(heap, rule, (uintptr_t)block);
        return 0;
    }
    return moat_used_size(&used) - MOAT_BLOCK_OVERHEAD;
}
