/* Stacks by own rules where they lead, else by whatever unwinder the system has.
 * May include: the port's headers, <dlfcn.h>, <link.h>, <sys/auxv.h>, <ucontext.h>.
 *
 * libunwind is loaded, never linked: linked, its _Unwind_ functions would take over the program's C++ exceptions. */
#define _GNU_SOURCE
#include "guard/port/linux/unwind.h"
#include "guard/port/linux/roots.h"
#include "guard/port/linux/rules.h"
#include "guard/port/linux/state.h"
#include "guard/port/linux/walk.h"

#include <dlfcn.h>
#include <link.h>
#include <signal.h>
#include <string.h>
#include <sys/auxv.h>
#include <ucontext.h>

/* libunwind's numbers for x86-64; its cursor is 127 words there, its context is the kernel's. On other processors the
 * cursor's size differs between releases with one library name, so that only its backtrace is used. */
enum { MOAT_CURSOR_WORDS = 256, MOAT_CURSOR_SIGNAL_FRAME = 1, MOAT_CURSOR_REGISTER_PC = 16 };
#ifdef __x86_64__
#define MOAT_CURSOR_PREFIX "_ULx86_64_"
#else
#define MOAT_CURSOR_PREFIX "_ULnot_used_"
#endif

/* About the size of the code at a program's entry point. */
enum { MOAT_ENTRY_BYTES = 64 };

/* libgcc's codes for "go on" and "normal stop" of a walk. */
enum { MOAT_WALK_ON = 0, MOAT_WALK_STOP = 4 };

static struct moat_unwind_state *const own = &moat_port_state.unwind;

/* Marks the frame of a running capture; anything that is not its own address will do. */
#define MOAT_UNWIND_MARK ((uintptr_t)0x6d6f6174)

/* This thread's running capture; NULL: none. */
static _Thread_local struct moat_unwind_frame *moat_unwind_running __attribute__((tls_model("initial-exec")));

/* ---- finding an unwinder --------------------------------------------------------------------------------------- */

/* Weak, so that a static program neither needs nor draws them in. libgcc's are declared as plainly as they are called,
 * which its own header's types are compatible with at the level of the machine. */
#pragma weak dlsym
#pragma weak _Unwind_Backtrace
#pragma weak _Unwind_GetIP
#pragma weak _Unwind_FindEnclosingFunction
extern int _Unwind_Backtrace(int (*frame)(void *unwinder, void *context), void *context);
extern uintptr_t _Unwind_GetIP(void *unwinder);
extern void *_Unwind_FindEnclosingFunction(void *pc);

/* dlsym gives an object pointer where a function is meant; POSIX guarantees that the bits are the same. */
static void moat_unwind_find(void *library, const char *name, void *function, size_t bytes) {
    void *found = dlsym(library, name);
    memcpy(function, &found, bytes);
}
#define MOAT_UNWIND_FIND(library, name, function) moat_unwind_find(library, name, &(function), sizeof(function))

/* Loads a library, or gives NULL. Fully static programs must not: it would bring a second C library along. dlopen is not
 * named directly, since the linker warns of that in static programs. */
static void *moat_unwind_load(const char *name) {
    void *(*load)(const char *name, int how) = NULL;
    if (!&dlsym || moat_module_of((uintptr_t)&dlsym) == moat_module_of((uintptr_t)&moat_unwind_load))
        return NULL;
    MOAT_UNWIND_FIND(RTLD_DEFAULT, "dlopen", load);
    return load ? load(name, RTLD_NOW | RTLD_LOCAL) : NULL;
}

static void moat_unwind_load_libunwind(void) {
    void *library = moat_unwind_load("libunwind.so.8");
    if (!library)
        return;
    MOAT_UNWIND_FIND(library, MOAT_CURSOR_PREFIX "init_local2", own->cursor_init);
    MOAT_UNWIND_FIND(library, MOAT_CURSOR_PREFIX "step", own->cursor_step);
    MOAT_UNWIND_FIND(library, MOAT_CURSOR_PREFIX "get_reg", own->cursor_register);
    MOAT_UNWIND_FIND(library, "unw_backtrace", own->backtrace);
}

