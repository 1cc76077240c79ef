/* Writing text for the user: see output.h.
 * May include: the port's headers, <signal.h>, <poll.h>. */
#define _GNU_SOURCE
#include "guard/port/linux/output.h"
#include "guard/port/linux/state.h"
#include "guard/port/linux/text.h"

#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <time.h>

enum { MOAT_STANDARD_ERROR = 2, MOAT_OUTPUT_PATIENCE_MS = 2000, MOAT_OUTPUT_MODE = 0666, MOAT_MS_PER_S = 1000 };
#define MOAT_NS_PER_MS 1000000L

/* The kernel's signal set: 64 signals, whatever the C library makes of it. */
typedef uint64_t moat_kernel_signals;
#define MOAT_SIGNAL_PIPE ((moat_kernel_signals)1 << (SIGPIPE - 1))
/* The signals that a write raises: nobody reads the pipe, the file is at the process's limit. */
#define MOAT_SIGNALS_OF_WRITE (MOAT_SIGNAL_PIPE | (moat_kernel_signals)1 << (SIGXFSZ - 1))

static struct moat_output_state *const own = &moat_port_state.output;

/* ---- a write that raises no signal ----------------------------------------------------------------------------- */

static void moat_signals_set(int how, const moat_kernel_signals *set, moat_kernel_signals *old) {
    (void)moat_syscall(SYS_rt_sigprocmask, how, (long)(uintptr_t)set, (long)(uintptr_t)old, sizeof *set, 0, 0);
}

static moat_kernel_signals moat_signals_pending(void) {
    moat_kernel_signals pending = 0;
    (void)moat_syscall(SYS_rt_sigpending, (long)(uintptr_t)&pending, sizeof pending, 0, 0, 0, 0);
    return pending & MOAT_SIGNALS_OF_WRITE;
}

/* Takes the signal away that a write of ours has just made pending. */
static void moat_signals_take(moat_kernel_signals made) {
    const long at_once[4] = {0, 0, 0, 0}; /* a timespec of zero, in either width */
#ifdef SYS_rt_sigtimedwait
    const long number = SYS_rt_sigtimedwait;
#else
    const long number = SYS_rt_sigtimedwait_time64;
#endif
    (void)moat_syscall(number, (long)(uintptr_t)&made, 0, (long)(uintptr_t)at_once, sizeof made, 0, 0);
}

static int64_t moat_output_now_ms(void) {
    struct timespec now = {0, 0};
    (void)moat_syscall(SYS_clock_gettime, CLOCK_MONOTONIC, (long)(uintptr_t)&now, 0, 0, 0, 0);
    return (int64_t)now.tv_sec * MOAT_MS_PER_S + now.tv_nsec / MOAT_NS_PER_MS;
}

/* Waits until a descriptor takes more; false when it does not within the time left. */
static bool moat_output_wait(long descriptor, int64_t deadline_ms) {
    int64_t left = deadline_ms - moat_output_now_ms();
    if (left <= 0)
        return false;
    struct pollfd waiting = {.fd = (int)descriptor, .events = POLLOUT, .revents = 0};
    long ready;
#ifdef SYS_poll
    ready = moat_syscall(SYS_poll, (long)(uintptr_t)&waiting, 1, (long)left, 0, 0, 0);
#else
    struct timespec time = {left / MOAT_MS_PER_S, (left % MOAT_MS_PER_S) * MOAT_NS_PER_MS};
    ready = moat_syscall(SYS_ppoll, (long)(uintptr_t)&waiting, 1, (long)(uintptr_t)&time, 0, 0, 0);
#endif
    return ready > 0 || ready == -EINTR;
}

static bool moat_output_push(long descriptor, const char *text, size_t length) {
    int64_t deadline = 0;
    while (length) {
        long put = moat_syscall(SYS_write, descriptor, (long)(uintptr_t)text, (long)length, 0, 0, 0);
        if (put > 0) {
            text += put;
            length -= (size_t)put;
            deadline = 0; /* it moves: patience starts anew */
        } else if (put == -EAGAIN) {
            if (deadline == 0)
                deadline = moat_output_now_ms() + MOAT_OUTPUT_PATIENCE_MS;
            if (!moat_output_wait(descriptor, deadline))
                return false;
        } else if (put != -EINTR) {
            return false;
        }
    }
    return true;
}

