/* A program that allocates and frees on every sort of stack. Under check.c each of these calls is compared with libgcc's unwinder.
 * Usage: scenes SCENE...; exit status 0 when every scene ran to its end. May include: the C library, POSIX. */
#define _GNU_SOURCE
#include <alloca.h>
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#define NOINLINE __attribute__((noinline))
#define KEEP_FRAME __asm__ volatile("" ::: "memory")

static void need(bool condition, const char *what) {
    if (!condition) {
        perror(what);
        exit(1);
    }
}

/* ---- random call trees --------------------------------------------------------------------------------------------- */

static _Thread_local uint64_t seed = 88172645463325252u;

static unsigned roll(unsigned sides) {
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return (unsigned)(seed >> 11) % sides;
}

static NOINLINE void allocate_once(void) {
    void *block = malloc(10);
    __asm__ volatile("" : "+r"(block)); /* else the compiler takes both calls out */
    free(block);
}

static NOINLINE void touch(void) {
    static _Thread_local void *kept[8];
    unsigned slot = roll(8);
    free(__atomic_exchange_n(&kept[slot], malloc(1 + roll(100)), __ATOMIC_RELAXED)); /* handlers come here, too */
    KEEP_FRAME;
}

static void grow(unsigned depth);

static NOINLINE void plain(unsigned depth) {
    grow(depth);
    KEEP_FRAME;
}

static NOINLINE void large(unsigned depth) {
    volatile char room[5000];
    room[depth] = 1;
    grow(depth);
    (void)room[depth];
}

static NOINLINE void dynamic(unsigned depth) {
    volatile char *room = alloca(16 + depth * 7);
    room[depth] = 1;
    grow(depth);
    room[depth] = 2;
}

/* Over-aligned: gcc goes by the address of the arguments, clang by rbp. */
static NOINLINE void aligned(unsigned depth) {
    _Alignas(128) volatile char room[256];
    room[depth & 255] = 1;
    grow(depth);
    (void)room[depth & 255];
}

static NOINLINE void aligned_dynamic(unsigned depth) {
    _Alignas(64) volatile char room[64];
    volatile char *more = alloca(1 + depth * 3);
    room[depth & 63] = more[depth] = 1;
    grow(depth);
    room[depth & 63] = more[depth] = 2;
}

/* More arguments than registers. */
static NOINLINE unsigned crowded(unsigned depth, unsigned a, unsigned b, unsigned c, unsigned d, unsigned e, unsigned f,
                                 unsigned g, unsigned h) {
    unsigned i = a * b, j = b * c, k = c * d, l = d * e, m = e * f + g * h;
    grow(depth);
    unsigned sum = i + j + k + l + m + a + b + c + d + e + f + g + h;
    grow(depth < 3 ? 0 : depth / 3);
    return sum * m;
}

static NOINLINE void tail(unsigned depth) { grow(depth); }

typedef float vector __attribute__((vector_size(32)));
static volatile vector sink;

static NOINLINE void vectors(unsigned depth) {
    vector v = sink, w = v * 2.0f;
    grow(depth);
    sink = v + w;
}

static int compare_and_grow(const void *left, const void *right) {
    static _Thread_local bool once;
    if (!once) {
        once = true;
        grow(3);
        once = false;
    }
    return *(const int *)left - *(const int *)right;
}

static NOINLINE void through_libc(void) {
    int numbers[] = {3, 1, 2};
    qsort(numbers, 3, sizeof numbers[0], compare_and_grow);
}

static NOINLINE void grow(unsigned depth) {
    static void (*const shapes[])(unsigned) = {plain, large, dynamic, aligned, aligned_dynamic, tail, vectors};
    enum { SHAPES = sizeof shapes / sizeof shapes[0] };
    touch();
    if (depth == 0) {
        return;
    }
    unsigned shape = roll(SHAPES + 2);
    if (shape < SHAPES) {
        shapes[shape](depth - 1);
    } else if (shape == SHAPES) {
        crowded(depth - 1, shape, depth, shape, 1, 2, 3, 4, 5);
    } else {
        through_libc();
    }
    if (roll(3) == 0) {
        touch();
    }
}

static void tree(void) {
    for (unsigned round = 0; round < 150; round++) {
        grow(roll(round % 10 == 0 ? 200 : 30));
    }
}

/* ---- deep recursion ------------------------------------------------------------------------------------------------ */

