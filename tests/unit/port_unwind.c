/* Tests of captured stacks against libgcc's unwinder: random call trees, C++ and C library frames, signals, faults, threads.
 * May include: tests/test.h, the port, POSIX. */
#define _GNU_SOURCE
#include "guard/port/linux/module.h"
#include "guard/port/linux/port.h"
#include "guard/port/linux/unwind.h"
#include "tests/test.h"

#include <alloca.h>
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>
#include <unwind.h>

enum { MOST = 256 };

static uintptr_t captured[MOST + MOAT_UNWIND_SLACK], expected[4 * MOST];
static size_t captured_count, expected_count;
static bool complete;
static unsigned comparisons;

static _Unwind_Reason_Code note(struct _Unwind_Context *unwinder, void *unused) {
    (void)unused;
    if (expected_count == sizeof expected / sizeof expected[0])
        return _URC_NORMAL_STOP;
    if (_Unwind_GetIP(unwinder) != 0) /* libgcc shows the end as a frame at 0 */
        expected[expected_count++] = _Unwind_GetIP(unwinder);
    return _URC_NO_REASON;
}

/* Stands for malloc: captures the stack of its caller, and has libgcc walk it too. */
static __attribute__((noinline)) void entry_most(size_t most) {
    uintptr_t caller = (uintptr_t)__builtin_return_address(0);
    errno = 77;
    captured_count = moat_unwind_capture(captured, most, caller, &complete);
    CHECK_EQ(errno, 77);
    expected_count = 0;
    _Unwind_Backtrace(note, NULL);
    size_t first = 0;
    while (first < expected_count && expected[first] != caller)
        first++;
    CHECK(first < 4);
    expected_count -= first;
    memmove(expected, expected + first, expected_count * sizeof expected[0]);
    CHECK_EQ(captured_count, expected_count < most ? expected_count : most);
    CHECK_EQ(complete, expected_count <= most);
    for (size_t i = 0; i < captured_count; i++)
        CHECK_EQ(captured[i], expected[i]);
    comparisons++;
}

static void entry(void) { entry_most(MOST); }

/* ---- random call trees ----------------------------------------------------------------------------------------- */

static unsigned seed = 1;

static unsigned roll(unsigned sides) {
    seed = seed * 1103515245u + 12345u;
    return (seed >> 16) % sides;
}

static void grow(unsigned depth);

/* Frames of several shapes: none to speak of, large, of a size known at run time only (so with a frame pointer), over-aligned,
 * with every callee-saved register in use. */
static __attribute__((noinline)) void plain(unsigned depth) {
    grow(depth);
    __asm__ volatile("");
}

static __attribute__((noinline)) void large(unsigned depth) {
    volatile char room[5000];
    room[depth] = 1;
    grow(depth);
    (void)room[depth];
}

static __attribute__((noinline)) void dynamic(unsigned depth) {
    volatile char *room = alloca(16 + depth * 7);
    room[depth] = 1;
    grow(depth);
    room[depth] = 2;
}

static __attribute__((noinline)) void aligned(unsigned depth) {
    _Alignas(128) volatile char room[256];
    room[depth & 255] = 1;
    grow(depth);
    (void)room[depth & 255];
}

static __attribute__((noinline)) unsigned busy(unsigned depth, unsigned a, unsigned b, unsigned c, unsigned d,
                                               unsigned e) {
    unsigned f = a * b, g = b * c, h = c * d, i = d * e, j = e * a;
    grow(depth);
    unsigned sum = f + g + h + i + j + a + b + c + d + e;
    grow(depth < 3 ? 0 : depth / 3);
    return sum * f;
}

static int compare_and_grow(const void *left, const void *right) {
    static bool once;
    if (!once) {
        once = true;
        grow(3);
        once = false;
    }
    return *(const int *)left - *(const int *)right;
}

static __attribute__((noinline)) void through_libc(void) {
    int numbers[] = {3, 1, 2};
    qsort(numbers, 3, sizeof numbers[0], compare_and_grow);
}

static void grow(unsigned depth) {
    if (depth == 0) {
        entry();
        return;
    }
    switch (roll(6)) {
    case 0:
        plain(depth - 1);
        break;
    case 1:
        large(depth - 1);
        break;
    case 2:
        dynamic(depth - 1);
        break;
    case 3:
        aligned(depth - 1);
        break;
    case 4:
        busy(depth - 1, seed, depth, seed >> 3, seed >> 5, seed >> 7);
        break;
    default:
        through_libc();
        break;
    }
    __asm__ volatile("");
}