bool moat_output_write_to(int descriptor, const char *text, size_t length_bytes) {
    const moat_kernel_signals blocked = MOAT_SIGNALS_OF_WRITE;
    moat_kernel_signals old = 0;
    moat_signals_set(SIG_BLOCK, &blocked, &old);
    moat_kernel_signals before = moat_signals_pending();
    bool written = moat_output_push(descriptor, text, length_bytes);
    moat_kernel_signals made = written ? 0 : moat_signals_pending() & ~before;
    if (made)
        moat_signals_take(made);
    moat_signals_set(SIG_SETMASK, &old, NULL);
    return written;
}

/* ---- where to -------------------------------------------------------------------------------------------------- */

static bool moat_output_standard_error_is_ours(void) {
    struct moat_file_identity now = moat_sys_identify(MOAT_STANDARD_ERROR);
    return now.known && own->standard_error.known && now.device == own->standard_error.device &&
           now.inode == own->standard_error.inode;
}

/* Puts the process id where the path says %p. */
static void moat_output_expand(const char *path, char *expanded, size_t room) {
    struct moat_text_buffer text = moat_text_begin(expanded, room);
    for (; *path; path++) {
        if (path[0] == '%' && path[1] == 'p') {
            moat_text_add_number(&text, (uint64_t)moat_syscall(SYS_getpid, 0, 0, 0, 0, 0, 0), 10);
            path++;
        } else {
            if (path[0] == '%' && path[1] == '%')
                path++;
            moat_text_add_bytes(&text, path, 1);
        }
    }
}

static long moat_output_open(const char *path, int flags) {
    char expanded[MOAT_PATH_BYTES];
    moat_output_expand(path, expanded, sizeof expanded);
    return moat_sys_open(expanded, O_WRONLY | O_CREAT | O_APPEND | O_NOCTTY | flags, MOAT_OUTPUT_MODE);
}

static bool moat_output_append(const char *path, int flags, const char *text, size_t length) {
    long descriptor = moat_output_open(path, flags);
    if (moat_sys_failed(descriptor))
        return false;
    bool written = moat_output_write_to((int)descriptor, text, length);
    moat_sys_close(descriptor);
    return written;
}

void moat_output_init(void) { own->standard_error = moat_sys_identify(MOAT_STANDARD_ERROR); }

int moat_output_report_to(const char *path) {
    struct moat_text_buffer text = moat_text_begin(own->path, sizeof own->path);
    if (path[0] == '\0')
        return 0;
    if (path[0] != '/') {
        char directory[MOAT_PATH_BYTES];
        long length = moat_syscall(SYS_getcwd, (long)(uintptr_t)directory, sizeof directory, 0, 0, 0, 0);
        if (length > 0 && directory[0] == '/') {
            for (const char *c = directory; *c; c++)
                moat_text_add_bytes(&text, *c == '%' ? "%%" : c, *c == '%' ? 2 : 1);
            moat_text_add(&text, "/");
        }
    }
    moat_text_add(&text, path);
    if (text.length == text.room - 1)
        return ENAMETOOLONG;
    long descriptor = moat_output_open(own->path, 0);
    if (moat_sys_failed(descriptor))
        return (int)-descriptor;
    moat_sys_close(descriptor);
    return 0;
}

void moat_output_write(const char *text, size_t length_bytes) {
    if (own->path[0] && moat_output_append(own->path, 0, text, length_bytes))
        return;
    if (moat_output_standard_error_is_ours() && moat_output_write_to(MOAT_STANDARD_ERROR, text, length_bytes))
        return;
    /* No link is followed: the directory may be one where others can place them. */
    if (!moat_output_append("moat.%p.report", O_NOFOLLOW, text, length_bytes))
        atomic_fetch_add_explicit(&own->lost_bytes, length_bytes, memory_order_relaxed);
}

bool moat_output_is_terminal(void) {
    /* Which ioctl a terminal answers and nothing else does: its settings. The kernel's struct is under 64 bytes. */
    enum { MOAT_TCGETS = 0x5401, MOAT_TERMIOS_BYTES = 256 };
    unsigned char settings[MOAT_TERMIOS_BYTES];
    return own->path[0] == '\0' && moat_output_standard_error_is_ours() &&
           !moat_sys_failed(
               moat_syscall(SYS_ioctl, MOAT_STANDARD_ERROR, MOAT_TCGETS, (long)(uintptr_t)settings, 0, 0, 0));
}

size_t moat_output_lost_bytes(void) { return atomic_load_explicit(&own->lost_bytes, memory_order_relaxed); }
