/* Tests of the spool's writing side against files and readers of every sort.
 * May include: tests/test.h, guard/report, POSIX. */
#define _GNU_SOURCE
#include "guard/report/spool_file.h"
#include "tests/test.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define RECORD_BYTES 100
#define WRITERS 4
#define EACH_WRITES 2000

static char path[64];
static unsigned char record[RECORD_BYTES];

static void put_number(int fd, unsigned at, uint64_t number) {
    unsigned char bytes[8];
    for (unsigned i = 0; i < 8; i++) {
        bytes[i] = (unsigned char)(number >> (8 * i));
    }
    CHECK(pwrite(fd, bytes, sizeof bytes, (off_t)at) == 8);
}

/* A spool whose reader is this process. `locked`: it says so and holds the lock. */
static int make_spool(bool locked) {
    unsigned char header[MOAT_SPOOL_HEADER_BYTES] = MOAT_SPOOL_MAGIC;
    strcpy(path, "/tmp/moat-test-XXXXXX");
    int fd = mkstemp(path);
    CHECK(fd >= 0);
    header[MOAT_SPOOL_VERSION_AT] = MOAT_SPOOL_VERSION;
    header[MOAT_SPOOL_OPEN_AT] = 1;
    header[MOAT_SPOOL_LOCKED_AT] = locked;
    CHECK(write(fd, header, sizeof header) == (ssize_t)sizeof header);
    put_number(fd, MOAT_SPOOL_READER_AT, (uint64_t)getpid());
    CHECK(!locked || flock(fd, LOCK_EX | LOCK_NB) == 0);
    memset(record, 0x5a, sizeof record);
    return fd;
}

static void drop_spool(int fd) {
    close(fd);
    unlink(path);
}

static off_t size_of(int fd) {
    struct stat status;
    CHECK(fstat(fd, &status) == 0);
    return status.st_size;
}

static double seconds_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

MOAT_TEST(spool_file, appends_and_keeps_errno) {
    int fd = make_spool(true);
    errno = 12345;
    CHECK(moat_spool_append(path, record, sizeof record, false));
    CHECK_EQ(errno, 12345);
    CHECK_EQ(size_of(fd), MOAT_SPOOL_HEADER_BYTES + RECORD_BYTES);
    unsigned char back[RECORD_BYTES];
    CHECK(pread(fd, back, sizeof back, MOAT_SPOOL_HEADER_BYTES) == RECORD_BYTES);
    CHECK(memcmp(back, record, sizeof back) == 0);
    drop_spool(fd);
    CHECK(!moat_spool_append(path, record, sizeof record, false));
    CHECK_EQ(errno, 12345);
}

MOAT_TEST(spool_file, refuses_what_is_no_spool) {
    int fd = make_spool(true);
    CHECK(pwrite(fd, "x", 1, 0) == 1);
    CHECK(!moat_spool_append(path, record, sizeof record, false));
    CHECK(pwrite(fd, "M", 1, 0) == 1 && pwrite(fd, "\2", 1, MOAT_SPOOL_VERSION_AT) == 1);
    CHECK(!moat_spool_append(path, record, sizeof record, false));
    CHECK_EQ(size_of(fd), MOAT_SPOOL_HEADER_BYTES);
    drop_spool(fd);
    CHECK(!moat_spool_append("/tmp", record, sizeof record, false));
    CHECK(!moat_spool_append("", record, sizeof record, false));
    char link[80];
    fd = make_spool(true);
    snprintf(link, sizeof link, "%s.link", path);
    CHECK(symlink(path, link) == 0);
    CHECK(!moat_spool_append(link, record, sizeof record, false)); /* in a shared directory it may be anyone's */
    unlink(link);
    drop_spool(fd);
}

MOAT_TEST(spool_file, a_closed_spool_is_left_alone) {
    int fd = make_spool(true);
    CHECK(pwrite(fd, "", 1, MOAT_SPOOL_OPEN_AT) == 1);
    CHECK(!moat_spool_append(path, record, sizeof record, false));
    CHECK_EQ(size_of(fd), MOAT_SPOOL_HEADER_BYTES);
    drop_spool(fd);
}

MOAT_TEST(spool_file, a_dead_reader_is_noticed_at_once) {
    int fd = make_spool(true);
    flock(fd, LOCK_UN); /* what the end of a process does */
    double began = seconds_now();
    CHECK(!moat_spool_append(path, record, sizeof record, true));
    CHECK(seconds_now() - began < 1);
    drop_spool(fd);
    /* Without a lock its process id must serve. */
    fd = make_spool(false);
    pid_t pid = fork();
    if (pid == 0) {
        _exit(0);
    }
    waitpid(pid, NULL, 0);
    CHECK(moat_spool_append(path, record, sizeof record, false));
    put_number(fd, MOAT_SPOOL_READER_AT, (uint64_t)pid);
    CHECK(!moat_spool_append(path, record, sizeof record, false));
    drop_spool(fd);
}

