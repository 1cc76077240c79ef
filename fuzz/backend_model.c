/* The model of any backend: see backend_model.h.
 * May include: backend_model.h, string.h. Works on what public headers say, never on a backend's insides. */
#include "fuzz/backend_model.h"

#include <string.h>

#define UNIT (2 * sizeof(uintptr_t)) /* what every backend's blocks are aligned to */
#define CHECK_EVERY 32u

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

/* Mostly small, sometimes a good part of the memory, now and then more than all of it. */
static size_t next_size(struct stream *stream) {
    uint32_t low = next_byte(stream);
    uint32_t kind = next_byte(stream);
    if (kind < 160)
        return low / 2;
    if (kind < 250)
        return low * 3 + kind % 3;
    return (size_t)low * 400;
}

static struct moat_backend_model_block *next_block(struct moat_backend_model *model, struct stream *stream) {
    return &model->blocks[(next_byte(stream) | next_byte(stream) << 8) % MOAT_BACKEND_MODEL_BLOCKS];
}

static bool fail(struct moat_backend_model *model, const char *what) {
    if (model->failure == NULL)
        model->failure = what;
    return false;
}

/* ---- the map ----------------------------------------------------------------------------------------------------- */

/* Gives bytes from one owner to another; false when one of them was not the former owner's, or outside. */
static bool hand_over(struct moat_backend_model *model, const unsigned char *start, size_t bytes, bool to_used) {
    size_t offset = (size_t)((uintptr_t)start - (uintptr_t)model->traits.memory);
    if (offset >= model->traits.memory_bytes || bytes > model->traits.memory_bytes - offset)
        return false;
    for (size_t i = offset; i < offset + bytes; i++) {
        if (model->owner[i] == to_used)
            return false;
        model->owner[i] = to_used;
    }
    return true;
}

static unsigned char pattern(uint32_t seed, size_t i) { return (unsigned char)(seed * 151u + i * 7u + (i >> 8)); }

static bool intact(const struct moat_backend_model_block *block, size_t bytes) {
    for (size_t i = 0; i < bytes; i++) {
        if (block->start[i] != pattern(block->seed, i))
            return false;
    }
    return true;
}

/* ---- checks ------------------------------------------------------------------------------------------------------ */

struct seen {
    struct moat_backend_model *model;
    uintptr_t last_end;
    size_t used_count;
    bool wrong;
};

static bool see(void *argument, const struct moat_backend_block *block) {
    struct seen *seen = argument;
    struct moat_backend_model *model = seen->model;
    uintptr_t start = (uintptr_t)block->start;
    size_t offset = (size_t)(start - (uintptr_t)model->traits.memory);
    /* Chunks are shown newest first, so order holds within a chunk only, and not at all here for arenas. */
    seen->wrong = seen->wrong || (model->traits.arena == NULL && start < seen->last_end) || start % UNIT != 0;
    seen->wrong =
        seen->wrong || offset >= model->traits.memory_bytes || block->size_bytes > model->traits.memory_bytes - offset;
    /* All of a used block is used as the map knows it, all of a free one free. */
    for (size_t i = 0; !seen->wrong && i < block->size_bytes; i++)
        seen->wrong = model->owner[offset + i] != block->used;
    seen->last_end = start + block->size_bytes;
    seen->used_count += block->used;
    return !seen->wrong;
}

