/* Threads that allocate, pass blocks to each other and free them, come, go and fork, without a bug of their own:
 * whoever runs below must find nothing. May include: the C library, POSIX, moat/finding.h.
 *
 * Usage: stress THREADS OPERATIONS [PART]...   parts: run churn fork exec dlopen=LIBRARY racing
 * With MOAT_TEST_PREFIXED the functions under test are called moat_test_malloc and so on, beside the C library's
 * own. */
#define _GNU_SOURCE 1
#include "moat/finding.h"

#include <dlfcn.h>
#include <malloc.h>
#include <pthread.h>
#include <spawn.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#ifdef MOAT_TEST_PREFIXED
void *moat_test_malloc(size_t size);
void *moat_test_calloc(size_t count, size_t size);
void *moat_test_realloc(void *block, size_t size);
void *moat_test_aligned_alloc(size_t alignment, size_t size);
int moat_test_posix_memalign(void **result, size_t alignment, size_t size);
void moat_test_free(void *block);
int moat_test_malloc_trim(size_t keep);
#define malloc moat_test_malloc
#define calloc moat_test_calloc
#define realloc moat_test_realloc
#define aligned_alloc moat_test_aligned_alloc
#define posix_memalign moat_test_posix_memalign
#define free moat_test_free
#define malloc_trim moat_test_malloc_trim
#endif

enum { SLOTS = 200, MAILBOXES = 64, CHURN_AT_ONCE = 20, THREADS_MOST = 28, RACES = 200 };

struct block {
    size_t size;
    unsigned char value; /* every byte behind this one */
    unsigned char bytes[];
};

static _Atomic(struct block *) mailboxes[MAILBOXES];
static unsigned operations;
static atomic_uint failures;
static pthread_key_t key;
/* The sanitizer takes leave of a thread in the last round of destructors, after which nothing of ours may run. */
#ifdef MOAT_TEST_PREFIXED
enum { DESTRUCTOR_ROUNDS = 1 };
#else
enum { DESTRUCTOR_ROUNDS = 3 };
#endif
static atomic_uint double_frees, other_findings;
extern char **environ;

const char *moat_default_options(void);
void moat_on_finding(const struct moat_finding *finding);

const char *moat_default_options(void) { return "on_error=continue"; }

/* Told of every finding: the racing part makes double frees on purpose. */
void moat_on_finding(const struct moat_finding *finding) {
    atomic_fetch_add(finding->kind == MOAT_DOUBLE_FREE ? &double_frees : &other_findings, 1);
}

static void fail(const char *what) {
    fprintf(stderr, "stress: %s\n", what);
    atomic_fetch_add(&failures, 1);
}

static uint64_t random_next(uint64_t *state) {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static void fill(struct block *block, size_t size, unsigned char value) {
    block->size = size;
    block->value = value;
    memset(block->bytes, value, size - sizeof *block);
}

static void check(const struct block *block, size_t size) {
    for (size_t i = 0; i < size - sizeof *block; i++) {
        if (block->bytes[i] != block->value) {
            fail("a block's contents changed");
            return;
        }
    }
}

static size_t random_size(uint64_t *random) {
    unsigned choice = (unsigned)(random_next(random) % 1000);
    size_t size = choice == 0 ? (size_t)1 << 21 : choice < 50 ? 20000 : choice < 300 ? 2000 : 100;
    return sizeof(struct block) + 1 + (size_t)(random_next(random) % size);
}

static struct block *take(uint64_t *random) {
    size_t size = random_size(random);
    struct block *block = NULL;
    size_t alignment = (size_t)16 << random_next(random) % 9;
    switch (random_next(random) % 6) {
    case 0:
        block = calloc(1, size);
        for (size_t i = 0; block != NULL && i < size; i += 61) {
            if (((unsigned char *)block)[i] != 0)
                fail("calloc gave memory that is not zero");
        }
        break;
    case 1:
        block = aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment);
        if ((uintptr_t)block % alignment != 0)
            fail("aligned_alloc did not align");
        break;
    case 2:
        if (posix_memalign((void **)&block, alignment, size) != 0 || (uintptr_t)block % alignment != 0)
            fail("posix_memalign did not align");
        break;
    default:
        block = malloc(size);
        break;
    }
    if (block == NULL) {
        fail("out of memory");
        exit(1);
    }
    fill(block, size, (unsigned char)random_next(random));
    return block;
}

