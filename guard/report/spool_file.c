/* The writing side of the spool.
 * May include: guard/report/spool_file.h and system call numbers and constants. It makes its system calls through
 * syscall(): libc's own open and write are cancellation points, at which a thread with a pending pthread_cancel would
 * end in mid-report. */
#include "guard/report/spool_file.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define POLL_FIRST_NS 200000L /* how long the reader usually takes for a small report */
#define POLL_MOST_NS 5000000L
#define NS_PER_MS 1000000L
#define FILE_SIZE_MARGIN_BYTES (1u << 20) /* others may append between our look at the size and our write */

static long read_at_start(long fd, unsigned char *fields) {
    long got = syscall(SYS_lseek, fd, 0, SEEK_SET);
    return got < 0 ? got : syscall(SYS_read, fd, fields, MOAT_SPOOL_FIELDS_BYTES);
}

static uint64_t number_at(const unsigned char *fields, unsigned at) {
    uint64_t number = 0;
    for (unsigned i = 8; i > 0; i--) {
        number = number << 8 | fields[at + i - 1];
    }
    return number;
}

static bool header_is_ours(const unsigned char *fields) {
    return memcmp(fields, MOAT_SPOOL_MAGIC, MOAT_SPOOL_MAGIC_BYTES) == 0 &&
           fields[MOAT_SPOOL_VERSION_AT] == MOAT_SPOOL_VERSION;
}

/* Whether the process that reads the spool still lives. A shared lock that we get shows that its exclusive one is gone.
 */
static bool reader_lives(long fd, const unsigned char *fields) {
    if (fields[MOAT_SPOOL_OPEN_AT] == 0) {
        return false;
    }
    if (fields[MOAT_SPOOL_LOCKED_AT] != 0) {
        if (syscall(SYS_flock, fd, LOCK_SH | LOCK_NB) == 0) {
            syscall(SYS_flock, fd, LOCK_UN);
            return false;
        }
        return errno == EWOULDBLOCK || errno == EINTR;
    }
    return syscall(SYS_kill, (pid_t)number_at(fields, MOAT_SPOOL_READER_AT), 0) == 0 || errno == EPERM;
}

/* A write beyond the file size limit would raise SIGXFSZ in a program that never writes that much itself. */
static bool fits_size_limit(long fd, size_t length) {
    long size = syscall(SYS_lseek, fd, 0, SEEK_END);
    struct {
        uint64_t soft, hard;
    } limit; /* as the system call gives it on every processor, unlike struct rlimit */
    if (size < 0 || syscall(SYS_prlimit64, 0, RLIMIT_FSIZE, NULL, &limit) != 0) {
        return size >= 0;
    }
    return limit.soft == UINT64_MAX || (uint64_t)size + length + FILE_SIZE_MARGIN_BYTES <= limit.soft;
}

static void pause_for(long nanoseconds) {
    struct {
        long seconds, nanoseconds;
    } span = {0, nanoseconds}; /* SYS_nanosleep takes words, whatever the C library's time_t is */
    syscall(SYS_nanosleep, &span, NULL);
}

static bool wait_for_reader(long fd, uint64_t end) {
    unsigned char fields[MOAT_SPOOL_FIELDS_BYTES];
    int64_t waited_ns = 0;
    int64_t seen_at_ns = -1;
    long pause_ns = POLL_FIRST_NS;
    for (;;) {
        if (read_at_start(fd, fields) != (long)sizeof fields || !header_is_ours(fields)) {
            return false;
        }
        if (number_at(fields, MOAT_SPOOL_TAKEN_AT) >= end) {
            return true;
        }
        if (!reader_lives(fd, fields)) {
            /* It may have printed the report and left between our two looks. */
            return read_at_start(fd, fields) == (long)sizeof fields && number_at(fields, MOAT_SPOOL_TAKEN_AT) >= end;
        }
        if (seen_at_ns < 0 && number_at(fields, MOAT_SPOOL_SEEN_AT) >= end) {
            seen_at_ns = waited_ns;
        }
        int64_t waited_ms = (waited_ns - (seen_at_ns < 0 ? 0 : seen_at_ns)) / NS_PER_MS;
        if (waited_ms >= (seen_at_ns < 0 ? MOAT_SPOOL_SEEN_WAIT_MS : MOAT_SPOOL_TAKEN_WAIT_MS)) {
            return false;
        }
        pause_for(pause_ns);
        waited_ns += pause_ns;
        pause_ns = pause_ns * 2 < POLL_MOST_NS ? pause_ns * 2 : POLL_MOST_NS;
    }
}

static bool append_and_wait(long fd, const unsigned char *record, size_t length, bool wait_until_taken) {
    unsigned char fields[MOAT_SPOOL_FIELDS_BYTES];
    if (read_at_start(fd, fields) != (long)sizeof fields || !header_is_ours(fields) || !reader_lives(fd, fields)) {
        return false;
    }
    if (!fits_size_limit(fd, length) || syscall(SYS_write, fd, record, length) != (long)length) {
        return false;
    }
    long end = syscall(SYS_lseek, fd, 0, SEEK_CUR); /* O_APPEND moved us to the end of our own record */
    return end > 0 && (!wait_until_taken || wait_for_reader(fd, (uint64_t)end));
}

bool moat_spool_append(const char *path, const unsigned char *record, size_t length, bool wait_until_taken) {
    int saved_errno = errno;
    long fd = syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0);
    bool taken = fd >= 0 && append_and_wait(fd, record, length, wait_until_taken);
    if (fd >= 0) {
        syscall(SYS_close, fd);
    }
    errno = saved_errno;
    return taken;
}