static bool check_all(struct moat_backend_model *model) {
    const struct moat_backend_traits *traits = &model->traits;
    struct moat_fault fault;
    struct seen seen = {model, 0, 0, false};
    if (!traits->verify(traits->context, &fault))
        return fail(model, fault.rule);
    if (traits->backend->fault(traits->context, &fault))
        return fail(model, fault.rule);
    if (traits->knows_sizes && (!traits->backend->walk(traits->context, see, &seen) || seen.wrong))
        return fail(model, "the walk shows what is not so");
    if (traits->knows_sizes && seen.used_count != model->used_count)
        return fail(model, "the walk's used blocks are not those handed out");
    for (size_t i = 0; i < MOAT_BACKEND_MODEL_BLOCKS; i++) {
        const struct moat_backend_model_block *block = &model->blocks[i];
        if (block->start != NULL && !intact(block, block->usable_bytes))
            return fail(model, "a block's contents have changed");
        if (block->start != NULL && traits->knows_sizes &&
            traits->backend->usable(traits->context, block->start) != block->usable_bytes)
            return fail(model, "a block's usable size has changed by itself");
    }
    return true;
}

/* Takes note of a block's place, size and new contents. */
static bool settle(struct moat_backend_model *model, struct moat_backend_model_block *block) {
    const struct moat_backend_traits *traits = &model->traits;
    size_t least = block->size_bytes == 0 ? 1 : block->size_bytes;
    block->usable_bytes = traits->backend->usable(traits->context, block->start);
    bool is_fixed = traits->block_bytes != 0;
    if (block->usable_bytes < least || (is_fixed && block->usable_bytes != traits->block_bytes))
        return fail(model, "a usable size is too small");
    if (!is_fixed && block->usable_bytes > least + traits->slack_bytes_max)
        return fail(model, "a usable size is too large");
    if ((uintptr_t)block->start % UNIT != 0)
        return fail(model, "a block is not aligned");
    if (!hand_over(model, block->start, block->usable_bytes, true))
        return fail(model, "a block overlaps another one, or reaches out of the memory");
    block->seed = ++model->next_seed;
    for (size_t i = 0; i < block->usable_bytes; i++)
        block->start[i] = pattern(block->seed, i);
    return true;
}

static void forget(struct moat_backend_model *model, struct moat_backend_model_block *block) {
    (void)hand_over(model, block->start, block->usable_bytes, false);
    model->last_freed = block->start;
    model->used_count--;
    block->start = NULL;
}

/* ---- operations -------------------------------------------------------------------------------------------------- */

static bool do_alloc(struct moat_backend_model *model, struct stream *stream, bool aligned) {
    const struct moat_backend_traits *traits = &model->traits;
    struct moat_backend_model_block *block = next_block(model, stream);
    size_t size = next_size(stream);
    uint32_t shape = aligned ? next_byte(stream) : 0;
    size_t alignment = (size_t)1 << shape % 11;
    size_t lead = shape / 11 % 8 * UNIT;
    if (block->start != NULL || (size == 0 && traits->block_bytes == 0))
        return true; /* a backend is never asked for nothing */
    unsigned char *start = traits->backend->alloc(traits->context, size, alignment, lead);
    if (start == NULL) {
        bool possible = size <= traits->block_bytes && alignment <= UNIT && traits->block_count > model->used_count;
        return !possible || fail(model, "a pool with a free block refuses");
    }
    if (((uintptr_t)start + lead) % alignment != 0)
        return fail(model, "a block's lead does not end aligned");
    *block = (struct moat_backend_model_block){.start = start, .size_bytes = size, .born = model->operations};
    model->used_count++;
    return settle(model, block);
}

static bool do_free(struct moat_backend_model *model, struct moat_backend_model_block *block) {
    const struct moat_backend_traits *traits = &model->traits;
    struct moat_fault fault;
    if (block->start == NULL)
        return true;
    if (!intact(block, block->usable_bytes))
        return fail(model, "a block's contents have changed");
    bool freed = traits->backend->free(traits->context, block->start);
    if (traits->arena != NULL) {
        bool refused =
            !freed && traits->backend->fault(traits->context, &fault) && fault.block == (uintptr_t)block->start;
        model->refusals++;
        return refused || fail(model, "an arena's block is freed singly");
    }
    if (!freed)
        return fail(model, "a block is refused");
    forget(model, block);
    return true;
}