static void give(struct block *block) {
    if (block != NULL) {
        check(block, block->size);
        free(block);
    }
}

static struct block *resize(struct block *block, uint64_t *random) {
    size_t old_size = block->size;
    size_t size = random_next(random) % 4 == 0 ? random_size(random) : old_size + random_next(random) % 64;
    struct block *moved = realloc(block, size);
    if (moved == NULL) {
        fail("out of memory");
        exit(1);
    }
    check(moved, old_size < size ? old_size : size);
    fill(moved, size, (unsigned char)random_next(random));
    return moved;
}

static void work(uint64_t seed, unsigned count) {
    struct block *slots[SLOTS] = {NULL};
    uint64_t random = seed * 0x9e3779b97f4a7c15u + 1;
    for (unsigned i = 0; i < count; i++) {
        if (i % 1500 == 1499)
            malloc_trim(0); /* chunks go back to the system, whole, by their heads and by their tails */
        struct block **slot = &slots[random_next(&random) % SLOTS];
        if (*slot == NULL)
            *slot = take(&random);
        else if (random_next(&random) % 8 == 0)
            *slot = resize(*slot, &random);
        else if (random_next(&random) % 4 == 0) /* swap with whatever another thread left there */
            *slot = atomic_exchange(&mailboxes[random_next(&random) % MAILBOXES], *slot);
        else {
            give(*slot);
            *slot = NULL;
        }
    }
    for (unsigned i = 0; i < SLOTS; i++)
        give(slots[i]);
}

static void *worker(void *argument) {
    work((uint64_t)(uintptr_t)argument, operations);
    return NULL;
}

/* ThreadSanitizer does not see that the memory of an ended thread's stack, once unmapped, is mapped anew by Moat,
 * which makes its system calls itself. So there no stack is unmapped. */
#ifdef MOAT_TEST_PREFIXED
enum { STACK_BYTES = 1 << 21, STACKS = 48 };
static _Alignas(4096) char stacks[STACKS][STACK_BYTES];
#endif

static pthread_t start(unsigned stack, void *(*run)(void *), uintptr_t argument) {
    pthread_t thread;
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
#ifdef MOAT_TEST_PREFIXED
    pthread_attr_setstack(&attributes, stacks[stack], STACK_BYTES);
#endif
    (void)stack;
    if (pthread_create(&thread, &attributes, run, (void *)argument) != 0) {
        fail("no thread");
        exit(1);
    }
    pthread_attr_destroy(&attributes);
    return thread;
}

static void empty_mailboxes(void) {
    for (unsigned i = 0; i < MAILBOXES; i++)
        give(atomic_exchange(&mailboxes[i], NULL));
}

/* ---- threads that end -------------------------------------------------------------------------------------------- */

/* Thread-local data that is freed, and anew allocated, while the thread ends: up to four rounds of destructors. */
static void key_destructor(void *data) {
    unsigned char *rounds = data;
    unsigned left = *rounds;
    free(rounds);
    free(malloc(100));
    if (left > 1) {
        unsigned char *next = malloc(1);
        *next = (unsigned char)(left - 1);
        pthread_setspecific(key, next);
    }
}

static void *short_thread(void *argument) {
    unsigned char *rounds = malloc(1);
    *rounds = DESTRUCTOR_ROUNDS;
    pthread_setspecific(key, rounds);
    work((uint64_t)(uintptr_t)argument, 20);
    return NULL;
}

static void churn(unsigned count) {
    for (unsigned done = 0; done < count; done += CHURN_AT_ONCE) {
        pthread_t threads[CHURN_AT_ONCE];
        for (unsigned i = 0; i < CHURN_AT_ONCE; i++)
            threads[i] = start(i, short_thread, done + i + 1);
        for (unsigned i = 0; i < CHURN_AT_ONCE; i++)
            pthread_join(threads[i], NULL);
    }
}

/* ---- processes --------------------------------------------------------------------------------------------------- */

static void expect_success(pid_t child, const char *what) {
    int status = 0;
    if (child < 0 || waitpid(child, &status, 0) != child || status != 0) {
        fprintf(stderr, "stress: %s: status %#x\n", what, (unsigned)status);
        atomic_fetch_add(&failures, 1);
    }
}

