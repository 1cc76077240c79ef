/* The spool's reading side; guard/report/spool_file.h describes the file.
 * May include: guard/cli/cli.h, guard/report/spool_file.h and the C library. */
#define _GNU_SOURCE
#include "guard/cli/cli.h"
#include "guard/report/spool_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#define CHUNK_BYTES (4u * MOAT_RECORD_BYTES_MAX)
/* The directory's name cannot be listed by others, only passed through by who knows the file's random name; so a
 * program that changed its user id can still append, and a stranger cannot. */
#define DIRECTORY_MODE 0711
#define FILE_MODE 0666

static void put_number(unsigned char *bytes, uint64_t value) {
    for (unsigned i = 0; i < 8; i++) {
        bytes[i] = (unsigned char)(value >> (8 * i));
    }
}

/* Header fields are written in place; a failure only means that writers wait in vain and print for themselves. */
static void set_number(const struct moat_spool *spool, unsigned at, uint64_t value) {
    unsigned char bytes[8];
    put_number(bytes, value);
    if (pwrite(spool->fd, bytes, sizeof bytes, (off_t)at) != (ssize_t)sizeof bytes) {
        return;
    }
}

static bool write_header(const struct moat_spool *spool, bool locked) {
    unsigned char header[MOAT_SPOOL_HEADER_BYTES] = {0};
    memcpy(header, MOAT_SPOOL_MAGIC, MOAT_SPOOL_MAGIC_BYTES);
    header[MOAT_SPOOL_VERSION_AT] = MOAT_SPOOL_VERSION;
    header[MOAT_SPOOL_OPEN_AT] = 1;
    header[MOAT_SPOOL_LOCKED_AT] = locked;
    put_number(header + MOAT_SPOOL_TAKEN_AT, MOAT_SPOOL_HEADER_BYTES);
    put_number(header + MOAT_SPOOL_SEEN_AT, MOAT_SPOOL_HEADER_BYTES);
    put_number(header + MOAT_SPOOL_READER_AT, (uint64_t)getpid());
    return pwrite(spool->fd, header, sizeof header, 0) == (ssize_t)sizeof header;
}

static bool create_below(struct moat_spool *spool, const char *parent) {
    char real_parent[PATH_MAX];
    uint64_t random = 0;
    if (realpath(parent, real_parent) == NULL ||
        snprintf(spool->directory, sizeof spool->directory, "%s/moat-XXXXXX", real_parent) >= PATH_MAX ||
        mkdtemp(spool->directory) == NULL) {
        return false;
    }
    spool->fd = -1;
    if (getrandom(&random, sizeof random, 0) == (ssize_t)sizeof random &&
        chmod(spool->directory, DIRECTORY_MODE) == 0 &&
        snprintf(spool->path, sizeof spool->path, "%s/%016llx", spool->directory, (unsigned long long)random) <
            PATH_MAX) {
        spool->fd = open(spool->path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, FILE_MODE);
    }
    if (spool->fd >= 0 && fchmod(spool->fd, FILE_MODE) == 0 &&
        write_header(spool, flock(spool->fd, LOCK_EX | LOCK_NB) == 0)) {
        return true;
    }
    int reason = errno;
    if (spool->fd >= 0) {
        unlink(spool->path);
        close(spool->fd);
    }
    rmdir(spool->directory);
    errno = reason;
    return false;
}

bool moat_spool_create(struct moat_spool *spool) {
    const char *parent = getenv("TMPDIR");
    memset(spool, 0, sizeof *spool);
    bool made = (parent != NULL && *parent != '\0' && create_below(spool, parent)) || create_below(spool, "/tmp");
    if (!made) {
        moat_cli_complain("cannot make a directory for reports under %s: %s",
                          parent != NULL && *parent != '\0' ? parent : "/tmp", strerror(errno));
        return false;
    }
    spool->next = MOAT_SPOOL_HEADER_BYTES;
    spool->chunk = moat_cli_allocate(CHUNK_BYTES);
    spool->report = moat_cli_allocate(sizeof *spool->report);
    spool->notify_fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    if (spool->notify_fd >= 0 && inotify_add_watch(spool->notify_fd, spool->path, IN_MODIFY) < 0) {
        close(spool->notify_fd);
        spool->notify_fd = -1;
    }
    return true;
}

static void forget_notices(const struct moat_spool *spool) {
    char notices[4096];
    while (spool->notify_fd >= 0 && read(spool->notify_fd, notices, sizeof notices) > 0) {
    }
}

/* Takes what one chunk holds. Gives how many records; *used_bytes is 0 when the chunk begins with an incomplete one. */
static size_t take_chunk(struct moat_spool *spool, size_t length, bool last, size_t *used_bytes,
                         void (*take)(void *context, const struct moat_report *report), void *context) {
    size_t count = 0;
    size_t at = 0;
    while (at < length) {
        size_t used = 0;
        enum moat_decode_result result = moat_report_decode(spool->chunk + at, length - at, spool->report, &used);
        if (result == MOAT_DECODE_MORE) {
            if (!last || (at > 0 && length == CHUNK_BYTES)) {
                break;
            }
            used = 1; /* its end will never come: look for a record behind its beginning */
        }
        spool->damaged = spool->damaged || result != MOAT_DECODE_OK;
        at += used;
        if (result == MOAT_DECODE_OK) {
            take(context, spool->report);
            count++;
            set_number(spool, MOAT_SPOOL_TAKEN_AT, spool->next + at);
        }
    }
    *used_bytes = at;
    return count;
}

size_t moat_spool_drain(struct moat_spool *spool, bool last,
                        void (*take)(void *context, const struct moat_report *report), void *context) {
    size_t count = 0;
    bool working = false;
    forget_notices(spool);
    for (;;) {
        ssize_t got = pread(spool->fd, spool->chunk, CHUNK_BYTES, (off_t)spool->next);
        if (got <= 0) {
            break;
        }
        if (!working) {
            working = true;
            set_number(spool, MOAT_SPOOL_SEEN_AT, UINT64_MAX);
        }
        size_t used = 0;
        count += take_chunk(spool, (size_t)got, last, &used, take, context);
        spool->next += used;
        if (used == 0) {
            break;
        }
    }
    if (working) {
        set_number(spool, MOAT_SPOOL_TAKEN_AT, spool->next);
        set_number(spool, MOAT_SPOOL_SEEN_AT, spool->next);
    }
    return count;
}

void moat_spool_close(struct moat_spool *spool, void (*take)(void *context, const struct moat_report *report),
                      void *context) {
    /* First closed, then read once more: who appended while it was open is read, who comes later prints for itself. */
    const char closed = 0;
    if (pwrite(spool->fd, &closed, 1, (off_t)MOAT_SPOOL_OPEN_AT) == 1) {
        moat_spool_drain(spool, true, take, context);
    }
    if (spool->damaged) {
        moat_cli_complain("some report was damaged on its way here and is lost");
    }
    unlink(spool->path);
    close(spool->fd);
    if (spool->notify_fd >= 0) {
        close(spool->notify_fd);
    }
    rmdir(spool->directory);
    free(spool->chunk);
    free(spool->report);
}