static bool do_resize(struct moat_backend_model *model, struct stream *stream) {
    const struct moat_backend_traits *traits = &model->traits;
    struct moat_backend_model_block *block = next_block(model, stream);
    size_t size = next_size(stream);
    if (block->start == NULL)
        return true;
    struct moat_backend_model_block before = *block;
    if (!traits->backend->resize(traits->context, block->start, size))
        return size > before.usable_bytes || !traits->knows_sizes || fail(model, "shrinking is refused");
    if (!intact(block, size < before.usable_bytes ? size : before.usable_bytes))
        return fail(model, "resizing has changed a block's contents");
    (void)hand_over(model, before.start, before.usable_bytes, false);
    block->size_bytes = size;
    size_t usable = traits->backend->usable(traits->context, block->start);
    if (traits->arena != NULL && usable == before.usable_bytes)
        block->size_bytes = before.size_bytes < size ? size : before.size_bytes; /* it may stay as large as it was */
    return settle(model, block);
}

static bool do_realloc(struct moat_backend_model *model, struct stream *stream) {
    const struct moat_backend_traits *traits = &model->traits;
    struct moat_backend_model_block *block = next_block(model, stream);
    size_t size = next_size(stream);
    if (block->start == NULL || traits->realloc == NULL)
        return true;
    unsigned char *moved = traits->realloc(traits->context, block->start, size);
    if (moved == NULL)
        return size > block->usable_bytes || fail(model, "shrinking is refused");
    size_t old_usable = block->usable_bytes;
    unsigned char *old = block->start;
    block->start = moved;
    if (!intact(block, size < old_usable ? size : old_usable))
        return fail(model, "realloc has lost a block's contents");
    (void)hand_over(model, old, old_usable, false);
    model->last_freed = old;
    block->size_bytes = size;
    return settle(model, block);
}

/* Frees what is no block's start: into a block, freed before, outside. All must be refused with a fault that names the
 * pointer. */
static bool do_misuse(struct moat_backend_model *model, struct stream *stream) {
    const struct moat_backend_traits *traits = &model->traits;
    const struct moat_backend_model_block *block = next_block(model, stream);
    uint32_t kind = next_byte(stream);
    struct moat_fault fault;
    unsigned char *wrong = model->last_freed;
    if (kind % 4 == 0)
        wrong = traits->memory + traits->memory_bytes + kind / 4 * UNIT;
    else if (kind % 4 != 1)
        wrong = block->start != NULL ? block->start + 1 + (kind / 4) % block->usable_bytes : NULL;
    for (size_t i = 0; i < MOAT_BACKEND_MODEL_BLOCKS; i++) {
        if (model->blocks[i].start == wrong)
            return true; /* none that is one, and not NULL */
    }
    if (!traits->proves || wrong == NULL)
        return true;
    if (traits->backend->free(traits->context, wrong))
        return fail(model, "a pointer to no block is freed");
    if (!traits->backend->fault(traits->context, &fault) || fault.block != (uintptr_t)wrong)
        return fail(model, "a refused pointer is not named");
    model->refusals++;
    return true;
}

/* ---- marks ------------------------------------------------------------------------------------------------------- */

struct ranges {
    struct moat_backend_model *model;
    size_t bytes; /* of blocks that lie in one of them */
    uint64_t born;
    bool wrong;
};

/* A range holds blocks made since the mark only; each of them whole. */
static bool see_range(void *argument, void *start, size_t size_bytes) {
    struct ranges *ranges = argument;
    uintptr_t low = (uintptr_t)start;
    for (size_t i = 0; i < MOAT_BACKEND_MODEL_BLOCKS; i++) {
        const struct moat_backend_model_block *block = &ranges->model->blocks[i];
        uintptr_t at = (uintptr_t)block->start;
        if (at == 0 || at - low >= size_bytes)
            continue;
        ranges->wrong = ranges->wrong || block->born < ranges->born || block->usable_bytes > low + size_bytes - at;
        ranges->bytes += block->usable_bytes;
    }
    return true;
}