static void moat_unwind_load_libgcc(void) {
    void *library = moat_unwind_load("libgcc_s.so.1");
    if (!library)
        return;
    MOAT_UNWIND_FIND(library, "_Unwind_GetIP", own->walk_pc);
    MOAT_UNWIND_FIND(library, "_Unwind_FindEnclosingFunction", own->enclosing);
    MOAT_UNWIND_FIND(library, "_Unwind_Backtrace", own->walk);
}

/* How many modules were unloaded so far. */
static int moat_unwind_first_module(struct dl_phdr_info *info, size_t size, void *unloads) {
    if (size >= offsetof(struct dl_phdr_info, dlpi_subs) + sizeof info->dlpi_subs)
        *(size_t *)unloads = (size_t)info->dlpi_subs;
    return 1;
}

static size_t moat_unwind_count_unloads(void) {
    size_t unloads = 0;
    (void)dl_iterate_phdr(moat_unwind_first_module, &unloads);
    return unloads;
}

void moat_unwind_init_early(void) {
    moat_rules_init(environ == NULL); /* the C library has not been initialised, so nothing has */
    if (!own->walk && &_Unwind_Backtrace && &_Unwind_GetIP && &_Unwind_FindEnclosingFunction) {
        own->walk_pc = _Unwind_GetIP;
        own->enclosing = _Unwind_FindEnclosingFunction;
        own->walk = _Unwind_Backtrace;
    }
}

void moat_unwind_init(void) {
    int kept = errno;
    moat_unwind_load_libunwind();
    moat_unwind_init_own();
    errno = kept;
}

void moat_unwind_init_own(void) {
    int kept = errno;
    moat_unwind_load_libgcc();
    moat_unwind_init_early();
    atomic_store(&own->unloads, moat_unwind_count_unloads());
    /* Once for nothing, so that what the unwinders set up at first use is not set up inside some malloc. */
    uintptr_t frames[1 + MOAT_UNWIND_SLACK];
    bool complete;
    (void)moat_unwind_capture(frames, 1, (uintptr_t)__builtin_return_address(0), &complete);
    errno = kept;
}

const char *moat_unwind_kind(void) {
    return own->backtrace && !atomic_load(&own->distrust) ? "libunwind" : own->walk ? "libgcc" : "none";
}

/* ---- walking --------------------------------------------------------------------------------------------------- */

struct moat_walk {
    uintptr_t *frames;
    size_t most, count;
};

static int moat_walk_visit(void *unwinder, void *context) {
    struct moat_walk *walk = context;
    if (walk->count == walk->most)
        return MOAT_WALK_STOP;
    uintptr_t pc = own->walk_pc(unwinder);
    if (pc == 0)
        return MOAT_WALK_STOP;
    walk->frames[walk->count++] = pc;
    return MOAT_WALK_ON;
}

/* libgcc aborts when it finds no unwind information for itself. In a static program that is so until the C run-time's own
 * constructor has registered it, which comes after ours. */
static bool moat_unwind_walk_is_ready(void) {
    if (!atomic_load_explicit(&own->walk_ready, memory_order_relaxed) && own->walk && own->enclosing &&
        own->enclosing((unsigned char *)(uintptr_t)own->walk + 2)) /* two bytes in: it looks before the address given */
        atomic_store_explicit(&own->walk_ready, true, memory_order_relaxed);
    return atomic_load_explicit(&own->walk_ready, memory_order_relaxed);
}

/* The return addresses from the caller of this function outwards, Moat's own frames among them. */
static __attribute__((noinline)) size_t moat_unwind_walk(uintptr_t *frames, size_t most) {
    if (own->backtrace && !atomic_load_explicit(&own->distrust, memory_order_relaxed)) {
        int count = own->backtrace((void **)frames, (int)most);
        return count > 0 ? (size_t)count : 0;
    }
    struct moat_walk walk = {frames, most, 0};
    if (moat_unwind_walk_is_ready())
        (void)own->walk(moat_walk_visit, &walk);
    return walk.count;
}

