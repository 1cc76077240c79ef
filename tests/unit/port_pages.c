/* Tests of Moat's own pages against a byte-exact model: the list of own ranges, guard pages, concealing, the source.
 * May include: tests/test.h, the port, POSIX. */
#define _GNU_SOURCE
#include "guard/port/linux/pages.h"
#include "guard/port/linux/port.h"
#include "tests/test.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

/* Whether a byte can be read and written, asked of the kernel by another way than the port's: through a pipe. */
static bool can_read(const void *at) {
    int ends[2];
    CHECK(pipe(ends) == 0);
    bool can = write(ends[1], at, 1) == 1;
    close(ends[0]);
    close(ends[1]);
    return can;
}

static bool can_write(void *at) {
    int ends[2];
    CHECK(pipe(ends) == 0);
    CHECK(write(ends[1], "x", 1) == 1);
    bool can = read(ends[0], at, 1) == 1;
    close(ends[0]);
    close(ends[1]);
    return can;
}

static bool listed(const void *at) {
    struct moat_range_list list = moat_pages_own();
    bool found = false, known;
    for (size_t i = 0; i < list.count; i++)
        found |= (uintptr_t)at - list.ranges[i].start < list.ranges[i].bytes;
    CHECK_EQ(found, moat_pages_contains((uintptr_t)at, &known));
    CHECK(known);
    return found;
}

static void check_list_is_sorted(void) {
    struct moat_range_list list = moat_pages_own();
    for (size_t i = 0; i < list.count; i++) {
        CHECK(list.ranges[i].bytes > 0);
        CHECK(i == 0 || list.ranges[i - 1].start + list.ranges[i - 1].bytes < list.ranges[i].start);
    }
}

MOAT_TEST(port_pages, gives_zeroed_aligned_memory_and_lists_it) {
    size_t page = moat_pages_size();
    CHECK_EQ(page, sysconf(_SC_PAGESIZE));
    for (size_t alignment = 1; alignment <= (size_t)4 << 20; alignment *= 4) {
        unsigned char *start = moat_pages_map(3 * page - 5, alignment);
        CHECK(start != NULL);
        CHECK_EQ((uintptr_t)start % alignment, 0u);
        for (size_t i = 0; i < 3 * page; i++)
            CHECK(start[i] == 0);
        memset(start, 0xee, 3 * page);
        CHECK(listed(start) && listed(start + 3 * page - 1));
        CHECK(moat_pages_unmap(start, 3 * page));
        CHECK(!listed(start) && !listed(start + 3 * page - 1));
        CHECK(!can_read(start));
    }
}

MOAT_TEST(port_pages, refuses_what_cannot_be) {
    errno = 77;
    CHECK(moat_pages_map(0, 0) == NULL);
    CHECK(moat_pages_map(SIZE_MAX, 0) == NULL);
    CHECK(moat_pages_map(PTRDIFF_MAX, 0) == NULL);
    CHECK(moat_pages_map_guarded(SIZE_MAX - 1, 0) == NULL);
    CHECK(moat_pages_map((size_t)1 << 20, (size_t)1 << (sizeof(size_t) * 8 - 1)) == NULL);
    int not_ours;
    CHECK(!moat_pages_unmap(&not_ours, 1));
    CHECK_EQ(errno, 77);
    CHECK_EQ(moat_pages_own().count, 0u);
}

MOAT_TEST(port_pages, guards_the_page_behind) {
    size_t page = moat_pages_size();
    unsigned char *start = moat_pages_map_guarded(2 * page + 1, 1 << 16);
    CHECK(start != NULL);
    CHECK_EQ((uintptr_t)start % (1 << 16), 0u);
    CHECK(can_write(start) && can_write(start + 3 * page - 1));
    CHECK(!can_read(start + 3 * page));
    CHECK(listed(start + 3 * page));
    CHECK(moat_pages_conceal(start, 2 * page + 1));
    CHECK(!can_read(start) && !can_read(start + 3 * page - 1) && !can_read(start + 3 * page));
    CHECK(mmap(start, page, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) == MAP_FAILED);
    moat_pages_unmap_guarded(start, 2 * page + 1);
    CHECK(!listed(start) && !listed(start + 3 * page));
    CHECK(mmap(start, page, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) == start);
}

