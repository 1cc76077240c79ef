/* The heap's model: see heap_model.h.
 * May include: heap_model.h, string.h. Works on what the public header says, never on the heap's insides. */
#include "fuzz/heap_model.h"

#include <string.h>

#define UNIT MOAT_HEAP_ALIGNMENT_BYTES
#define CHECK_EVERY 64u
#define DRAW_COLUMNS 96u

enum owner { OWNER_NONE, OWNER_FREE, OWNER_USED, OWNER_CONTROL };

/* ---- the stream ---------------------------------------------------------------------------------------------------- */

struct stream {
    const uint8_t *at;
    size_t left;
};

static uint32_t next_byte(struct stream *stream) {
    if (stream->left == 0)
        return 0;
    stream->left--;
    return *stream->at++;
}

/* Mostly small, now and then a large part of a slot or more than all. */
static size_t next_size(struct stream *stream) {
    uint32_t low = next_byte(stream);
    uint32_t kind = next_byte(stream);
    if (kind < 128)
        return low / 4;
    if (kind < 224)
        return low * 2 + kind % 2;
    return (size_t)low * (kind - 220);
}

static struct moat_model_block *next_block(struct moat_model *model, struct stream *stream) {
    return &model->blocks[(next_byte(stream) | next_byte(stream) << 8) % MOAT_MODEL_BLOCKS];
}

/* ---- the map ------------------------------------------------------------------------------------------------------- */

static bool fail(struct moat_model *model, const char *what) {
    if (model->failure == NULL)
        model->failure = what;
    return false;
}

/* Gives units from one owner to another; false when one of them was not the former owner's. */
static bool hand_over(struct moat_model *model, const unsigned char *start, size_t bytes, enum owner from,
                      enum owner to) {
    size_t first = (size_t)(start - model->memory) / UNIT;
    size_t last = ((size_t)(start - model->memory) + bytes + UNIT - 1) / UNIT;
    for (size_t i = first; i < last; i++) {
        if (model->owner[i] != from)
            return false;
        model->owner[i] = (unsigned char)to;
    }
    return true;
}

static unsigned char pattern(uint32_t seed, size_t i) { return (unsigned char)(seed * 151u + i * 7u + (i >> 8)); }

static void fill(const struct moat_model_block *block) {
    for (size_t i = 0; i < block->usable_bytes; i++)
        block->start[i] = pattern(block->seed, i);
}

static bool intact(const struct moat_model_block *block, size_t bytes) {
    for (size_t i = 0; i < bytes; i++) {
        if (block->start[i] != pattern(block->seed, i))
            return false;
    }
    return true;
}

static bool is_inside(const struct moat_model *model, const unsigned char *start, size_t bytes) {
    uintptr_t offset = (uintptr_t)start - (uintptr_t)model->memory;
    size_t all = MOAT_MODEL_SLOTS * model->slot_bytes;
    return offset < all && bytes <= all - offset;
}

/* ---- the largest free block, as the walk shows it ------------------------------------------------------------------- */

struct seen {
    struct moat_model *model;
    uintptr_t last_end;
    size_t used_count, used_bytes, free_count, free_bytes, largest_free;
    bool wrong, last_free;
};

static bool see(void *argument, const struct moat_backend_block *block) {
    struct seen *seen = argument;
    uintptr_t start = (uintptr_t)block->start;
    seen->wrong = seen->wrong || start < seen->last_end || start % UNIT != 0 ||
                  !is_inside(seen->model, block->start, block->size_bytes);
    /* Two free blocks that touch should be one. */
    seen->wrong =
        seen->wrong || (!block->used && seen->last_free && start - MOAT_HEAP_OVERHEAD_BYTES == seen->last_end);
    seen->last_end = start + block->size_bytes;
    seen->last_free = !block->used;
    if (block->used) {
        seen->used_count++;
        seen->used_bytes += block->size_bytes;
        return true;
    }
    seen->free_count++;
    seen->free_bytes += block->size_bytes;
    if (block->size_bytes > seen->largest_free)
        seen->largest_free = block->size_bytes;
    return true;
}