MOAT_TEST(port_unwind, agrees_with_libgcc_on_random_call_trees) {
    moat_unwind_init();
    CHECK_TEXT(moat_unwind_kind(), "libunwind");
    for (unsigned round = 0; round < 3000; round++)
        grow(roll(round % 10 == 0 ? 150 : 30));
    CHECK(comparisons >= 3000);
}

static __attribute__((noinline)) void recurse(unsigned depth, size_t most) {
    if (depth == 0)
        entry_most(most);
    else
        recurse(depth - 1, most);
    __asm__ volatile("");
}

MOAT_TEST(port_unwind, says_so_when_a_stack_is_deeper_than_asked_for) {
    moat_unwind_init();
    for (unsigned depth = 0; depth < 700; depth += 7)
        for (size_t most = 1; most <= MOST; most = most * 2 + depth % 3)
            recurse(depth, most);
}

MOAT_TEST(port_unwind, gives_the_caller_before_it_was_set_up) {
    uintptr_t frames[4 + MOAT_UNWIND_SLACK];
    bool whole = true;
    CHECK_TEXT(moat_unwind_kind(), "none");
    CHECK_EQ(moat_unwind_capture(frames, 4, 0x1234, &whole), 1u);
    CHECK(frames[0] == 0x1234 && !whole);
    moat_unwind_init();
    /* A caller that is nowhere on the stack still comes first. */
    CHECK(moat_unwind_capture(frames, 4, 0x1234, &whole) >= 1);
    CHECK_EQ(frames[0], 0x1234);
}

MOAT_TEST(port_unwind, follows_cxx_frames_of_a_library_loaded_later) {
    char path[] = "/tmp/moat-test-XXXXXX", command[512];
    close(mkstemp(path));
    moat_unwind_init();
    snprintf(
        command, sizeof command,
        "printf '%%s' 'struct A { void (*f)(); ~A() { f(); } };"
        "extern \"C\" void cxx(void (*f)(), int deep) { A a{f}; try { if (deep) cxx(f, deep - 1); else throw 1; f(); }"
        " catch (int) { f(); throw; } } extern \"C\" void guarded(void (*f)()) { try { cxx(f, 5); } catch (...) { f(); "
        "} }'"
        " | ${CXX:-c++} -O2 -shared -fPIC -x c++ - -o %s",
        path);
    CHECK_EQ(system(command), 0);
    void *library = dlopen(path, RTLD_NOW);
    CHECK(library != NULL);
    void (*guarded)(void (*)(void));
    *(void **)&guarded = dlsym(library, "guarded");
    for (int i = 0; i < 3; i++)
        guarded(entry); /* from destructors and handlers, while exceptions are in flight */
    CHECK_EQ(comparisons, 3u * 13);
    unlink(path);
}

MOAT_TEST(port_unwind, drops_what_it_learnt_once_code_was_unloaded) {
    char path[] = "/tmp/moat-test-XXXXXX", command[256];
    uintptr_t frames[4 + MOAT_UNWIND_SLACK], in_loader = getauxval(AT_BASE) + 4096;
    bool whole;
    close(mkstemp(path));
    snprintf(command, sizeof command, "echo 'int x;' | ${CC:-cc} -shared -fPIC -x c - -o %s", path);
    CHECK_EQ(system(command), 0);
    moat_unwind_init();
    void *library = dlopen(path, RTLD_NOW);
    (void)moat_unwind_capture(frames, 4, in_loader, &whole); /* the loader allocates */
    entry();
    CHECK_TEXT(moat_unwind_kind(), "libunwind");
    CHECK(library != NULL && dlclose(library) == 0);
    (void)moat_unwind_capture(frames, 4, in_loader, &whole); /* the loader frees */
    entry();
    CHECK_TEXT(moat_unwind_kind(), "libgcc");
    for (unsigned round = 0; round < 100; round++)
        grow(roll(30));
    unlink(path);
}

/* ---- signals --------------------------------------------------------------------------------------------------- */

static void on_signal_compare(int number) {
    (void)number;
    entry();
}

static void handle(int number, void (*handler)(int), int flags) {
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = handler;
    action.sa_flags = flags;
    CHECK(sigaction(number, &action, NULL) == 0);
}

