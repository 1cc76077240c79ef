/* Linked around moat_walk in a build of the preload library that only this suite makes: each k-th stack is walked by libgcc's
 * unwinder as well, frame for frame; a difference ends the process. At exit the counts go into a file.
 * MOAT_CHECK=EVERY:DIRECTORY in the environment; with ":flaw" behind it one frame of one stack is spoilt, to see that it is noticed.
 * May include: the port, POSIX, <unwind.h>. */
#define _GNU_SOURCE
#include "guard/port/linux/unwind.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <unwind.h>

enum { ORACLE_FRAMES_MAX = 4096, TEXT_BYTES = 512 };

enum moat_walk_result __real_moat_walk(struct moat_walk_memory *memory, const struct moat_walk_registers *caller,
                                       size_t most);
enum moat_walk_result __wrap_moat_walk(struct moat_walk_memory *memory, const struct moat_walk_registers *caller,
                                       size_t most);

static _Atomic unsigned long walks, lost, hard, compared, frames_total, new_frames;
static unsigned long every = 1;
static char directory[256];
static bool flaw;
static _Atomic int state; /* 0: not set up, 1: being set up, 2: ready, 3: off */
static _Unwind_Reason_Code (*backtrace)(_Unwind_Trace_Fn, void *);
static _Unwind_Ptr (*ip_of)(struct _Unwind_Context *);
static _Thread_local bool inside __attribute__((tls_model("initial-exec")));

struct oracle {
    uintptr_t frames[ORACLE_FRAMES_MAX];
    size_t count;
};

static _Unwind_Reason_Code note(struct _Unwind_Context *context, void *argument) {
    struct oracle *oracle = argument;
    uintptr_t ip = ip_of(context);
    if (ip == 0 || oracle->count == ORACLE_FRAMES_MAX) {
        return _URC_NORMAL_STOP;
    }
    oracle->frames[oracle->count++] = ip;
    return _URC_NO_REASON;
}

static void write_text(const char *text) { (void)!write(2, text, strlen(text)); }

static void write_line(const char *what, uintptr_t pc) {
    char line[TEXT_BYTES];
    Dl_info info;
    bool known = dladdr((void *)pc, &info) != 0;
    snprintf(line, sizeof line, "%s %#lx %s %s+%#lx\n", what, (unsigned long)pc,
             known && info.dli_sname ? info.dli_sname : "?", known ? info.dli_fname : "?",
             known ? (unsigned long)(pc - (uintptr_t)info.dli_fbase) : 0);
    write_text(line);
}

/* Where the counts stand, written at exit and by exec's and _exit's callers alike: after every so many walks. */
static void write_counts(void) {
    char path[TEXT_BYTES], line[TEXT_BYTES];
    snprintf(path, sizeof path, "%s/%d", directory, (int)syscall(SYS_getpid));
    int length = snprintf(line, sizeof line, "%lu walks %lu lost %lu hard %lu compared %lu frames %lu new\n", walks,
                          lost, hard, compared, frames_total, new_frames);
    int descriptor = (int)syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (descriptor >= 0) {
        (void)!write(descriptor, line, (size_t)length);
        close(descriptor);
    }
}

static void differ(const struct moat_walk_memory *memory, const struct oracle *oracle, size_t first, const char *why) {
    write_text("stacks differ: ");
    write_text(why);
    write_text("\n");
    for (uint32_t i = 0; i < memory->count; i++) {
        write_line("  walked", memory->frames[memory->count - 1 - i].pc);
    }
    for (size_t i = first; i < oracle->count; i++) {
        write_line("  oracle", oracle->frames[i]);
    }
    write_counts();
    syscall(SYS_kill, syscall(SYS_getpid), 9);
}

static void compare(const struct moat_walk_memory *memory, uintptr_t caller_pc, size_t most,
                    enum moat_walk_result result) {
    static _Thread_local struct oracle *oracle __attribute__((tls_model("initial-exec")));
    size_t first = 0;
    if (oracle == NULL) {
        oracle = (struct oracle *)syscall(SYS_mmap, 0, sizeof *oracle, 3, 0x22, -1, 0);
    }
    oracle->count = 0;
    backtrace(note, oracle);
    while (first < oracle->count && oracle->frames[first] != caller_pc) {
        first++;
    }
    size_t expected = oracle->count - first, count = memory->count;
    bool oracle_cut = oracle->count == ORACLE_FRAMES_MAX;
    for (size_t i = 0; i < count && i < expected && i < most; i++) {
        if (memory->frames[count - 1 - i].pc != oracle->frames[first + i]) {
            differ(memory, oracle, first, "another frame");
        }
    }
    if (expected > most || oracle_cut) {
        if (count < most) {
            differ(memory, oracle, first, "too few frames of a deep stack");
        }
    } else if (count != expected && !(result == MOAT_WALK_LOST && !memory->complete && count + 1 == expected)) {
        /* one fewer is right where what libgcc shows last is no return address at all */
        differ(memory, oracle, first, "another number of frames");
    }
    compared++;
}

static void set_up(void) {
    int none = 0;
    if (!atomic_compare_exchange_strong(&state, &none, 1)) {
        return;
    }
    const char *given = getenv("MOAT_CHECK");
    char *rest;
    if (given == NULL) {
        state = 3;
        return;
    }
    every = strtoul(given, &rest, 10);
    every += every == 0;
    snprintf(directory, sizeof directory, "%s", *rest == '\0' ? "." : rest + 1);
    char *colon = strchr(directory, ':');
    flaw = colon != NULL;
    if (flaw) {
        *colon = '\0';
    }
    void *library = dlopen("libgcc_s.so.1", RTLD_NOW | RTLD_LOCAL);
    *(void **)&backtrace = dlsym(library, "_Unwind_Backtrace");
    *(void **)&ip_of = dlsym(library, "_Unwind_GetIP");
    state = backtrace != NULL && ip_of != NULL ? 2 : 3;
    write_counts();
}

enum moat_walk_result __wrap_moat_walk(struct moat_walk_memory *memory, const struct moat_walk_registers *caller,
                                       size_t most) {
    enum moat_walk_result result = __real_moat_walk(memory, caller, most);
    if (inside) {
        return result;
    }
    inside = true;
    if (state == 0 && moat_walk_is_available() && environ != NULL) {
        set_up();
    }
    unsigned long number = ++walks;
    lost += result == MOAT_WALK_LOST;
    hard += result == MOAT_WALK_HARD;
    if (state == 2 && result != MOAT_WALK_HARD) {
        frames_total += memory->count;
        new_frames += memory->count - memory->kept;
        if (flaw && number > 100) {
            memory->frames[memory->count / 2].pc++;
        }
        if (number % every == 0) {
            compare(memory, caller->pc, most, result);
        }
        if ((number & (number - 1)) == 0 || number % 10000 == 0) {
            write_counts();
        }
    } else if (state == 2 && (hard & (hard - 1)) == 0) {
        write_counts();
    }
    inside = false;
    return result;
}

__attribute__((destructor)) static void at_end(void) {
    if (state == 2) {
        write_counts();
    }
}
