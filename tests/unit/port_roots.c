/* Tests of the memory map, of what lies where, and of the leak scan's roots.
 * May include: tests/test.h, the port, POSIX. */
#define _GNU_SOURCE
#include "guard/port/linux/maps.h"
#include "guard/port/linux/module.h"
#include "guard/port/linux/port.h"
#include "guard/port/linux/roots.h"
#include "tests/test.h"

#include <alloca.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

/* ---- the map --------------------------------------------------------------------------------------------------- */

struct compared {
    FILE *file; /* the kernel's text, read by stdio */
    size_t count;
    bool same;
};

static bool compare_map(void *context, const struct moat_map *map) {
    struct compared *compared = context;
    char line[8192], path[4200] = "", rights[8];
    unsigned long start, end, offset, inode;
    if (!fgets(line, sizeof line, compared->file))
        return compared->same = false;
    int fields = sscanf(line, "%lx-%lx %4s %lx %*s %lu %4199[^\n]", &start, &end, rights, &offset, &inode, path);
    bool same = fields >= 5 && map->start == start && map->end == end && map->offset == offset && map->inode == inode &&
                map->readable == (rights[0] == 'r') && map->writable == (rights[1] == 'w') &&
                map->executable == (rights[2] == 'x') && map->shared == (rights[3] == 's') &&
                strcmp(map->path, path) == 0;
    compared->same &= same;
    compared->count++;
    return same;
}

MOAT_TEST(port_maps, reads_what_the_kernel_lists) {
    /* Many mappings with long names, so that lines straddle every boundary of the buffer. */
    for (int i = 0; i < 300; i++) {
        char name[300];
        snprintf(name, sizeof name, "/tmp/moat-test-%0*d", 20 + i % 180, i);
        int file = open(name, O_RDWR | O_CREAT, 0600);
        CHECK(file >= 0 && unlink(name) == 0);
        CHECK(mmap(NULL, 8192, i & 1 ? PROT_READ : PROT_NONE, MAP_SHARED, file, 4096) != MAP_FAILED);
        close(file);
    }
    struct compared compared = {fopen("/proc/self/maps", "r"), 0, true};
    CHECK(compared.file != NULL);
    setvbuf(compared.file, NULL, _IOFBF, 1 << 20);
    ungetc(getc(compared.file), compared.file); /* reads all of it now, before anything changes */
    CHECK(moat_maps_each(compare_map, &compared));
    CHECK(compared.same);
    CHECK(compared.count > 300);
}

static int a_global = 1;
static int a_zeroed_global[4];
static const char a_constant[] = "constant";

static void *other_thread(void *context) {
    char name[256];
    int local = 0;
    CHECK_EQ(moat_maps_classify((uintptr_t)&local, name, sizeof name), MOAT_PLACE_STACK);
    CHECK_TEXT(name, "the calling thread's stack");
    CHECK_EQ(moat_maps_classify((uintptr_t)context, name, sizeof name), MOAT_PLACE_STACK);
    CHECK_TEXT(name, "the main thread's stack");
    return context;
}

MOAT_TEST(port_maps, says_what_lies_where) {
    char name[256], short_name[8], program[256], expected[512];
    int local = 0;
    long got = readlink("/proc/self/exe", program, sizeof program - 1);
    CHECK(got > 0);
    program[got] = '\0';
    CHECK_EQ(moat_maps_classify((uintptr_t)&local, name, sizeof name), MOAT_PLACE_STACK);
    CHECK_TEXT(name, "the main thread's stack");
    CHECK_EQ(moat_maps_classify((uintptr_t)&a_global, name, sizeof name), MOAT_PLACE_GLOBAL);
    snprintf(expected, sizeof expected, "a_global in %s", program);
    CHECK_TEXT(name, expected);
    CHECK_EQ(moat_maps_classify((uintptr_t)&a_zeroed_global[2], name, sizeof name), MOAT_PLACE_GLOBAL);
    snprintf(expected, sizeof expected, "a_zeroed_global+0x8 in %s", program);
    CHECK_TEXT(name, expected);
    CHECK_EQ(moat_maps_classify((uintptr_t)a_constant, name, sizeof name), MOAT_PLACE_CODE);
    CHECK_EQ(moat_maps_classify((uintptr_t)&other_thread, short_name, sizeof short_name), MOAT_PLACE_CODE);
    CHECK_TEXT(short_name, "other_t");
    void *mapped = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK_EQ(moat_maps_classify((uintptr_t)mapped + 100, name, sizeof name), MOAT_PLACE_MAPPED);
    munmap(mapped, 8192);
    CHECK_EQ(moat_maps_classify((uintptr_t)mapped + 100, name, sizeof name), MOAT_PLACE_UNMAPPED);
    CHECK_EQ(moat_maps_classify(0x10, name, sizeof name), MOAT_PLACE_UNMAPPED);
    CHECK_EQ(moat_maps_classify(UINTPTR_MAX, name, sizeof name), MOAT_PLACE_UNMAPPED);
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, other_thread, &local) == 0 && pthread_join(thread, NULL) == 0);
}

