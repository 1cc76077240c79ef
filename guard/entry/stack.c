/* The calling thread's stack as a depot id. May include: process.h and the port's unwinder. */
#include "guard/entry/process.h"
#include "guard/port/linux/unwind.h"

_Static_assert(sizeof((struct moat_thread *)0)->frames / sizeof(uintptr_t) == MOAT_STACK_FRAMES_MAX + MOAT_UNWIND_SLACK,
               "a thread's frame buffer has the room that the unwinder asks for");

uint32_t moat_stack_intern(const uintptr_t *frames, size_t count, bool complete) {
    uint32_t id = 0;
    for (size_t i = count; i-- > 0;) {
        id = moat_depot_push(&moat_process.depot, id, frames[i], !complete && i + 1 == count);
    }
    return id;
}

/* As intern, by way of the thread's latest stack. */
static uint32_t intern_cached(struct moat_thread *self, size_t count, bool complete) {
    size_t same = 0;
    uint32_t id = 0;
    while (same < count && same < self->cached_count && self->cached_pc[same] == self->frames[count - 1 - same]) {
        id = self->cached_id[same++];
    }
    for (size_t depth = same; depth < count; depth++) {
        uintptr_t pc = self->frames[count - 1 - depth];
        id = moat_depot_push(&moat_process.depot, id, pc, !complete && depth == 0);
        self->cached_pc[depth] = pc;
        self->cached_id[depth] = id;
        if (id == 0) {
            self->cached_count = 0; /* the depot is full */
            return 0;
        }
    }
    self->cached_count = (unsigned)count;
    return id;
}

uint32_t moat_stack_capture(struct moat_thread *self, uintptr_t caller) {
    if (!moat_process.options.stacks || self == &moat_process.spare ||
        atomic_load_explicit(&moat_process.stage, memory_order_relaxed) < MOAT_STAGE_RUNNING) {
        return 0; /* before the constructor, static programs cannot even tell their modules */
    }
    struct moat_unwind_frame here;
    if (self->shielded != 0 || !moat_unwind_enter(&here)) {
        return moat_stack_intern(&caller, 1, false); /* from the unwinder itself, or a signal that interrupted it */
    }
    bool complete = false;
    size_t most = moat_process.options.stack_frames;
    size_t count = moat_unwind_capture_next(&self->walk, self->frames, most, caller, &complete);
    uint32_t id = intern_cached(self, count, complete);
    moat_unwind_leave(&here);
    return id;
}
