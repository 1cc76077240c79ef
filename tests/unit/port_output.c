/* Tests of where text for the user goes when standard error is closed, replaced, full or broken.
 * May include: tests/test.h, the port, POSIX. */
#define _GNU_SOURCE
#include "guard/port/linux/output.h"
#include "tests/test.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static char directory[64];

/* Moves into an empty directory of its own and makes a file there standard error. */
static void start_in_directory(void) {
    strcpy(directory, "/tmp/moat-test-XXXXXX");
    CHECK(mkdtemp(directory) != NULL);
    CHECK(chdir(directory) == 0);
    int file = open("err", O_RDWR | O_CREAT | O_APPEND, 0600);
    CHECK(file >= 0 && dup2(file, 2) == 2 && close(file) == 0);
    moat_output_init();
}

static void leave_directory(void) {
    char command[128];
    CHECK(chdir("/") == 0);
    snprintf(command, sizeof command, "rm -r %s", directory);
    CHECK(system(command) == 0);
}

static const char *contents(const char *path) {
    static char text[4096];
    int file = open(path, O_RDONLY);
    if (file < 0)
        return NULL;
    ssize_t length = read(file, text, sizeof text - 1);
    close(file);
    text[length > 0 ? length : 0] = '\0';
    return text;
}

static const char *fallback_name(void) {
    static char name[64];
    snprintf(name, sizeof name, "moat.%d.report", (int)getpid());
    return name;
}

MOAT_TEST(port_output, writes_to_standard_error) {
    start_in_directory();
    errno = 77;
    moat_output_write("one\n", 4);
    moat_output_write("two\n", 4);
    CHECK_EQ(errno, 77);
    CHECK_TEXT(contents("err"), "one\ntwo\n");
    CHECK(contents(fallback_name()) == NULL);
    CHECK(!moat_output_is_terminal());
    leave_directory();
}

MOAT_TEST(port_output, spares_a_file_that_took_the_place_of_standard_error) {
    start_in_directory();
    close(2);
    CHECK_EQ(open("database", O_RDWR | O_CREAT, 0600), 2u);
    moat_output_write("report\n", 7);
    CHECK_TEXT(contents("database"), "");
    CHECK_TEXT(contents("err"), "");
    CHECK_TEXT(contents(fallback_name()), "report\n");
    leave_directory();
}

MOAT_TEST(port_output, keeps_the_report_when_standard_error_is_closed) {
    start_in_directory();
    close(2);
    moat_output_write("report\n", 7);
    moat_output_write("more\n", 5);
    CHECK_TEXT(contents(fallback_name()), "report\nmore\n");
    leave_directory();
}

MOAT_TEST(port_output, follows_no_link_somebody_placed) {
    start_in_directory();
    CHECK(symlink("err", fallback_name()) == 0);
    close(2);
    moat_output_write("report\n", 7);
    CHECK_TEXT(contents("err"), "");
    CHECK_EQ(moat_output_lost_bytes(), 7u);
    leave_directory();
}

MOAT_TEST(port_output, appends_to_the_named_file) {
    start_in_directory();
    char name[64], where[128];
    snprintf(name, sizeof name, "r%%.%d", (int)getpid());
    snprintf(where, sizeof where, "%s/%s", directory, name);
    CHECK_EQ(moat_output_report_to("r%%.%p"), 0);
    CHECK(chdir("/") == 0);
    moat_output_write("a", 1);
    moat_output_write("b", 1);
    CHECK_TEXT(contents(where), "ab");
    CHECK_EQ(moat_output_report_to("/nowhere/at/all"), ENOENT);
    CHECK_EQ(moat_output_report_to("/"), EISDIR);
    CHECK(chdir(directory) == 0);
    moat_output_write("c", 1); /* not lost, although the file cannot be had */
    CHECK_TEXT(contents("err"), "c");
    leave_directory();
}

static void *drain(void *argument) {
    static char all[1 << 20];
    int from = *(int *)argument;
    size_t length = 0;
    ssize_t got;
    usleep(100000);
    while ((got = read(from, all + length, sizeof all - length)) > 0)
        length += (size_t)got;
    for (size_t i = 0; i < length; i++)
        if (all[i] != (char)('a' + i % 26))
            return NULL;
    return (void *)length;
}

MOAT_TEST(port_output, waits_for_a_slow_reader) {
    enum { LENGTH = 400000 };
    static char text[LENGTH];
    int ends[2];
    pthread_t reader;
    void *length;
    for (int i = 0; i < LENGTH; i++)
        text[i] = (char)('a' + i % 26);
    CHECK(pipe2(ends, 0) == 0 && fcntl(ends[1], F_SETFL, O_NONBLOCK) == 0);
    CHECK(pthread_create(&reader, NULL, drain, &ends[0]) == 0);
    CHECK(moat_output_write_to(ends[1], text, LENGTH));
    close(ends[1]);
    CHECK(pthread_join(reader, &length) == 0);
    CHECK_EQ((uintptr_t)length, LENGTH);
}

MOAT_TEST(port_output, gives_up_on_a_reader_that_never_reads) {
    static char text[200000];
    int ends[2];
    struct timespec before, after;
    CHECK(pipe2(ends, O_NONBLOCK) == 0);
    clock_gettime(CLOCK_MONOTONIC, &before);
    CHECK(!moat_output_write_to(ends[1], text, sizeof text));
    clock_gettime(CLOCK_MONOTONIC, &after);
    double waited = (double)(after.tv_sec - before.tv_sec) + (double)(after.tv_nsec - before.tv_nsec) / 1e9;
    CHECK(waited > 1.5 && waited < 6);
}

static volatile sig_atomic_t pipe_signals;

static void on_pipe(int number) {
    (void)number;
    pipe_signals++;
}

MOAT_TEST(port_output, a_broken_pipe_raises_no_signal_but_the_programs_own_stays) {
    int ends[2];
    sigset_t set;
    CHECK(pipe(ends) == 0);
    close(ends[0]);
    signal(SIGPIPE, on_pipe);
    CHECK(!moat_output_write_to(ends[1], "x", 1));
    CHECK_EQ(pipe_signals, 0);
    sigemptyset(&set);
    sigaddset(&set, SIGPIPE);
    sigprocmask(SIG_BLOCK, &set, NULL);
    raise(SIGPIPE); /* pending before: not ours to take */
    CHECK(!moat_output_write_to(ends[1], "x", 1));
    sigprocmask(SIG_UNBLOCK, &set, NULL);
    CHECK_EQ(pipe_signals, 1);
}