static bool rewind_to(struct moat_backend_model *model, struct moat_arena_mark mark, uint64_t born, bool reset) {
    struct moat_arena *arena = model->traits.arena;
    struct ranges ranges = {model, 0, born, false};
    size_t bytes = 0;
    if (!moat_arena_each_range_after(arena, mark, see_range, &ranges) || ranges.wrong)
        return fail(model, "the ranges of a rewind are not its blocks'");
    if (reset ? !moat_arena_reset(arena) : !moat_arena_rewind(arena, mark))
        return fail(model, "a rewind is refused");
    for (size_t i = 0; i < MOAT_BACKEND_MODEL_BLOCKS; i++) {
        struct moat_backend_model_block *block = &model->blocks[i];
        if (block->start == NULL || block->born < born)
            continue;
        bytes += block->usable_bytes;
        forget(model, block);
    }
    return bytes == ranges.bytes || fail(model, "a rewind takes back more than its ranges");
}

static bool do_mark(struct moat_backend_model *model, struct stream *stream) {
    uint32_t kind = next_byte(stream);
    if (model->traits.arena == NULL)
        return true;
    if (kind % 32 == 0) {
        model->mark_count = 0;
        return rewind_to(model, moat_arena_mark_start(), 0, true);
    }
    if (kind % 2 == 0 && model->mark_count < MOAT_BACKEND_MODEL_MARKS) {
        model->marks[model->mark_count] = moat_arena_mark(model->traits.arena);
        model->mark_born[model->mark_count++] = model->operations;
        return true;
    }
    if (model->mark_count == 0)
        return true;
    size_t which = kind / 4 % model->mark_count;
    model->mark_count = which + kind / 2 % 2; /* sometimes it is used again */
    return rewind_to(model, model->marks[which], model->mark_born[which], false);
}

/* ---- running ----------------------------------------------------------------------------------------------------- */

static bool step(struct moat_backend_model *model, struct stream *stream) {
    uint32_t operation = next_byte(stream) % 64;
    model->operations++;
    if (operation < 24)
        return do_alloc(model, stream, false);
    if (operation < 30)
        return do_alloc(model, stream, true);
    if (operation < 50)
        return do_free(model, next_block(model, stream));
    if (operation < 54)
        return do_resize(model, stream);
    if (operation < 58)
        return do_realloc(model, stream);
    if (operation < 61)
        return do_misuse(model, stream);
    if (operation < 63)
        return do_mark(model, stream);
    return check_all(model);
}

static bool finish(struct moat_backend_model *model) {
    const struct moat_backend_traits *traits = &model->traits;
    if (!check_all(model))
        return false;
    for (size_t i = 0; traits->arena == NULL && i < MOAT_BACKEND_MODEL_BLOCKS; i++) {
        if (!do_free(model, &model->blocks[i]))
            return false;
    }
    if (traits->arena != NULL && !rewind_to(model, moat_arena_mark_start(), 0, true))
        return false;
    return check_all(model) && (traits->is_empty(traits->context) || fail(model, "something is left"));
}

void moat_backend_model_init(struct moat_backend_model *model, const struct moat_backend_traits *traits,
                             unsigned char *owner) {
    memset(model, 0, sizeof *model);
    memset(owner, 0, traits->memory_bytes);
    model->traits = *traits;
    model->owner = owner;
}

const char *moat_backend_model_run(struct moat_backend_model *model, const uint8_t *stream, size_t length_bytes) {
    struct stream rest = {stream, length_bytes};
    while (model->failure == NULL && rest.left > 0) {
        if (step(model, &rest) && model->operations % CHECK_EVERY == 0)
            (void)check_all(model);
    }
    if (model->failure == NULL)
        (void)finish(model);
    return model->failure;
}
