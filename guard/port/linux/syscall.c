/* The system calls that are more than one instruction.
 * May include: the port's system calls, <sys/stat.h>. */
#define _GNU_SOURCE
#include "guard/port/linux/syscall.h"

#include <sys/stat.h>
#include <sys/sysmacros.h>

bool moat_sys_read_at(long descriptor, void *to, size_t bytes, uint64_t offset) {
    unsigned char *next = to;
    if (offset > (uint64_t)INT64_MAX - bytes)
        return false;
    while (bytes) {
#ifdef __LP64__
        long got = moat_syscall(SYS_pread64, descriptor, (long)(uintptr_t)next, (long)bytes, (long)offset, 0, 0);
#else /* a 64-bit argument takes two registers; i386 needs no pair to be aligned */
        long got = moat_syscall(SYS_pread64, descriptor, (long)(uintptr_t)next, (long)bytes, (long)(uint32_t)offset,
                                (long)(uint32_t)(offset >> 32), 0);
#endif
        if (got == -EINTR)
            continue;
        if (got <= 0)
            return false;
        next += got;
        bytes -= (size_t)got;
        offset += (uint64_t)got;
    }
    return true;
}

struct moat_file_identity moat_sys_identify(long descriptor) {
    struct moat_file_identity identity = {0, 0, 0, false};
    struct statx status;
    long result = moat_syscall(SYS_statx, descriptor, (long)(uintptr_t) "", AT_EMPTY_PATH, STATX_BASIC_STATS,
                               (long)(uintptr_t)&status, 0);
    if (!moat_sys_failed(result)) {
        identity.device = ((uint64_t)status.stx_dev_major << 32) | status.stx_dev_minor;
        identity.inode = status.stx_ino;
        identity.size_bytes = status.stx_size;
        identity.known = true;
    } else if (result != -EBADF) {
        /* A kernel or a filter without statx: the C library knows the older calls. */
        struct stat old;
        int kept = errno;
        if (fstat((int)descriptor, &old) == 0) {
            identity.device = ((uint64_t)major(old.st_dev) << 32) | minor(old.st_dev); /* to compare with the above */
            identity.inode = (uint64_t)old.st_ino;
            identity.size_bytes = (uint64_t)old.st_size;
            identity.known = true;
        }
        errno = kept;
    }
    return identity;
}