/* libunwind remembers how to unwind each address and never hears of code that was unloaded, so it may apply the rules
 * of a library that is gone to another that took its place. The loader frees memory when it unloads: so after it was
 * seen to call us, unloads are counted again, and once there was one libgcc takes over, which remembers nothing. */
static void moat_unwind_watch_loader(uintptr_t caller_pc) {
    if (moat_module_is_loader(caller_pc)) {
        atomic_store_explicit(&own->loader_active, true, memory_order_relaxed);
    } else if (atomic_load_explicit(&own->loader_active, memory_order_relaxed)) {
        atomic_store_explicit(&own->loader_active, false, memory_order_relaxed);
        size_t unloads = moat_unwind_count_unloads();
        if (atomic_exchange(&own->unloads, unloads) != unloads && own->walk)
            atomic_store(&own->distrust, true);
    }
}

/* ---- busy: against entering the unwinder twice on one thread --------------------------------------------------- */

static bool moat_unwind_on_signal_stack(void) {
    stack_t now;
    memset(&now, 0, sizeof now);
    return moat_sys_failed(moat_syscall(SYS_sigaltstack, 0, (long)(uintptr_t)&now, 0, 0, 0, 0)) ||
           (now.ss_flags & SS_ONSTACK);
}

/* Starts a capture, unless one of this thread is under way further out. One that a signal handler left by longjmp is not:
 * then what asks now is no deeper on the same stack, or has overwritten the other's mark. */
bool moat_unwind_enter(struct moat_unwind_frame *here) {
    struct moat_unwind_frame *running = moat_unwind_running;
    uintptr_t mark;
    if (running && (here < running || moat_unwind_on_signal_stack()) &&
        moat_memory_copy(&mark, (uintptr_t)&running->mark, sizeof mark) == sizeof mark &&
        mark == ((uintptr_t)running ^ MOAT_UNWIND_MARK))
        return false;
    here->mark = (uintptr_t)here ^ MOAT_UNWIND_MARK;
    moat_unwind_running = here;
    return true;
}

void moat_unwind_leave(struct moat_unwind_frame *here) {
    moat_unwind_running = NULL;
    here->mark = 0;
}

/* ---- the outermost frame --------------------------------------------------------------------------------------- */

/* Whether a stack may end at this return address: in code that has unwind information, which then says that nothing
 * follows. Code without (made at run time, or hand-written) is where the unwinder lost its way. */
static bool moat_unwind_ends_at(uintptr_t pc) {
    size_t slot = (pc ^ pc >> 7 ^ pc >> 17) % MOAT_UNWIND_ENDS;
    if (atomic_load_explicit(&own->end[slot], memory_order_relaxed) == pc)
        return true;
    if (atomic_load_explicit(&own->not_end[slot], memory_order_relaxed) == pc)
        return false;
    /* libgcc does not see the tables of a static program's first function. */
    bool ends = pc - getauxval(AT_ENTRY) < MOAT_ENTRY_BYTES ||
                (moat_module_of(pc) != MOAT_NO_MODULE && own->enclosing && own->enclosing((void *)(pc - 1)) != NULL);
    atomic_store_explicit(ends ? &own->end[slot] : &own->not_end[slot], pc, memory_order_relaxed);
    return ends;
}

/* ---- capturing ------------------------------------------------------------------------------------------------- */

/* Moves the frames from caller_pc on to the front. When it is not among the first, for instance since the walk failed
 * early, frames of Moat's own code go and caller_pc is put first. */