/* What runs of slots offer to blocks, overheads included. */
static size_t offered_bytes(const struct moat_model *model, size_t *run_count) {
    size_t bytes = 0;
    *run_count = 0;
    for (size_t i = 0; i < MOAT_MODEL_SLOTS; i++) {
        if (!model->present[i])
            continue;
        bytes += model->slot_bytes;
        if (i == 0 || !model->present[i - 1]) {
            bytes -= MOAT_HEAP_BLOCK_BYTES_MIN; /* a region's record and its end */
            ++*run_count;
        }
    }
    return bytes - model->control_bytes;
}

static bool check_all(struct moat_model *model) {
    struct moat_fault fault;
    struct seen seen = {.model = model};
    struct moat_heap_statistics said;
    size_t runs = 0;
    size_t offered = offered_bytes(model, &runs);
    if (!moat_heap_verify(model->heap, &fault))
        return fail(model, fault.rule);
    if (moat_heap_take_fault(model->heap, &fault))
        return fail(model, fault.rule);
    if (!moat_heap_walk(model->heap, see, &seen) || seen.wrong)
        return fail(model, "the walk shows a block out of order or place, or two free ones that touch");
    if (seen.used_count != model->used_count || seen.used_bytes != model->used_bytes)
        return fail(model, "the walk's used blocks are not those handed out");
    size_t overheads = (seen.used_count + seen.free_count) * MOAT_HEAP_OVERHEAD_BYTES;
    if (seen.used_bytes + seen.free_bytes + overheads != offered)
        return fail(model, "memory was lost or won");
    moat_heap_statistics(model->heap, &said);
    bool exact = said.used_bytes == model->used_bytes && said.used_count == model->used_count &&
                 said.used_bytes_peak == model->peak_bytes && said.free_bytes == seen.free_bytes &&
                 said.free_count == seen.free_count && said.free_bytes_largest == seen.largest_free &&
                 said.allocation_count == model->allocation_count && said.failure_count == model->failure_count &&
                 said.region_count == runs;
    return exact || fail(model, "the statistics are not exact");
}

/* ---- operations ---------------------------------------------------------------------------------------------------- */

static void note_used(struct moat_model *model, size_t bytes) {
    model->used_bytes += bytes;
    if (model->used_bytes > model->peak_bytes)
        model->peak_bytes = model->used_bytes;
}

static bool check_refusal(struct moat_model *model, size_t size, size_t alignment) {
    struct seen seen = {.model = model};
    model->failure_count++;
    (void)moat_heap_walk(model->heap, see, &seen);
    size_t margin = alignment > UNIT ? alignment + 2 * MOAT_HEAP_BLOCK_BYTES_MIN : 0;
    if (seen.largest_free >= 2 * (size + margin + MOAT_HEAP_BLOCK_BYTES_MIN))
        return fail(model, "refused although a free block has twice the size");
    return true;
}

static bool check_size(struct moat_model *model, struct moat_model_block *block) {
    size_t least = block->size_bytes == 0 ? 1 : block->size_bytes;
    block->usable_bytes = moat_heap_usable(model->heap, block->start);
    if (block->usable_bytes < least || block->usable_bytes > least + MOAT_HEAP_SLACK_BYTES_MAX)
        return fail(model, "a usable size is out of bounds");
    if (!is_inside(model, block->start, block->usable_bytes))
        return fail(model, "a block reaches out of the memory");
    if (!hand_over(model, block->start, block->usable_bytes, OWNER_FREE, OWNER_USED))
        return fail(model, "a block overlaps another one, or memory that is not the heap's");
    note_used(model, block->usable_bytes);
    block->seed = ++model->next_seed;
    fill(block);
    return true;
}