MOAT_TEST(port_pages, reserves_commits_protects_and_discards) {
    size_t page = moat_pages_size();
    unsigned char *start = moat_pages_reserve(8 * page, 0);
    CHECK(start != NULL && listed(start) && !can_read(start));
    CHECK(moat_pages_commit(start + page, page));
    CHECK(!can_read(start) && can_write(start + page) && !can_read(start + 2 * page));
    start[page] = 9;
    CHECK(moat_pages_protect(start + page, page, MOAT_PAGES_READ));
    CHECK(can_read(start + page) && !can_write(start + page));
    CHECK(moat_pages_protect(start + page, page, MOAT_PAGES_NONE));
    CHECK(!can_read(start + page));
    CHECK(moat_pages_protect(start + page, page, MOAT_PAGES_READ_WRITE));
    CHECK_EQ(start[page], 9u);
    moat_pages_discard(start + page, page);
    CHECK_EQ(start[page], 0u);
    CHECK(moat_pages_unmap(start, 8 * page));
}

MOAT_TEST(port_pages, the_source_takes_parts_back) {
    const struct moat_source *source = moat_pages_source();
    size_t page = moat_pages_size(), got = 0;
    unsigned char *start = source->acquire(source->context, ((size_t)1 << 20) + 1, &got);
    CHECK(start != NULL);
    CHECK_EQ(got, ((size_t)1 << 20) + page);
    CHECK_EQ((uintptr_t)start % (64 << 10), 0u);
    CHECK(!source->release(source->context, start + 1, page));
    CHECK(!source->release(source->context, start, page + 1));
    CHECK(source->release(source->context, start + got - page, page));
    CHECK(!listed(start + got - page) && listed(start + got - page - 1));
    CHECK(source->release(source->context, start + page, page));
    CHECK(listed(start) && !listed(start + page) && listed(start + 2 * page));
    CHECK(!source->release(source->context, start, 3 * page)); /* not all of it is Moat's any more */
    check_list_is_sorted();
}

/* Random mapping and partial unmapping inside one window, against one flag a page. */
MOAT_TEST(port_pages, the_list_agrees_with_a_model) {
    enum { PIECES = 64, STEPS = 4000 };
    static struct {
        unsigned char *start;
        size_t pages;
        unsigned char held[16];
    } piece[PIECES];
    size_t page = moat_pages_size();
    unsigned seed = 20240511;
    for (int step = 0; step < STEPS; step++) {
        seed = seed * 1103515245u + 12345u;
        size_t at = seed >> 8 & (PIECES - 1);
        if (!piece[at].start) {
            piece[at].pages = 1 + (seed >> 16 & 15);
            piece[at].start = moat_pages_map(piece[at].pages * page, 0);
            CHECK(piece[at].start != NULL);
            memset(piece[at].held, 1, sizeof piece[at].held);
        } else {
            size_t first = (seed >> 16) % piece[at].pages, count = 1 + (seed >> 20) % (piece[at].pages - first),
                   held = 0;
            for (size_t i = first; i < first + count; i++)
                held += piece[at].held[i];
            if (held < count)
                continue; /* the kernel may have given the hole to another piece meanwhile */
            CHECK(moat_pages_unmap(piece[at].start + first * page, count * page));
            size_t left = 0;
            for (size_t i = 0; i < piece[at].pages; i++) {
                if (i >= first && i < first + count)
                    piece[at].held[i] = 0;
                left += piece[at].held[i];
            }
            if (left == 0)
                piece[at].start = NULL;
        }
        check_list_is_sorted();
        size_t expected = 0, listed_bytes = 0;
        for (size_t i = 0; i < PIECES; i++)
            for (size_t p = 0; piece[i].start && p < piece[i].pages; p++)
                expected += piece[i].held[p];
        struct moat_range_list list = moat_pages_own();
        for (size_t i = 0; i < list.count; i++)
            listed_bytes += list.ranges[i].bytes;
        CHECK_EQ(listed_bytes, expected * page);
    }
}

static void *map_and_unmap(void *unused) {
    for (int i = 0; i < 2000; i++) {
        void *start = moat_pages_map(4096, 0);
        if (!start || !moat_pages_unmap(start, 4096))
            return unused;
    }
    return NULL;
}

MOAT_TEST(port_pages, threads_and_forks_may_come_at_any_time) {
    pthread_t thread[3];
    int failed = 1;
    for (int i = 0; i < 3; i++)
        CHECK(pthread_create(&thread[i], NULL, map_and_unmap, &failed) == 0);
    for (int i = 0; i < 30; i++) {
        moat_port_before_fork();
        pid_t child = fork();
        moat_port_after_fork();
        if (child == 0) {
            alarm(10); /* a lock nobody gives back would hang here */
            _exit(map_and_unmap(&failed) != NULL);
        }
        int status;
        CHECK(waitpid(child, &status, 0) == child);
        CHECK_EQ(status, 0);
    }
    for (int i = 0; i < 3; i++) {
        void *result;
        CHECK(pthread_join(thread[i], &result) == 0);
        CHECK(result == NULL);
    }
    CHECK_EQ(moat_pages_own().count, 0u);
}