static unsigned deep_bottom;

static NOINLINE void deep_one(unsigned depth);
static NOINLINE void deep_other(unsigned depth) {
    volatile char room[24];
    room[0] = (char)depth;
    deep_one(depth - 1);
    room[1] = room[0];
}

static NOINLINE void deep_one(unsigned depth) {
    if (depth == 0) {
        touch();
    } else if (depth % 3 == 0) {
        deep_other(depth);
    } else {
        deep_one(depth - 1);
    }
    if (depth < 300 || depth % 61 == 0 || depth + 300 > deep_bottom) {
        touch();
    }
    KEEP_FRAME;
}

static void *deep_thread(void *unused) {
    for (deep_bottom = 100; deep_bottom <= 100000; deep_bottom = deep_bottom * 7 / 2) {
        deep_one(deep_bottom);
    }
    deep_bottom = 100000;
    deep_one(deep_bottom);
    return unused;
}

static void deep(void) {
    pthread_attr_t attributes;
    pthread_t thread;
    pthread_attr_init(&attributes);
    need(pthread_attr_setstacksize(&attributes, 256u << 20) == 0, "stack size");
    need(pthread_create(&thread, &attributes, deep_thread, NULL) == 0, "thread");
    pthread_join(thread, NULL);
}

/* ---- jumps out ----------------------------------------------------------------------------------------------------- */

static jmp_buf out;

static NOINLINE void jump_from(unsigned depth) {
    volatile char room[48];
    room[0] = 1;
    if (roll(4) == 0) {
        touch();
    }
    if (depth == 0) {
        longjmp(out, 1);
    }
    jump_from(depth - 1);
    room[1] = 2;
}

static void jumps(void) {
    for (volatile unsigned round = 0; round < 500; round++) {
        if (setjmp(out) == 0) {
            jump_from(roll(100));
        }
        grow(roll(6));
    }
}

/* ---- signals ------------------------------------------------------------------------------------------------------- */

static volatile sig_atomic_t handled;

static void on_signal(int number) {
    (void)number;
    handled++;
    grow(2);
}

static void handle(int number, void (*handler)(int), int flags) {
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = handler;
    action.sa_flags = flags;
    need(sigaction(number, &action, NULL) == 0, "sigaction");
}

static void *signal_stack(size_t bytes) {
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    stack_t stack = {.ss_sp = memory, .ss_size = bytes, .ss_flags = 0};
    need(memory != MAP_FAILED && sigaltstack(&stack, NULL) == 0, "sigaltstack");
    return memory;
}

static void on_signal_raise(int number) {
    (void)number;
    touch();
    raise(SIGUSR1);
}

static sigjmp_buf signal_out;

static void on_signal_leave(int number) {
    (void)number;
    touch();
    siglongjmp(signal_out, 1);
}

static void signals(void) {
    signal_stack(1 << 17);
    for (unsigned round = 0; round < 100; round++) {
        handle(SIGUSR1, on_signal, round % 2 ? SA_ONSTACK : 0);
        handle(SIGUSR2, on_signal_raise, round % 3 ? SA_ONSTACK : 0);
        raise(round % 5 ? SIGUSR1 : SIGUSR2);
        grow(roll(20));
        kill(getpid(), SIGUSR2);
        handle(SIGUSR1, on_signal_leave, round % 2 ? SA_ONSTACK : 0);
        if (sigsetjmp(signal_out, 1) == 0) {
            raise(SIGUSR1);
        }
    }
    /* At any time, also inside malloc. */
    struct itimerval often = {{0, 300}, {0, 300}}, never = {{0, 0}, {0, 0}};
    handled = 0;
    handle(SIGALRM, on_signal, SA_ONSTACK);
    setitimer(ITIMER_REAL, &often, NULL);
    while (handled < 300) {
        grow(10);
    }
    setitimer(ITIMER_REAL, &never, NULL);
}

#ifdef __x86_64__
/* At every single instruction of some functions: the processor traps after each while its trap flag is set. */
enum { TRAP_FLAG = 0x100 };
static bool in_step;

static void on_trap(int number, siginfo_t *info, void *context) {
    (void)number;
    (void)info;
    (void)context;
    if (!in_step) {
        in_step = true;
        allocate_once();
        in_step = false;
    }
}