/* Children allocate, free what they inherited, and start threads of their own only where they may. */
static void forks(unsigned count) {
    for (unsigned i = 0; i < count; i++) {
        struct block *inherited = NULL;
        uint64_t random = i + 1;
        inherited = take(&random);
        pid_t child = fork();
        if (child == 0) {
            give(inherited);
            work(i + 77, 300);
            if (i % 3 == 0) {
                pid_t grandchild = fork();
                if (grandchild == 0)
                    _exit(0);
                expect_success(grandchild, "a grandchild");
            }
            _exit(atomic_load(&failures) != 0);
        }
        expect_success(child, "a child");
        give(inherited);
    }
}

static void execs(unsigned count) {
    static char *const arguments[] = {"true", NULL};
    for (unsigned i = 0; i < count; i++) {
        pid_t child = vfork();
        if (child == 0) {
            execv("/bin/true", arguments);
            _exit(99);
        }
        expect_success(child, "after vfork");
        if (posix_spawn(&child, "/bin/true", NULL, NULL, arguments, environ) != 0)
            child = -1;
        expect_success(child, "after posix_spawn");
        free(malloc(i + 1));
    }
}

static void libraries(const char *path, unsigned count) {
    for (unsigned i = 0; i < count; i++) {
        void *library = dlopen(path, RTLD_NOW);
        int (*answer)(void);
        if (library == NULL) {
            fail(dlerror());
            return;
        }
        *(void **)&answer = dlsym(library, "constructed_answer");
        if (answer == NULL || answer() != 42)
            fail("the library's constructor did not run");
        dlclose(library);
    }
}

/* ---- a bug: two threads free the same block ---------------------------------------------------------------------- */

static pthread_barrier_t barrier;
static void *_Atomic contested;

static void *racer(void *argument) {
    (void)argument;
    for (unsigned i = 0; i < RACES; i++) {
        pthread_barrier_wait(&barrier);
        free(atomic_load(&contested));
        pthread_barrier_wait(&barrier);
    }
    return NULL;
}

static void racing(void) {
    pthread_t threads[2];
    pthread_barrier_init(&barrier, NULL, 3);
    for (unsigned i = 0; i < 2; i++)
        threads[i] = start(i, racer, 0);
    for (unsigned i = 0; i < RACES; i++) {
        atomic_store(&contested, malloc(i * 50)); /* small, large and in between */
        pthread_barrier_wait(&barrier);
        pthread_barrier_wait(&barrier);
    }
    for (unsigned i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    if (atomic_load(&double_frees) != RACES) {
        fprintf(stderr, "stress: %u double frees found of %u\n", atomic_load(&double_frees), RACES);
        atomic_fetch_add(&failures, 1);
    }
    atomic_store(&double_frees, 0);
}

/* ---- all together ------------------------------------------------------------------------------------------------ */

static void at_exit(void) {
    void *block = malloc(333);
    block = realloc(block, 4000);
    free(block);
    if (atomic_load(&failures) + atomic_load(&double_frees) + atomic_load(&other_findings) != 0)
        _exit(1);
}

static void part_run(const char *part) {
    if (strcmp(part, "churn") == 0)
        churn(2000);
    else if (strcmp(part, "few-churn") == 0)
        churn(100);
    else if (strcmp(part, "fork") == 0)
        forks(40);
    else if (strcmp(part, "exec") == 0)
        execs(20);
    else if (strncmp(part, "dlopen=", 7) == 0)
        libraries(part + 7, 50);
    else if (strcmp(part, "racing") == 0)
        racing();
    else if (strcmp(part, "run") != 0)
        fail("unknown part");
}

int main(int argument_count, char **arguments) {
    if (argument_count < 3)
        return 2;
    unsigned thread_count = (unsigned)atoi(arguments[1]);
    operations = (unsigned)atoi(arguments[2]);
    thread_count = thread_count < THREADS_MOST ? thread_count : THREADS_MOST;
    atexit(at_exit);
    pthread_key_create(&key, key_destructor);
    pthread_t threads[THREADS_MOST];
    for (unsigned i = 0; i < thread_count; i++)
        threads[i] = start(CHURN_AT_ONCE + i, worker, i + 1000);
    for (int i = 3; i < argument_count; i++)
        part_run(arguments[i]); /* while the workers run */
    for (unsigned i = 0; i < thread_count; i++)
        pthread_join(threads[i], NULL);
    empty_mailboxes();
    return atomic_load(&failures) + atomic_load(&double_frees) + atomic_load(&other_findings) != 0;
}