static bool do_alloc(struct moat_model *model, struct stream *stream, bool aligned) {
    struct moat_model_block *block = next_block(model, stream);
    size_t size = next_size(stream);
    uint32_t shape = aligned ? next_byte(stream) : 0;
    size_t alignment = (size_t)1 << shape % 13;
    size_t lead = aligned ? shape / 13 % 8 * UNIT : 0;
    if (block->start != NULL)
        return true;
    unsigned char *start =
        aligned ? moat_heap_alloc_aligned(model->heap, size, alignment, lead) : moat_heap_alloc(model->heap, size);
    if (start == NULL)
        return check_refusal(model, size, alignment);
    if ((uintptr_t)start % UNIT != 0 || ((uintptr_t)start + lead) % alignment != 0)
        return fail(model, "a block is not aligned");
    *block = (struct moat_model_block){.start = start, .size_bytes = size};
    model->used_count++;
    model->allocation_count++;
    return check_size(model, block);
}

static bool do_free(struct moat_model *model, struct moat_model_block *block) {
    if (block->start == NULL)
        return true;
    if (moat_heap_usable(model->heap, block->start) != block->usable_bytes)
        return fail(model, "a block's usable size has changed by itself");
    if (!intact(block, block->usable_bytes))
        return fail(model, "a block's contents have changed");
    if (!moat_heap_free(model->heap, block->start))
        return fail(model, "a block is refused");
    (void)hand_over(model, block->start, block->usable_bytes, OWNER_USED, OWNER_FREE);
    model->used_count--;
    model->used_bytes -= block->usable_bytes;
    block->start = NULL;
    return true;
}

static bool do_resize(struct moat_model *model, struct stream *stream) {
    struct moat_model_block *block = next_block(model, stream);
    size_t size = next_size(stream);
    if (block->start == NULL)
        return true;
    bool done = moat_heap_resize(model->heap, block->start, size);
    if (!done) {
        if (size <= block->usable_bytes)
            return fail(model, "shrinking is refused");
        return moat_heap_usable(model->heap, block->start) == block->usable_bytes ||
               fail(model, "a refused resize has changed the block");
    }
    if (!intact(block, size < block->usable_bytes ? size : block->usable_bytes))
        return fail(model, "resizing has changed a block's contents");
    (void)hand_over(model, block->start, block->usable_bytes, OWNER_USED, OWNER_FREE);
    model->used_bytes -= block->usable_bytes;
    block->size_bytes = size;
    return check_size(model, block);
}

static size_t run_start(const struct moat_model *model, size_t slot) {
    while (slot > 0 && model->present[slot - 1])
        slot--;
    return slot;
}

static bool set_present(struct moat_model *model, size_t slot, bool present) {
    unsigned char *start = model->memory + slot * model->slot_bytes;
    enum owner from = present ? OWNER_NONE : OWNER_FREE;
    enum owner to = present ? OWNER_FREE : OWNER_NONE;
    model->present[slot] = present;
    return hand_over(model, start, model->slot_bytes, from, to);
}

static bool do_remove(struct moat_model *model, size_t slot) {
    size_t first = run_start(model, slot);
    size_t end = first;
    bool is_free = true;
    while (end < MOAT_MODEL_SLOTS && model->present[end]) {
        for (size_t i = 0; i < model->slot_bytes / UNIT; i++)
            is_free = is_free && model->owner[end * (model->slot_bytes / UNIT) + i] == OWNER_FREE;
        end++;
    }
    bool removed = moat_heap_remove_region(model->heap, model->memory + first * model->slot_bytes);
    if (removed != is_free)
        return fail(model, "a region in use was removed, or a free one was not");
    for (; removed && first < end; first++) {
        (void)set_present(model, first, false);
        memset(model->memory + first * model->slot_bytes, 0x6d, model->slot_bytes); /* nobody may rely on it any more */
    }
    return true;
}

static bool do_region(struct moat_model *model, struct stream *stream) {
    size_t slot = next_byte(stream) % MOAT_MODEL_SLOTS;
    if (model->present[slot])
        return do_remove(model, slot);
    if (!moat_heap_add_region(model->heap, model->memory + slot * model->slot_bytes, model->slot_bytes))
        return fail(model, "a region is refused");
    return set_present(model, slot, true);
}