/* ---- roots ----------------------------------------------------------------------------------------------------- */

enum { WANTED_MOST = 16 };

/* Sums every byte shown, so that a range that cannot be read shows as a crash of the test; notes which words were among them. */
struct seen {
    uintptr_t wanted[WANTED_MOST];
    size_t times[WANTED_MOST];
    size_t count;
    unsigned sum;
    size_t bytes;
    uintptr_t last_end;
    bool in_order;
};

static void see(void *context, uintptr_t start, size_t bytes) {
    struct seen *seen = context;
    seen->in_order &= start >= seen->last_end && bytes > 0;
    seen->last_end = start + bytes;
    seen->bytes += bytes;
    for (size_t i = 0; i < bytes; i += 64)
        seen->sum += ((const volatile unsigned char *)start)[i];
    for (size_t i = 0; i < seen->count; i++)
        seen->times[i] += seen->wanted[i] - start < bytes;
}

static size_t want(struct seen *seen, const void *address) {
    seen->wanted[seen->count] = (uintptr_t)address;
    return seen->count++;
}

static __thread int thread_local_word = 1;

static __attribute__((noinline)) uintptr_t below_the_stack(void) {
    volatile char *deep = alloca(20000);
    deep[0] = 1;
    return (uintptr_t)&deep[0];
}

MOAT_TEST(port_roots, shows_all_that_may_hold_pointers_and_nothing_else) {
    struct seen seen = {.in_order = true};
    uintptr_t state;
    size_t state_bytes, page = moat_pages_size();
    int local = 0;
    void *heap = malloc(100),
         *mapped = mmap(NULL, 8 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    unsigned char *none = mmap(NULL, page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    unsigned char *shared = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    unsigned char *excluded = mmap(NULL, 4 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    unsigned char *sealed = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memset(heap, 1, 100);
    memset(mapped, 1, 8 * page);
    memset(excluded, 1, 4 * page);
    shared[0] = sealed[0] = 1;
    mprotect(sealed, page, PROT_READ); /* as the loader does with what it relocated */
    moat_port_state_range(&state, &state_bytes);
    a_zeroed_global[1] = thread_local_word = 7;
    size_t yes[] = {want(&seen, &a_global),
                    want(&seen, &a_zeroed_global),
                    want(&seen, &local),
                    want(&seen, heap),
                    want(&seen, mapped),
                    want(&seen, shared),
                    want(&seen, &thread_local_word),
                    want(&seen, excluded),
                    want(&seen, excluded + 4 * page - 1),
                    want(&seen, sealed)};
    size_t no[] = {want(&seen, none),
                   want(&seen, excluded + page),
                   want(&seen, excluded + 3 * page - 1),
                   want(&seen, (void *)state),
                   want(&seen, (void *)(state + state_bytes - 1)),
                   want(&seen, (void *)below_the_stack())};
    struct moat_range cut[] = {
        {0x1000, 0x1000}, {(uintptr_t)excluded + page, 2 * page}, {UINTPTR_MAX - 0x2000, 0x1000}};
    struct moat_range_list exclude = {cut, 3};
    errno = 77;
    CHECK(moat_roots_each(see, &seen, &exclude, (uintptr_t)__builtin_frame_address(0) - 4096));
    CHECK_EQ(errno, 77);
    CHECK(seen.in_order);
    for (size_t i = 0; i < sizeof yes / sizeof yes[0]; i++)
        CHECK_EQ(seen.times[yes[i]] * 1000 + yes[i], 1000 + yes[i]);
    for (size_t i = 0; i < sizeof no / sizeof no[0]; i++)
        CHECK_EQ(seen.times[no[i]] * 1000 + no[i], no[i]);
}

/* Makes one system call fail, as a container's filter might. */
static void forbid(int number, int error) {
    struct sock_filter filter[] = {BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
                                   BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)number, 0, 1),
                                   BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (unsigned)error),
                                   BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
    struct sock_fprog program = {sizeof filter / sizeof filter[0], filter};
    CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    CHECK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0);
}