static NOINLINE void set_trap(bool on) {
    /* A function whose frame has no fixed size is unwound by rbp, whatever the pushing does to rsp. */
    volatile char *room = alloca(16 + roll(2));
    room[0] = 1;
    if (on) {
        __asm__ volatile(
            "lea -128(%%rsp), %%rsp; pushfq; orq %0, (%%rsp); popfq; lea 128(%%rsp), %%rsp" ::"i"(TRAP_FLAG)
            : "cc", "memory");
    } else {
        __asm__ volatile(
            "lea -128(%%rsp), %%rsp; pushfq; andq %0, (%%rsp); popfq; lea 128(%%rsp), %%rsp" ::"i"(~TRAP_FLAG)
            : "cc", "memory");
    }
}

static NOINLINE unsigned stepped(unsigned depth);
static NOINLINE unsigned stepped_aligned(unsigned depth) {
    _Alignas(64) volatile unsigned room[16];
    room[depth & 15] = depth;
    return stepped(depth) + room[depth & 15];
}
static NOINLINE unsigned stepped_dynamic(unsigned depth) {
    volatile unsigned *room = alloca(16 + depth * 8);
    room[0] = depth;
    return stepped(depth) + room[0];
}
static NOINLINE unsigned stepped_many(unsigned a, unsigned b, unsigned c, unsigned d, unsigned e, unsigned f,
                                      unsigned g, unsigned h) {
    return stepped(a) * b + c * d + e * f + g * h;
}
static NOINLINE unsigned stepped(unsigned depth) {
    if (depth == 0) {
        return (unsigned)getppid(); /* through the table of jumps */
    }
    switch (depth % 3) {
    case 0:
        return stepped_aligned(depth - 1) + 1;
    case 1:
        return stepped_dynamic(depth - 1) + 2;
    default:
        return stepped_many(depth - 1, 1, 2, 3, 4, 5, 6, 7) + 3;
    }
}

static void steps(void) {
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_sigaction = on_trap;
    for (unsigned round = 0; round < 4; round++) {
        if (round == 2) {
            signal_stack(1 << 16);
        }
        action.sa_flags = SA_SIGINFO | (round < 2 ? 0 : SA_ONSTACK);
        need(sigaction(SIGTRAP, &action, NULL) == 0, "sigaction");
        (void)stepped(7); /* with the addresses of what it calls bound */
        set_trap(true);
        (void)stepped(7);
        set_trap(false);
    }
}
#else
static void steps(void) {}
#endif

/* ---- coroutines ---------------------------------------------------------------------------------------------------- */

enum { COROUTINES = 6 };
static ucontext_t main_context, context[COROUTINES];
static void *stack_of[COROUTINES];
static size_t stack_bytes_of[COROUTINES];
static bool running[COROUTINES];

static NOINLINE void yield_from(unsigned which, unsigned depth) {
    volatile char room[40];
    room[0] = 1;
    touch();
    if (depth == 0) {
        swapcontext(&context[which], &main_context);
    } else {
        yield_from(which, depth - 1);
    }
    touch();
    room[1] = 1;
}

static void coroutine(unsigned which) {
    for (unsigned round = roll(6); round > 0; round--) {
        yield_from(which, roll(10));
        grow(roll(4));
    }
    running[which] = false;
}

static void end_coroutine(unsigned which) {
    if (which % 2) {
        free(stack_of[which]);
    } else if (stack_of[which] != NULL) {
        munmap(stack_of[which], stack_bytes_of[which]);
    }
    stack_of[which] = NULL;
}