MOAT_TEST(spool_file, a_taken_record_ends_the_wait) {
    int fd = make_spool(true);
    put_number(fd, MOAT_SPOOL_TAKEN_AT, MOAT_SPOOL_HEADER_BYTES + RECORD_BYTES);
    CHECK(moat_spool_append(path, record, sizeof record, true));
    drop_spool(fd);
}

MOAT_TEST(spool_file, a_reader_that_sleeps_is_given_up) {
    int fd = make_spool(true);
    put_number(fd, MOAT_SPOOL_TAKEN_AT, MOAT_SPOOL_HEADER_BYTES + RECORD_BYTES - 1);
    double began = seconds_now();
    CHECK(!moat_spool_append(path, record, sizeof record, true));
    double waited = seconds_now() - began;
    CHECK(waited >= 1.9 && waited < 8);
    drop_spool(fd);
}

/* A reader in a process of its own: takes the record, or leaves, after `delay_ms`. */
static pid_t reader_later(int fd, useconds_t delay_ms, bool takes) {
    pid_t pid = fork();
    if (pid == 0) {
        usleep(delay_ms * 1000);
        if (takes) {
            put_number(fd, MOAT_SPOOL_TAKEN_AT, UINT64_MAX);
        } else {
            CHECK(pwrite(fd, "", 1, MOAT_SPOOL_OPEN_AT) == 1);
        }
        _exit(0);
    }
    return pid;
}

MOAT_TEST(spool_file, a_reader_at_work_is_waited_for_longer) {
    int fd = make_spool(true);
    put_number(fd, MOAT_SPOOL_SEEN_AT, UINT64_MAX);
    pid_t pid = reader_later(fd, MOAT_SPOOL_SEEN_WAIT_MS + 1000, true);
    CHECK(moat_spool_append(path, record, sizeof record, true));
    waitpid(pid, NULL, 0);
    drop_spool(fd);
}

MOAT_TEST(spool_file, a_reader_that_leaves_in_between_ends_the_wait) {
    int fd = make_spool(true);
    put_number(fd, MOAT_SPOOL_SEEN_AT, UINT64_MAX);
    pid_t pid = reader_later(fd, 100, false);
    double began = seconds_now();
    CHECK(!moat_spool_append(path, record, sizeof record, true));
    CHECK(seconds_now() - began < 1.9);
    waitpid(pid, NULL, 0);
    drop_spool(fd);
}

MOAT_TEST(spool_file, a_file_size_limit_raises_no_signal) {
    int fd = make_spool(true);
    struct rlimit before;
    CHECK(getrlimit(RLIMIT_FSIZE, &before) == 0);
    struct rlimit small = {MOAT_SPOOL_HEADER_BYTES + RECORD_BYTES / 2, before.rlim_max};
    CHECK(setrlimit(RLIMIT_FSIZE, &small) == 0);
    CHECK(!moat_spool_append(path, record, sizeof record, false));
    CHECK(setrlimit(RLIMIT_FSIZE, &before) == 0);
    CHECK_EQ(size_of(fd), MOAT_SPOOL_HEADER_BYTES);
    drop_spool(fd);
}

MOAT_TEST(spool_file, records_of_many_writers_never_mix) {
    int fd = make_spool(true);
    for (unsigned writer = 0; writer < WRITERS; writer++) {
        if (fork() == 0) {
            memset(record, (int)writer + 1, sizeof record);
            for (int i = 0; i < EACH_WRITES; i++) {
                if (!moat_spool_append(path, record, sizeof record, false)) {
                    _exit(1);
                }
            }
            _exit(0);
        }
    }
    for (unsigned writer = 0; writer < WRITERS; writer++) {
        int status = 0;
        wait(&status);
        CHECK_EQ(status, 0);
    }
    CHECK_EQ(size_of(fd), MOAT_SPOOL_HEADER_BYTES + WRITERS * EACH_WRITES * RECORD_BYTES);
    unsigned counts[WRITERS + 1] = {0};
    for (unsigned i = 0; i < WRITERS * EACH_WRITES; i++) {
        CHECK(pread(fd, record, sizeof record, (off_t)(MOAT_SPOOL_HEADER_BYTES + i * RECORD_BYTES)) == RECORD_BYTES);
        CHECK(record[0] >= 1 && record[0] <= WRITERS);
        CHECK(memcmp(record, record + 1, sizeof record - 1) == 0);
        counts[record[0]]++;
    }
    for (unsigned writer = 1; writer <= WRITERS; writer++) {
        CHECK_EQ(counts[writer], EACH_WRITES);
    }
    drop_spool(fd);
}
