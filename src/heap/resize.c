/* Resizing: in place, backward, elsewhere.
 * May include: used.h and freestanding headers, string.h for memcpy and memmove.
 *
 * All that is going to be touched is proved first, at hardening level 1 and 2, and only then is anything changed. */
#include "used.h"

#include <string.h>

/* Gives a used block another size; `available` runs to the end of the free block behind it, or to its own end. */
static void set_size(struct moat_heap *heap, uintptr_t p, const struct moat_used *used, uintptr_t wanted,
                     uintptr_t available) {
    uintptr_t size = moat_used_size(used);
    bool was_free_behind = (used->behind_meta & MOAT_BLOCK_FREE) != 0;
    bool is_free_behind = available - wanted >= MOAT_BLOCK_MIN;
    uintptr_t behind_size = available - size;
    uintptr_t far_behind = p + available;
    heap->used_bytes -= size - MOAT_BLOCK_OVERHEAD;
    heap->used_count--;
    if (was_free_behind != is_free_behind)
        moat_block_tell(heap, far_behind, moat_block_meta(heap->key, far_behind), is_free_behind);
    if (was_free_behind) {
        moat_bin_remove(heap, used->behind, behind_size);
        moat_block_erase(used->behind);
    }
    size = is_free_behind ? wanted : available;
    if (is_free_behind)
        moat_bin_insert(heap, p + wanted, available - wanted, used->extent);
    moat_block_set_meta(heap->key, p, size | (used->meta & MOAT_BLOCK_BEFORE_FREE));
    moat_heap_count_used(heap, size);
}

/* Proves a used block and how far it reaches. */
static enum moat_rule proved(struct moat_heap *heap, uintptr_t p, struct moat_used *used, uintptr_t *reach) {
    enum moat_rule rule = moat_used_proved(heap, p, used);
    if (rule == MOAT_RULE_NONE)
        rule = moat_behind_proved(heap, used);
    return rule == MOAT_RULE_NONE ? moat_reach_proved(heap, p, used, reach) : rule;
}

bool moat_heap_resize(struct moat_heap *heap, void *block, size_t size_bytes) {
    uintptr_t p = (uintptr_t)block;
    struct moat_used used;
    uintptr_t reach = 0;
    if (p == 0 || size_bytes > MOAT_BLOCK_REQUEST_MAX)
        return false;
    enum moat_rule rule = proved(heap, p, &used, &reach);
    if (rule != MOAT_RULE_NONE) {
        moat_heap_note(heap, rule, p);
        return false;
    }
    uintptr_t wanted = moat_block_size_for(size_bytes);
    if (wanted > reach)
        return false;
    set_size(heap, p, &used, wanted, reach);
    return true;
}

/* Moves a used block down into the free one in front of it and gives it the wanted size; what is left behind it is
 * free. Everything is proved, and there is room from `front` for `available` bytes. */
static void move_back(struct moat_heap *heap, uintptr_t front, uintptr_t p, const struct moat_used *used,
                      uintptr_t wanted, uintptr_t available) {
    uintptr_t size = moat_used_size(used);
    uintptr_t far_behind = front + available;
    bool was_free_behind = used->behind != far_behind;
    bool is_free_behind = available - wanted >= MOAT_BLOCK_MIN;
    moat_bin_remove(heap, front, p - front);
    if (was_free_behind) {
        moat_bin_remove(heap, used->behind, far_behind - used->behind);
        moat_block_erase(used->behind);
    }
    if (was_free_behind != is_free_behind)
        moat_block_tell(heap, far_behind, moat_block_meta(heap->key, far_behind), is_free_behind);
    moat_block_erase(p); /* before the bytes move, for they may come to lie there */
    memmove((void *)front, (const void *)p, size - MOAT_BLOCK_OVERHEAD);
    heap->used_bytes -= size - MOAT_BLOCK_OVERHEAD;
    heap->used_count--;
    size = is_free_behind ? wanted : available;
    if (is_free_behind)
        moat_bin_insert(heap, front + wanted, available - wanted, used->extent);
    moat_block_set_meta(heap->key, front, size);
    moat_heap_count_used(heap, size);
}

static void *move_elsewhere(struct moat_heap *heap, void *block, size_t bytes, size_t size_bytes) {
    void *moved = moat_heap_alloc(heap, size_bytes);
    if (moved == NULL)
        return NULL;
    memcpy(moved, block, bytes);
    (void)moat_heap_free(heap,
                         block); /* refused when a neighbour is damaged: then the old block is lost, the new one good */
    return moved;
}

void *moat_heap_realloc(struct moat_heap *heap, void *block, size_t size_bytes) {
    uintptr_t p = (uintptr_t)block;
    struct moat_used used;
    uintptr_t reach = 0;
    uintptr_t before = 0;
    if (p == 0)
        return moat_heap_alloc(heap, size_bytes);
    enum moat_rule rule = proved(heap, p, &used, &reach);
    if (rule == MOAT_RULE_NONE)
        rule = moat_front_proved(heap, p, &used, &before);
    if (rule != MOAT_RULE_NONE) {
        moat_heap_note(heap, rule, p);
        return NULL;
    }
    if (size_bytes > MOAT_BLOCK_REQUEST_MAX) {
        heap->failure_count++;
        return NULL;
    }
    uintptr_t wanted = moat_block_size_for(size_bytes);
    if (wanted <= reach) {
        set_size(heap, p, &used, wanted, reach);
        return block;
    }
    if (wanted <= before + reach) {
        move_back(heap, p - before, p, &used, wanted, before + reach);
        return (void *)(p - before);
    }
    return move_elsewhere(heap, block, moat_used_size(&used) - MOAT_BLOCK_OVERHEAD, size_bytes);
}