static void use_signal_stack(void) {
    stack_t stack = {.ss_sp = malloc(1 << 16), .ss_size = 1 << 16, .ss_flags = 0};
    CHECK(sigaltstack(&stack, NULL) == 0);
}

MOAT_TEST(port_unwind, crosses_signal_frames) {
    moat_unwind_init();
    use_signal_stack();
    handle(SIGUSR1, on_signal_compare, 0);
    handle(SIGUSR2, on_signal_compare, SA_ONSTACK);
    raise(SIGUSR1);
    raise(SIGUSR2);
    for (unsigned round = 0; round < 100; round++) {
        kill(getpid(), SIGUSR1);
        kill(getpid(), SIGUSR2);
        grow(roll(20));
    }
    CHECK(comparisons >= 302);
}

static volatile sig_atomic_t ticks, cut_short;
static sigjmp_buf escape;

static __attribute__((noinline)) size_t capture_quietly(void) {
    static _Thread_local uintptr_t frames[MOST + MOAT_UNWIND_SLACK];
    bool whole;
    size_t count = moat_unwind_capture(frames, MOST, (uintptr_t)__builtin_return_address(0), &whole);
    return whole ? count : 1;
}

static void on_tick(int number) {
    (void)number;
    ticks++;
    cut_short += capture_quietly() == 1;
}

static void on_tick_escape(int number) {
    (void)number;
    ticks++;
    siglongjmp(escape, 1);
}

static __attribute__((noinline)) size_t capture_deeper(unsigned depth) {
    volatile char room[512];
    memset((char *)room, 0, sizeof room);
    size_t count = depth ? capture_deeper(depth - 1) : capture_quietly();
    return count + (size_t)room[depth];
}

static void start_ticking(void) {
    struct itimerval timer = {{0, 200}, {0, 200}};
    CHECK(setitimer(ITIMER_REAL, &timer, NULL) == 0);
}

static void stop_ticking(void) {
    struct itimerval timer = {{0, 0}, {0, 0}};
    CHECK(setitimer(ITIMER_REAL, &timer, NULL) == 0);
}

MOAT_TEST(port_unwind, may_be_interrupted_by_itself) {
    moat_unwind_init();
    size_t usual = capture_quietly();
    CHECK(usual > 3);
    handle(SIGALRM, on_tick, 0);
    start_ticking();
    while (ticks < 2000)
        CHECK_EQ(capture_quietly(), usual);
    stop_ticking();
    CHECK(cut_short > 0); /* some came while a capture ran, and were told their caller only */
}

MOAT_TEST(port_unwind, recovers_when_a_handler_jumps_out_of_a_capture) {
    moat_unwind_init();
    size_t usual = capture_quietly();
    handle(SIGALRM, on_tick_escape, SA_NODEFER);
    start_ticking();
    while (ticks < 2000)
        if (sigsetjmp(escape, 1) == 0)
            for (;;)
                (void)capture_quietly();
    stop_ticking();
    CHECK_EQ(capture_deeper(3), usual + 4); /* also from further in than where the capture was left */
    CHECK_EQ(capture_quietly(), usual);
}

/* ---- faults ---------------------------------------------------------------------------------------------------- */

static uintptr_t fault_frames[MOST + MOAT_UNWIND_SLACK];
static size_t fault_count;
static uintptr_t fault_pc;

#ifdef __x86_64__
static int damage; /* what to do to the registers before the walk */

static void on_fault(int number, siginfo_t *info, void *context) {
    (void)number;
    (void)info;
    ucontext_t *registers = context;
    fault_pc = (uintptr_t)registers->uc_mcontext.gregs[REG_RIP];
    if (damage == 1)
        registers->uc_mcontext.gregs[REG_RBP] = 0x1234567;
    if (damage == 2)
        registers->uc_mcontext.gregs[REG_RSP] = 0x1000;
    if (damage == 3)
        registers->uc_mcontext.gregs[REG_RSP] = registers->uc_mcontext.gregs[REG_RBP] = (greg_t)0xdeadbeef00000000;
    for (int i = 0; damage == 4 && i < REG_RIP; i++)
        registers->uc_mcontext.gregs[i] = (greg_t)((unsigned long long)roll(65536) << roll(48));
    errno = 77;
    fault_count = moat_unwind_from_context(context, fault_frames, MOST);
    CHECK_EQ(errno, 77);
    siglongjmp(escape, 1);
}

