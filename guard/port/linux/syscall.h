/* System calls without the C library in between: nothing to interpose, no cancellation point, no errno.
 * May include: <sys/syscall.h> and what the fallback needs.
 *
 * Results are the kernel's: negative error numbers on failure. */
#ifndef MOAT_PORT_SYSCALL_H
#define MOAT_PORT_SYSCALL_H

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

#if defined(__x86_64__) && defined(__LP64__)
static inline long moat_syscall(long number, long a, long b, long c, long d, long e, long f) {
    long result;
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}
#elif defined(__aarch64__)
static inline long moat_syscall(long number, long a, long b, long c, long d, long e, long f) {
    register long x8 __asm__("x8") = number;
    register long x0 __asm__("x0") = a;
    register long x1 __asm__("x1") = b;
    register long x2 __asm__("x2") = c;
    register long x3 __asm__("x3") = d;
    register long x4 __asm__("x4") = e;
    register long x5 __asm__("x5") = f;
    __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5) : "memory");
    return x0;
}
#else
/* Elsewhere the C library's own gate does: it adds nothing but errno, which is put back. */
static inline long moat_syscall(long number, long a, long b, long c, long d, long e, long f) {
    int kept = errno;
    long result = syscall(number, a, b, c, d, e, f);
    if (result == -1)
        result = -errno;
    errno = kept;
    return result;
}
#endif

#ifdef SYS_mmap2
#define MOAT_SYS_MMAP SYS_mmap2 /* counts the file offset in pages; all of Moat's are 0 */
#else
#define MOAT_SYS_MMAP SYS_mmap
#endif

/* The kernel refuses with -4095 to -1; everything else is a result, addresses above the sign bit included. */
static inline bool moat_sys_failed(long result) { return (unsigned long)result >= (unsigned long)-4095L; }

static inline long moat_sys_open(const char *path, int flags, unsigned mode) {
    return moat_syscall(SYS_openat, AT_FDCWD, (long)(uintptr_t)path, flags | O_CLOEXEC, (long)mode, 0, 0);
}

static inline void moat_sys_close(long descriptor) { (void)moat_syscall(SYS_close, descriptor, 0, 0, 0, 0, 0); }

/* Reads once, going on after an interruption. */
static inline long moat_sys_read(long descriptor, void *to, size_t bytes) {
    long got;
    do {
        got = moat_syscall(SYS_read, descriptor, (long)(uintptr_t)to, (long)bytes, 0, 0, 0);
    } while (got == -EINTR);
    return got;
}

/* Reads at an offset: exactly `bytes` bytes, or false. */
bool moat_sys_read_at(long descriptor, void *to, size_t bytes, uint64_t offset);

/* Which file a descriptor is. */
struct moat_file_identity {
    uint64_t device;
    uint64_t inode;
    uint64_t size_bytes;
    bool known;
};

/* Identifies an open file; `known` is false when it is not open. */
struct moat_file_identity moat_sys_identify(long descriptor);

#endif