MOAT_TEST(port_roots, does_without_the_kernels_page_table) {
    struct seen seen = {.in_order = true};
    size_t page = moat_pages_size();
    char name[] = "/tmp/moat-test-XXXXXX";
    int file = mkstemp(name), local = 0;
    CHECK(file >= 0 && unlink(name) == 0 && ftruncate(file, (off_t)(2 * page)) == 0);
    unsigned char *shared = mmap(NULL, 4 * page, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    unsigned char *private = mmap(NULL, 4 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    size_t yes[] = {want(&seen, &a_global), want(&seen, &local), want(&seen, shared + page), want(&seen, private)};
    size_t no = want(&seen, shared + 2 * page);
    forbid(SYS_pread64, EPERM); /* pagemap opens, and cannot be read */
    CHECK(moat_roots_each(see, &seen, NULL, 0));
    CHECK(seen.in_order);
    for (size_t i = 0; i < sizeof yes / sizeof yes[0]; i++)
        CHECK_EQ(seen.times[yes[i]] * 1000 + yes[i], 1000 + yes[i]);
    CHECK_EQ(seen.times[no], 0u);
}

MOAT_TEST(port_roots, survives_files_behind_their_end_and_huge_reservations) {
    struct seen seen = {.in_order = true};
    size_t page = moat_pages_size(), huge = (size_t)1 << 40;
    char name[] = "/tmp/moat-test-XXXXXX";
    int file = mkstemp(name);
    CHECK(file >= 0 && unlink(name) == 0 && ftruncate(file, (off_t)(4 * page)) == 0);
    unsigned char *shared = mmap(NULL, 4 * page, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    unsigned char *private = mmap(NULL, 4 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE, file, 0);
    memset(shared, 1, 4 * page);
    memset(private, 1, page);
    (void)*(volatile unsigned char *)(private + 2 * page);
    CHECK(ftruncate(file, (off_t)page) == 0); /* touching pages 1 to 3 of `shared` is now a bus error */
    unsigned char *sparse =
        mmap(NULL, huge, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHECK(sparse != MAP_FAILED);
    sparse[huge / 2 + 12345] = 1;
    size_t yes[] = {want(&seen, shared), want(&seen, private), want(&seen, sparse + huge / 2 + 12345)};
    size_t no[] = {want(&seen, shared + 2 * page), want(&seen, private + 2 * page), want(&seen, sparse + huge / 3)};
    CHECK(moat_roots_each(see, &seen, NULL, 0));
    for (size_t i = 0; i < 3; i++) {
        CHECK_EQ(seen.times[yes[i]] * 1000 + i, 1000 + i);
        CHECK_EQ(seen.times[no[i]] * 1000 + i, i);
    }
    CHECK(seen.bytes < (size_t)1 << 30);
}

static void *sleep_a_while(void *file) {
    char byte;
    return read(*(int *)file, &byte, 1) == 1 ? NULL : file;
}

MOAT_TEST(port_roots, counts_threads) {
    pthread_t thread[5];
    int ends[2];
    size_t before = moat_thread_count();
    CHECK(pipe(ends) == 0);
    CHECK(before >= 1);
    for (int i = 0; i < 5; i++)
        CHECK(pthread_create(&thread[i], NULL, sleep_a_while, &ends[0]) == 0);
    CHECK_EQ(moat_thread_count(), before + 5);
    CHECK(write(ends[1], "12345", 5) == 5);
    for (int i = 0; i < 5; i++)
        CHECK(pthread_join(thread[i], NULL) == 0);
    for (int i = 0; i < 100 && moat_thread_count() != before; i++)
        usleep(10000); /* joined is a moment before gone */
    CHECK_EQ(moat_thread_count(), before);
}

static void check_reading(void) {
    size_t page = moat_pages_size();
    unsigned char copy[4 * 4096],
        *start = mmap(NULL, 4 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK_EQ(page, 4096u);
    for (size_t i = 0; i < 4 * page; i++)
        start[i] = (unsigned char)(i * 7);
    munmap(start + 2 * page, page);
    errno = 77;
    CHECK_EQ(moat_memory_copy(copy, (uintptr_t)start + 10, 4 * page - 10), 2 * page - 10);
    CHECK(memcmp(copy, start + 10, 2 * page - 10) == 0);
    CHECK_EQ(moat_memory_copy(copy, (uintptr_t)start + 3 * page, page), page);
    CHECK_EQ(moat_memory_copy(copy, (uintptr_t)start + 2 * page + 5, 1), 0u);
    CHECK_EQ(moat_memory_copy(copy, 0, 16), 0u);
    CHECK_EQ(moat_memory_copy(copy, UINTPTR_MAX - 7, 16), 0u);
    CHECK(moat_memory_is_readable((uintptr_t)start, 2 * page));
    CHECK(!moat_memory_is_readable((uintptr_t)start, 2 * page + 1));
    CHECK(!moat_memory_is_readable((uintptr_t)start + 2 * page, 1));
    CHECK(moat_memory_is_readable((uintptr_t)start + 4 * page - 1, 1));
    CHECK(!moat_memory_is_readable((uintptr_t)start + page, 3 * page));
    CHECK(!moat_memory_is_readable(0, 1));
    CHECK(!moat_memory_is_readable(UINTPTR_MAX, 1));
    CHECK_EQ(errno, 77);
}

MOAT_TEST(port_roots, reads_memory_only_as_far_as_there_is_some) {
    check_reading();
    forbid(SYS_process_vm_readv, EPERM);
    check_reading();
}