static void handle_faults(void) {
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    use_signal_stack();
    CHECK(sigaction(SIGSEGV, &action, NULL) == 0 && sigaction(SIGBUS, &action, NULL) == 0);
}

static __attribute__((noinline)) void touch(volatile int *where) {
    *where = 1;
    __asm__ volatile("");
}

static void (*volatile wild_call)(void);

/* Captures its stack, then faults from the same place in it. */
static __attribute__((noinline)) void capture_and_fault(bool call) {
    entry();
    if (sigsetjmp(escape, 1) == 0) {
        if (call)
            wild_call();
        else
            touch((volatile int *)8);
    }
}

static void check_fault_stack(size_t inner) {
    CHECK_EQ(fault_count, captured_count + inner);
    CHECK_EQ(fault_frames[0], fault_pc);
    for (size_t i = 1; i < captured_count; i++) /* frame 0 of the capture is another line of capture_and_fault */
        CHECK_EQ(fault_frames[i + inner], captured[i]);
}

MOAT_TEST(port_unwind, walks_from_the_registers_of_a_fault) {
    moat_unwind_init();
    handle_faults();
    capture_and_fault(false);
    CHECK(fault_pc - (uintptr_t)&touch < 32);
    check_fault_stack(1);
    wild_call = (void (*)(void))0x10;
    capture_and_fault(true);
    CHECK_EQ(fault_pc, 0x10);
    check_fault_stack(1);
    wild_call = NULL;
    capture_and_fault(true);
    CHECK_EQ(fault_pc, 0u);
    check_fault_stack(1);
}

MOAT_TEST(port_unwind, does_not_fault_on_damaged_registers) {
    moat_unwind_init();
    handle_faults();
    for (int round = 0; round < 3000; round++) {
        damage = round < 3 ? round + 1 : 4;
        capture_and_fault(false);
        CHECK(fault_count >= 1 && fault_count <= MOST);
        CHECK_EQ(fault_frames[0], fault_pc);
    }
}
#endif

/* ---- threads and forks ----------------------------------------------------------------------------------------- */

static pthread_key_t key;
static _Atomic unsigned in_destructors, wrong;

static void destroy(void *value) {
    wrong += capture_quietly() < 3;
    in_destructors++;
    if ((uintptr_t)value < 3) /* again, after the unwinder's own thread data went */
        pthread_setspecific(key, (char *)value + 1);
}

static void *thread_main(void *unused) {
    for (int i = 0; i < 100; i++)
        wrong += capture_quietly() < 2;
    pthread_setspecific(key, (void *)1);
    return unused;
}

MOAT_TEST(port_unwind, works_in_threads_until_their_very_end) {
    moat_unwind_init();
    CHECK(pthread_key_create(&key, destroy) == 0);
    for (int round = 0; round < 50; round++) {
        pthread_t thread[4];
        for (int i = 0; i < 4; i++)
            CHECK(pthread_create(&thread[i], NULL, thread_main, NULL) == 0);
        for (int i = 0; i < 4; i++)
            CHECK(pthread_join(thread[i], NULL) == 0);
    }
    CHECK_EQ(in_destructors, 50u * 4 * 3);
    CHECK_EQ(wrong, 0u);
}

static volatile bool stop;

/* Ever new return addresses would be best to keep the unwinder's own locks busy; loading and unloading comes near. */
static void *keep_busy(void *unused) {
    while (!stop)
        (void)capture_quietly();
    return unused;
}

MOAT_TEST(port_unwind, works_in_a_forked_child_of_a_threaded_program) {
    pthread_t thread[2];
    moat_unwind_init();
    for (int i = 0; i < 2; i++)
        CHECK(pthread_create(&thread[i], NULL, keep_busy, NULL) == 0);
    for (int round = 0; round < 50; round++) {
        moat_port_before_fork();
        pid_t child = fork();
        moat_port_after_fork();
        if (child == 0) {
            alarm(10);
            _exit(capture_quietly() < 3 || strcmp(moat_unwind_kind(), "libgcc") != 0);
        }
        int status;
        CHECK(waitpid(child, &status, 0) == child);
        CHECK_EQ(status, 0);
        CHECK_TEXT(moat_unwind_kind(), "libunwind");
    }
    stop = true;
    for (int i = 0; i < 2; i++)
        CHECK(pthread_join(thread[i], NULL) == 0);
}
