/* Tests of the futex lock and the run's secret.
 * May include: tests/test.h, the port, POSIX. */
#include "guard/port/linux/lock.h"
#include "guard/port/linux/random.h"
#include "tests/test.h"

#include <pthread.h>
#include <time.h>
#include <unistd.h>

enum { THREADS = 4, ROUNDS = 200000 };

static struct moat_lock lock = MOAT_LOCK_INIT;
static unsigned long counter; /* plain on purpose: only the lock keeps it right */

static void *count(void *unused) {
    for (int i = 0; i < ROUNDS; i++) {
        moat_lock_take(&lock);
        counter++;
        moat_lock_give(&lock);
    }
    return unused;
}

MOAT_TEST(port_lock, lets_one_in_at_a_time) {
    pthread_t thread[THREADS];
    for (int i = 0; i < THREADS; i++)
        CHECK(pthread_create(&thread[i], NULL, count, NULL) == 0);
    for (int i = 0; i < THREADS; i++)
        CHECK(pthread_join(thread[i], NULL) == 0);
    CHECK_EQ(counter, (unsigned long)THREADS * ROUNDS);
    CHECK(moat_lock_try(&lock));
    CHECK(!moat_lock_try(&lock));
    moat_lock_give(&lock);
    CHECK(moat_lock_try(&lock));
    moat_lock_reset(&lock);
    CHECK(moat_lock_try(&lock));
}

static void *wait_asleep(void *unused) {
    moat_lock_take(&lock);
    moat_lock_give(&lock);
    return unused;
}

/* Waiters must sleep, not spin: they use next to no processor time while the lock is held for long. */
MOAT_TEST(port_lock, waits_asleep) {
    pthread_t thread[THREADS];
    struct timespec used;
    moat_lock_take(&lock);
    for (int i = 0; i < THREADS; i++)
        CHECK(pthread_create(&thread[i], NULL, wait_asleep, NULL) == 0);
    usleep(300000);
    moat_lock_give(&lock);
    for (int i = 0; i < THREADS; i++)
        CHECK(pthread_join(thread[i], NULL) == 0);
    CHECK(clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used) == 0);
    CHECK(used.tv_sec == 0 && used.tv_nsec < 150000000);
}

MOAT_TEST(port_random, gives_a_new_secret_each_time) {
    enum { COUNT = 1000 };
    uint64_t seen[COUNT], ones = 0, zeros = 0;
    for (int i = 0; i < COUNT; i++) {
        seen[i] = moat_random_secret();
        CHECK(seen[i] != 0);
        ones |= seen[i];
        zeros |= ~seen[i];
        for (int j = 0; j < i; j++)
            CHECK(seen[j] != seen[i]);
    }
    CHECK(ones == UINT64_MAX && zeros == UINT64_MAX); /* every bit takes both values */
}