static void begin_coroutine(unsigned which) {
    end_coroutine(which);
    stack_bytes_of[which] = (64u << 10) + roll(4) * 16384;
    if (which % 2) {
        stack_of[which] = malloc(stack_bytes_of[which]);
    } else {
        stack_of[which] = mmap(NULL, stack_bytes_of[which], PROT_READ | PROT_WRITE,
                               MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    }
    need(stack_of[which] != NULL && stack_of[which] != MAP_FAILED, "stack");
    getcontext(&context[which]);
    context[which].uc_stack.ss_sp = stack_of[which];
    context[which].uc_stack.ss_size = stack_bytes_of[which];
    context[which].uc_link = &main_context;
    makecontext(&context[which], (void (*)(void))coroutine, 1, which);
    running[which] = true;
}

static void coroutines(void) {
    for (unsigned round = 0; round < 1500; round++) {
        unsigned which = roll(COROUTINES);
        if (!running[which]) {
            begin_coroutine(which);
        }
        swapcontext(&main_context, &context[which]);
        if (roll(5) == 0) {
            grow(3);
        }
    }
}

/* ---- libraries that come and go ------------------------------------------------------------------------------------ */

static char library_path[2][4096];

static void call_back(void) { touch(); }

static void loading(void) {
    uintptr_t place[2] = {0, 1};
    for (unsigned round = 0; round < 200; round++) {
        unsigned which = round % 2;
        void *library = dlopen(library_path[which], RTLD_NOW);
        need(library != NULL, library_path[which]);
        void (*call)(void (*)(void), unsigned);
        *(void **)&call = dlsym(library, "call");
        place[which] = (uintptr_t)dlsym(library, "call");
        call(call_back, 1 + roll(3));
        dlclose(library);
        if (round % 16 == 0) {
            grow(3);
        }
    }
    /* Otherwise this shows nothing: the second has to take the first's place. */
    need(place[0] == place[1], "libraries were loaded at different addresses");
}

/* ---- code made at run time ------------------------------------------------------------------------------------------- */

#ifdef __x86_64__
/* Two functions without unwind information that call the one given: with a frame pointer, and without. */
static void machine_code(void) {
    static const unsigned char with_frame[] = {0x55, 0x48, 0x89, 0xe5, 0x48, 0x83, 0xec, 0x20, 0xff, 0xd7, 0xc9, 0xc3};
    static const unsigned char without[] = {0x48, 0x83, 0xec, 0x28, 0x90, 0x90, 0x90, 0x90,
                                            0xff, 0xd7, 0x48, 0x83, 0xc4, 0x28, 0xc3};
    void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    need(page != MAP_FAILED, "mmap");
    for (unsigned round = 0; round < 100; round++) {
        void (*call)(void (*)(void));
        const bool frame = round % 2;
        memcpy(page, frame ? with_frame : without, frame ? sizeof with_frame : sizeof without);
        memcpy(&call, &page, sizeof call);
        call(call_back);
        call(through_libc);
    }
}
#else
static void machine_code(void) {}
#endif

/* ---- threads --------------------------------------------------------------------------------------------------------- */

static void *small_thread(void *given) {
    seed += (uintptr_t)given;
    for (unsigned i = 0; i < 30; i++) {
        touch();
    }
    return NULL;
}

static void *tree_thread(void *given) {
    seed += (uintptr_t)given;
    for (unsigned i = 0; i < 20; i++) {
        grow(roll(20));
    }
    return NULL;
}

static void threads(void) {
    pthread_t thread[4];
    for (unsigned round = 0; round < 20; round++) {
        for (unsigned i = 0; i < 4; i++) {
            pthread_attr_t attributes;
            pthread_attr_init(&attributes);
            void *given = (void *)(uintptr_t)(round * 4 + i + 1);
            size_t bytes = (i < 2 ? 24u << 10 : 1u << 20) + (size_t)PTHREAD_STACK_MIN;
            if (i % 2) { /* a stack of our own, which a page follows that must not be read */
                char *memory = mmap(NULL, bytes + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
                need(memory != MAP_FAILED && mprotect(memory + bytes, 4096, PROT_NONE) == 0, "mmap");
                need(pthread_attr_setstack(&attributes, memory, bytes) == 0, "setstack");
            } else {
                need(pthread_attr_setstacksize(&attributes, bytes) == 0, "setstacksize");
            }
            need(pthread_create(&thread[i], &attributes, i < 2 ? small_thread : tree_thread, given) == 0, "thread");
            pthread_attr_destroy(&attributes);
        }
        for (unsigned i = 0; i < 4; i++) {
            pthread_join(thread[i], NULL);
        }
    }
}

static void *fork_thread(void *unused) {
    for (unsigned round = 0; round < 5; round++) {
        if (round % 2) {
            grow(5);
        }
        pid_t child = fork();
        if (child == 0) {
            grow(15);
            exit(0); /* out of the thread's stack, through the exit handlers */
        }
        int status;
        need(waitpid(child, &status, 0) == child && status == 0, "the child of a thread");
        grow(5);
    }
    return unused;
}

static void forks(void) {
    pthread_t thread[2];
    for (unsigned i = 0; i < 2; i++) {
        need(pthread_create(&thread[i], NULL, fork_thread, NULL) == 0, "thread");
    }
    for (unsigned i = 0; i < 2; i++) {
        pthread_join(thread[i], NULL);
    }
    pid_t child = fork();
    if (child == 0) {
        tree_thread(NULL);
        exit(0);
    }
    int status;
    need(waitpid(child, &status, 0) == child && status == 0, "the child");
}

/* ---- damaged stacks ---------------------------------------------------------------------------------------------------- */

/* What a smashed stack holds. */
static uintptr_t rubbish(void) {
    switch (roll(7)) {
    case 0:
        return roll(65536);
    case 1:
        return 0x4141414141414141;
    case 2:
        return (uintptr_t)&seed + roll(4096); /* data */
    case 3:
        return (uintptr_t)__builtin_frame_address(0) + (uintptr_t)(int)(roll(65536) - 32768);
    case 4:
        return (uintptr_t)grow + roll(4096); /* code */
    case 5:
        return (uintptr_t)qsort + roll(65536);
    default:
        return seed * 0x9e3779b97f4a7c15;
    }
}

/* Smashes words further out, allocates, and mends them. Moat must neither fault nor hang; the stacks are anyone's guess. */
static NOINLINE void smash(uintptr_t *first, size_t words) {
    enum { SMASHED_MAX = 8 };
    uintptr_t *place[SMASHED_MAX], before[SMASHED_MAX];
    unsigned count = 1 + roll(SMASHED_MAX);
    for (unsigned i = 0; i < count; i++) {
        place[i] = first + roll((unsigned)words);
        before[i] = *place[i];
        *place[i] = rubbish();
    }
    allocate_once();
    for (unsigned i = count; i-- > 0;) {
        *place[i] = before[i];
    }
    KEEP_FRAME;
}

static NOINLINE void smash_at(unsigned depth, uintptr_t end) {
    volatile char room[32];
    room[0] = 1;
    if (depth != 0) {
        smash_at(depth - 1, end);
    } else {
        uintptr_t from = (uintptr_t)__builtin_frame_address(0);
        for (unsigned i = 0; i < 200; i++) {
            smash((uintptr_t *)from, (end - from) / sizeof(uintptr_t));
        }
    }
    room[1] = 1;
}

static void smash_coroutine(void) {
    smash_at(10, (uintptr_t)stack_of[0] + stack_bytes_of[0]);
    running[0] = false;
}

static void damage(void) {
    for (unsigned round = 0; round < 30; round++) {
        smash_at(3 + roll(20), (uintptr_t)__builtin_frame_address(0));
        /* On a stack that ends where nothing may be read. */
        size_t bytes = 64u << 10;
        char *memory = mmap(NULL, bytes + 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        need(memory != MAP_FAILED && mprotect(memory + 4096 + bytes, 4096, PROT_NONE) == 0 &&
                 mprotect(memory, 4096, PROT_NONE) == 0,
             "mmap");
        stack_of[0] = memory + 4096;
        stack_bytes_of[0] = bytes;
        getcontext(&context[0]);
        context[0].uc_stack.ss_sp = stack_of[0];
        context[0].uc_stack.ss_size = bytes;
        context[0].uc_link = &main_context;
        makecontext(&context[0], smash_coroutine, 0);
        swapcontext(&main_context, &context[0]);
        munmap(memory, bytes + 8192);
    }
}

/* ---- which ------------------------------------------------------------------------------------------------------------- */

static const struct {
    const char *name;
    void (*run)(void);
} scenes[] = {{"tree", tree},       {"deep", deep},
              {"jumps", jumps},     {"signals", signals},
              {"steps", steps},     {"coroutines", coroutines},
              {"loading", loading}, {"machine-code", machine_code},
              {"threads", threads}, {"forks", forks},
              {"damage", damage}};

int main(int count, char **arguments) {
    const char *directory = getenv("SCENES_LIBRARIES");
    for (unsigned i = 0; i < 2; i++) {
        snprintf(library_path[i], sizeof library_path[i], "%s/call%u.so", directory != NULL ? directory : ".", i);
    }
    for (int i = 1; i < count; i++) {
        size_t which = 0;
        while (which < sizeof scenes / sizeof scenes[0] && strcmp(scenes[which].name, arguments[i]) != 0) {
            which++;
        }
        need(which < sizeof scenes / sizeof scenes[0], arguments[i]);
        scenes[which].run();
    }
    return 0;
}