static size_t moat_unwind_trim(uintptr_t *frames, size_t count, uintptr_t caller_pc) {
    size_t first = 0, looked_at = count < MOAT_UNWIND_SLACK ? count : MOAT_UNWIND_SLACK;
    while (first < looked_at && frames[first] != caller_pc)
        first++;
    if (first < looked_at) {
        memmove(frames, frames + first, (count - first) * sizeof *frames);
        return count - first;
    }
    size_t kept = 0;
    for (size_t i = count; i > 0 && !moat_module_is_own(frames[i - 1]) && kept < count; i--)
        kept++;
    bool all = kept == count; /* nothing tells Moat's frames from others': keep none rather than wrong ones */
    if (all)
        kept = 0;
    memmove(frames + 1, frames + count - kept, kept * sizeof *frames);
    frames[0] = caller_pc;
    return kept + 1;
}

static _Atomic bool ended;

/* By a loaded unwinder, which knows every form of frame. */
static size_t moat_unwind_load_walk(uintptr_t *frames, size_t most, uintptr_t caller_pc, bool *complete) {
    int kept = errno;
    frames[0] = caller_pc;
    *complete = false;
    moat_unwind_watch_loader(caller_pc);
    if ((!own->backtrace && !own->walk) || atomic_load(&ended))
        return 1;
    size_t count = moat_unwind_walk(frames, most + MOAT_UNWIND_SLACK);
    bool filled = count == most + MOAT_UNWIND_SLACK;
    count = moat_unwind_trim(frames, count, caller_pc);
    if (count <= most && !filled)
        *complete = moat_unwind_ends_at(frames[count - 1]);
    errno = kept;
    return count < most ? count : most;
}

size_t moat_unwind_capture(uintptr_t *frames, size_t most, uintptr_t caller_pc, bool *complete) {
    struct moat_unwind_frame here;
    frames[0] = caller_pc;
    *complete = false;
    if (!moat_unwind_enter(&here))
        return 1;
    size_t count = moat_unwind_load_walk(frames, most, caller_pc, complete);
    moat_unwind_leave(&here);
    return count;
}

/* Has an unwinder fill the memory, which then is good for this once only. */
static __attribute__((noinline)) void moat_unwind_fill(struct moat_walk_memory *memory, uintptr_t caller_pc,
                                                       size_t most) {
    _Static_assert(sizeof memory->scratch / sizeof memory->scratch[0] >= MOAT_UNWIND_FRAMES_MAX + MOAT_UNWIND_SLACK,
                   "the memory has room for what an unwinder is asked for");
    bool complete;
    size_t count = moat_unwind_load_walk(memory->scratch, most, caller_pc, &complete);
    memory->count = 0; /* also should the program be sent elsewhere by a signal meanwhile */
    atomic_signal_fence(memory_order_seq_cst);
    memory->forgetful = true;
    memory->complete = complete;
    memory->cut = false;
    memory->end_slot = 0;
    memory->kept = 0;
    atomic_signal_fence(memory_order_seq_cst);
    for (size_t i = 0; i < count; i++)
        memory->frames[i] = (struct moat_walk_frame){.pc = memory->scratch[count - 1 - i]};
    memory->count = (uint32_t)count;
}

void moat_unwind_capture_next(struct moat_walk_memory *memory, const struct moat_walk_registers *caller, size_t most) {
    if (moat_rules_changed(&memory->view, caller->pc))
        memory->count = 0;
    if (__builtin_expect(moat_walk(memory, caller, most) == MOAT_WALK_HARD, 0))
        moat_unwind_fill(memory, caller->pc, most);
}

void moat_unwind_end(void) { atomic_store(&ended, true); }

/* ---- from a signal's registers --------------------------------------------------------------------------------- */

static uintptr_t moat_context_pc(const ucontext_t *context) {
#if defined(__x86_64__)
    return (uintptr_t)context->uc_mcontext.gregs[REG_RIP];
#elif defined(__i386__)
    return (uintptr_t)context->uc_mcontext.gregs[REG_EIP];
#elif defined(__aarch64__)
    return (uintptr_t)context->uc_mcontext.pc;
#else
#error "say where this processor's context holds the program counter"
#endif
}

