/* The calling thread's stack as a depot id. May include: process.h and the port's unwinder. */
#include "guard/entry/process.h"
#include "guard/port/linux/unwind.h"

_Static_assert(MOAT_STACK_FRAMES_MAX <= MOAT_UNWIND_FRAMES_MAX, "no more frames are asked for than a walk gives");

/* Where a stack is deeper than asked for, the frames that are left out are a multiple of this many, or of one when few are asked for:
 * then calls a little further in or out share their outer nodes instead of each having a chain of its own. */
#define MOAT_STACK_STRIDE 64u

uint32_t moat_stack_intern(const uintptr_t *frames, size_t count, bool complete) {
    uint32_t id = 0;
    for (size_t i = count; i-- > 0;) {
        id = moat_depot_push(&moat_process.depot, id, frames[i], !complete && i + 1 == count);
    }
    return id;
}

/* The index of the outermost frame that is kept. */
static unsigned first_kept(unsigned count, unsigned most) {
    if (count <= most) {
        return 0;
    }
    unsigned stride = most < 2 * MOAT_STACK_STRIDE ? 1 : MOAT_STACK_STRIDE;
    return (count - most + stride - 1) / stride * stride;
}

/* The depot id of the stack that was just walked. Nodes of frames that are as they were need no look-up. */
static uint32_t intern_walked(struct moat_thread *self, unsigned most) {
    const struct moat_walk_memory *walk = &self->walk;
    const unsigned first = first_kept(walk->count, most);
    unsigned known = first;
    if (first == self->ids_first && walk->walks == self->ids_walk + 1) {
        known = walk->kept < self->ids_end ? walk->kept : self->ids_end;
        known = known > first ? known : first;
    }
    uint32_t id = known > first ? self->ids[known - 1] : 0;
    self->ids_end = known;
    for (unsigned i = known; i < walk->count; i++) {
        bool incomplete = i == first && (first != 0 || !walk->complete);
        id = moat_depot_push(&moat_process.depot, id, walk->frames[i].pc, incomplete);
        if (id == 0) {
            break; /* the depot is full */
        }
        self->ids[i] = id;
        self->ids_end = i + 1;
    }
    self->ids_first = first;
    self->ids_walk = walk->walks;
    return id;
}

uint32_t moat_stack_capture(struct moat_thread *self, uintptr_t caller) {
    if (!moat_process.options.stacks || self == &moat_process.spare ||
        atomic_load_explicit(&moat_process.stage, memory_order_relaxed) < MOAT_STAGE_RUNNING) {
        return 0; /* before the constructor, static programs cannot even tell their modules */
    }
    const struct moat_walk_registers *registers = (const struct moat_walk_registers *)caller;
    struct moat_unwind_frame here;
    if (self->shielded != 0 || registers->sp == 0 || !moat_unwind_enter(&here)) {
        /* from the unwinder itself, or a signal that interrupted it; or the rest is gone */
        return moat_stack_intern(&registers->pc, 1, false);
    }
    unsigned most = (unsigned)moat_process.options.stack_frames;
    moat_unwind_capture_next(&self->walk, registers, most);
    uint32_t id = intern_walked(self, most);
    moat_unwind_leave(&here);
    return id;
}
