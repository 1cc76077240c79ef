/* Stacks: who called, as return addresses, from inside malloc or from a fault's registers.
 * May include: walk.h and the C library's freestanding headers only. */
#ifndef MOAT_PORT_UNWIND_H
#define MOAT_PORT_UNWIND_H

#include "guard/port/linux/walk.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Entries a frame buffer needs beyond the frames wanted: room for Moat's own frames, which are cut off again. */
#define MOAT_UNWIND_SLACK 16
/* The most frames that can be wanted. */
#define MOAT_UNWIND_FRAMES_MAX 256

/* Finds an unwinder: libunwind when it is installed, else libgcc's, else none (a stack is then its caller alone).
 * Takes:   nothing. Call it once, from the constructor, without a lock held: it runs the loader, which allocates.
 * Fails:   silently: fewer frames.
 * Context: not from a handler. May be left out: captures then give the caller's frame only. */
void moat_unwind_init(void);

/* The same without libunwind, for where moat_walk follows nearly every stack and libgcc's unwinder can do the rest.
 * libunwind checks addresses through a pipe: two descriptors that a program did not open, read from even after the program
 * reused them. */
void moat_unwind_init_own(void);

/* No unwinder but the own one is asked any more. At the very end of a static program libgcc frees what it keeps of tables, and
 * asked for the stack of that free it would wait for a lock that it holds. */
void moat_unwind_end(void);

/* Before the C library is ready nothing can be loaded; own rules and what the program brings itself, libgcc's unwinder,
 * will do until then. When it is the first thing a process does, it knows for good which modules stay. */
void moat_unwind_init_early(void);

/* Captures the calling thread's stack by a loaded unwinder, which knows every form of frame.
 * Takes:   frames: room for most + MOAT_UNWIND_SLACK entries; most >= 1; caller_pc: the return address of the entry
 *          point (`__builtin_return_address(0)` there): Moat's own frames inside of it are left out.
 * Gives:   the number of frames, 1 to most, innermost first, frames[0] == caller_pc. *complete tells whether the last
 * is the stack's outermost frame. Fails:   never: what cannot be followed is missing, and *complete false. From a
 * signal that interrupted a capture, or from an allocation the unwinder itself makes, the caller's frame is all there
 * is. Cost:    about 10 ns a frame with libunwind; under 4 KiB of stack. Context: any thread, no lock of Moat's held
 * (the unwinder may take the loader's lock, and the loader calls malloc under it). errno is kept. Safe to enter again
 * from a signal handler. */
size_t moat_unwind_capture(uintptr_t *frames, size_t most, uintptr_t caller_pc, bool *complete);

/* A capture under way, on its own stack frame. A signal handler that allocates meanwhile must not enter as well; one that leaves by
 * longjmp leaves no trace. */
struct moat_unwind_frame {
    volatile uintptr_t mark; /* its own address and a constant while it runs */
};
bool moat_unwind_enter(struct moat_unwind_frame *here);
void moat_unwind_leave(struct moat_unwind_frame *here);

/* Captures the calling thread's stack between enter and leave, by own rules, and walks only as far as it differs from the
 * thread's latest one. What these rules do not cover is left to a loaded unwinder.
 * Takes:   the thread's memory; the registers to begin with, MOAT_WALK_CALLER's in the entry point; most: 1 to MOAT_UNWIND_FRAMES_MAX frames wanted.
 * Gives:   the stack in memory->frames, outermost first, at least the caller's frame. Of frames further out than `most`
 *          nothing is proved.
 * Context: any thread, no lock of Moat's held. errno is kept. */
void moat_unwind_capture_next(struct moat_walk_memory *memory, const struct moat_walk_registers *caller, size_t most);

/* The stack of what a signal interrupted.
 * Takes:   ucontext, the third argument of a handler set with SA_SIGINFO; frames with room for most +
 * MOAT_UNWIND_SLACK. Gives:   the number of frames, at least 1 if the registers can be read: frames[0] is the exact
 * address of the interrupted instruction, the others are return addresses. Context: signal handler, on the interrupted
 * thread. errno is kept. */
size_t moat_unwind_from_context(void *ucontext, uintptr_t *frames, size_t most);

/* Which unwinder `init` found: "libunwind", "libgcc" or "none". Static text. */
const char *moat_unwind_kind(void);

#endif