static size_t moat_context_walk_cursor(void *context, int how, uintptr_t *frames, size_t most) {
    uintptr_t cursor[MOAT_CURSOR_WORDS];
    size_t count = 0;
    if (own->cursor_init(cursor, context, how) < 0)
        return 0;
    while (count < most) {
        uintptr_t pc = 0;
        if (own->cursor_register(cursor, MOAT_CURSOR_REGISTER_PC, &pc) < 0 || pc == 0)
            break;
        frames[count++] = pc;
        if (own->cursor_step(cursor) <= 0)
            break;
    }
    return count;
}

/* Walks out of the handler, through the frame the kernel made, to the interrupted instruction. */
static size_t moat_context_walk_handler(uintptr_t pc, uintptr_t *frames, size_t most) {
    size_t count = moat_unwind_walk(frames, most + MOAT_UNWIND_SLACK), first = 0;
    while (first < count && frames[first] != pc)
        first++;
    count -= first;
    memmove(frames, frames + first, count * sizeof *frames);
    return count < most ? count : most;
}

/* Where a call through a wild pointer faulted there is nothing to unwind at the pc, but the return address is still what
 * the call put on the stack (or, elsewhere, in the link register, which the unwinders know themselves).
 * Gives:   true when `returned` was made: the context as if that call had returned. */
static bool moat_context_after_wild_call(const ucontext_t *context, ucontext_t *returned) {
#if defined(__x86_64__)
    uintptr_t word, stack = (uintptr_t)context->uc_mcontext.gregs[REG_RSP];
    uintptr_t pc = moat_context_pc(context);
    if (moat_module_of(pc) != MOAT_NO_MODULE || moat_memory_is_readable(pc, 1) ||
        moat_memory_copy(&word, stack, sizeof word) != sizeof word || moat_module_of(word) == MOAT_NO_MODULE)
        return false;
    *returned = *context;
    returned->uc_mcontext.gregs[REG_RIP] = (greg_t)word;
    returned->uc_mcontext.gregs[REG_RSP] = (greg_t)(stack + sizeof word);
    return true;
#else
    (void)context;
    (void)returned;
    return false;
#endif
}

/* The walk by own rules, from the context's registers. Gives 0 when it takes an unwinder. */
static size_t moat_context_walk_own(const ucontext_t *context, uintptr_t *frames, size_t most) {
#ifdef __x86_64__
    ucontext_t returned;
    bool wild = moat_context_after_wild_call(context, &returned), complete;
    const greg_t *values = wild ? returned.uc_mcontext.gregs : context->uc_mcontext.gregs;
    const struct moat_walk_registers registers = {(uintptr_t)values[REG_RIP], (uintptr_t)values[REG_RSP],
                                                  (uintptr_t)values[REG_RBP], !wild};
    size_t count = moat_walk_from(&registers, frames + wild, most - wild, &complete);
    if (count == 0)
        return 0;
    frames[0] = moat_context_pc(context);
    return count + wild;
#else
    (void)context;
    (void)frames;
    (void)most;
    return 0;
#endif
}

size_t moat_unwind_from_context(void *ucontext, uintptr_t *frames, size_t most) {
    struct moat_unwind_frame here;
    ucontext_t *context = ucontext;
    uintptr_t pc = moat_context_pc(context);
    size_t count = 0;
    int kept = errno;
    if (moat_unwind_enter(&here)) {
        ucontext_t returned;
        bool has_cursor = own->cursor_init && own->cursor_step && own->cursor_register;
        count = moat_context_walk_own(context, frames, most);
        if (count != 0) {
            /* walked already */
        } else if (has_cursor && moat_context_after_wild_call(context, &returned)) {
            frames[0] = pc;
            count = 1 + moat_context_walk_cursor(&returned, 0, frames + 1, most - 1);
        } else if (has_cursor) {
            count = moat_context_walk_cursor(context, MOAT_CURSOR_SIGNAL_FRAME, frames, most);
        } else {
            count = moat_context_walk_handler(pc, frames, most);
        }
        moat_unwind_leave(&here);
    }
    if (count == 0) {
        frames[0] = pc;
        count = 1;
    }
    errno = kept;
    return count;
}