static bool step(struct moat_model *model, struct stream *stream) {
    uint32_t operation = next_byte(stream) % 64;
    model->operations++;
    if (operation < 24)
        return do_alloc(model, stream, false);
    if (operation < 28)
        return do_alloc(model, stream, true);
    if (operation < 52)
        return do_free(model, next_block(model, stream));
    if (operation < 60)
        return do_resize(model, stream);
    if (operation < 63)
        return do_region(model, stream);
    return check_all(model);
}

/* Everything goes back: one free block is left in each run of slots, two where the control block lies between. */
static bool finish(struct moat_model *model) {
    for (size_t i = 0; i < MOAT_MODEL_BLOCKS; i++) {
        if (!do_free(model, &model->blocks[i]))
            return false;
    }
    size_t runs = 0;
    struct moat_heap_statistics said;
    (void)offered_bytes(model, &runs);
    moat_heap_statistics(model->heap, &said);
    size_t split = run_start(model, model->control_slot) != model->control_slot;
    if (said.free_count != runs + split)
        return fail(model, "free memory has not come together");
    for (size_t i = 0; i < MOAT_MODEL_SLOTS; i++) {
        if (model->present[i] && run_start(model, i) != run_start(model, model->control_slot) && !do_remove(model, i))
            return false;
    }
    moat_heap_statistics(model->heap, &said);
    if (said.region_count != 1 || said.used_bytes != 0)
        return fail(model, "regions are left");
    return check_all(model);
}

void moat_model_init(struct moat_model *model, void *memory, size_t slot_bytes, unsigned char *owner,
                     size_t first_slot) {
    memset(model, 0, sizeof *model);
    memset(owner, OWNER_NONE, MOAT_MODEL_SLOTS * slot_bytes / UNIT);
    memset(memory, 0x6d, MOAT_MODEL_SLOTS * slot_bytes);
    model->memory = memory;
    model->slot_bytes = slot_bytes;
    model->owner = owner;
    model->control_slot = first_slot % MOAT_MODEL_SLOTS;
    model->heap = moat_heap_create(model->memory + model->control_slot * slot_bytes, slot_bytes, NULL);
    if (model->heap == NULL) {
        (void)fail(model, "the heap cannot be made");
        return;
    }
    size_t control = moat_heap_control_bytes(slot_bytes, NULL);
    model->control_bytes = (control + MOAT_HEAP_OVERHEAD_BYTES + UNIT - 1) / UNIT * UNIT;
    (void)set_present(model, model->control_slot, true);
    if (!hand_over(model, (unsigned char *)model->heap, control, OWNER_FREE, OWNER_CONTROL))
        (void)fail(model, "the control block is not in its region");
}

const char *moat_model_run(struct moat_model *model, const uint8_t *stream, size_t length_bytes) {
    struct stream rest = {stream, length_bytes};
    while (model->failure == NULL && rest.left > 0) {
        if (step(model, &rest) && model->operations % CHECK_EVERY == 0)
            (void)check_all(model);
    }
    if (model->failure == NULL)
        (void)finish(model);
    return model->failure;
}

void moat_model_draw(const struct moat_model *model, void (*put)(const char *text)) {
    static const char signs[] = " .#C";
    size_t units = model->slot_bytes / UNIT;
    for (size_t slot = 0; slot < MOAT_MODEL_SLOTS; slot++) {
        char line[DRAW_COLUMNS + 4] = "|";
        for (size_t column = 0; column < DRAW_COLUMNS; column++) {
            unsigned char most = OWNER_NONE;
            for (size_t i = units * column / DRAW_COLUMNS; i < (units * column + units) / DRAW_COLUMNS; i++)
                most = model->owner[slot * units + i] > most ? model->owner[slot * units + i] : most;
            line[1 + column] = signs[most];
        }
        line[DRAW_COLUMNS + 1] = '|';
        line[DRAW_COLUMNS + 2] = '\n';
        put(line);
    }
}
