/* The secret of this run: see random.h.
 * May include: the port's system calls, <sys/auxv.h>, <time.h>. */
#include "guard/port/linux/random.h"
#include "guard/port/linux/syscall.h"

#include <string.h>
#include <sys/auxv.h>
#include <time.h>

enum { MOAT_GETRANDOM_NONBLOCK = 1, MOAT_AT_RANDOM_BYTES = 16 };

/* Spreads every bit of a word over all of the result (a bijection: two multiplications between shifted copies). */
static uint64_t moat_random_spread(uint64_t word) {
    word ^= word >> 32;
    word *= 0x9e3779b97f4a7c15u;
    word ^= word >> 29;
    word *= 0xd6e8feb86659fd93u;
    word ^= word >> 32;
    return word;
}

/* What is left when the kernel gives nothing: differs from run to run, though it could be guessed. */
static uint64_t moat_random_circumstances(void) {
    struct timespec now = {0, 0};
    (void)moat_syscall(SYS_clock_gettime, CLOCK_MONOTONIC, (long)(uintptr_t)&now, 0, 0, 0, 0);
    uint64_t word = moat_random_spread((uint64_t)now.tv_nsec ^ ((uint64_t)now.tv_sec << 32));
    word ^= moat_random_spread((uint64_t)moat_syscall(SYS_getpid, 0, 0, 0, 0, 0, 0));
    word ^= moat_random_spread((uint64_t)(uintptr_t)&now); /* the stack's random offset */
    return word;
}

uint64_t moat_random_secret(void) {
    uint64_t word = 0;
    long got = moat_syscall(SYS_getrandom, (long)(uintptr_t)&word, sizeof word, MOAT_GETRANDOM_NONBLOCK, 0, 0, 0);
    if (got != (long)sizeof word) {
        word = moat_random_circumstances();
        const unsigned char *given = (const unsigned char *)(uintptr_t)getauxval(AT_RANDOM);
        if (given) {
            uint64_t halves[2];
            _Static_assert(sizeof halves == MOAT_AT_RANDOM_BYTES, "the kernel gives 16 bytes");
            memcpy(halves, given, sizeof halves);
            /* Spread, since the C library makes its stack protector's canary of the same bytes. */
            word ^= moat_random_spread(halves[0]) ^ moat_random_spread(halves[1] + 1);
        }
    }
    return word ? word : 1;
}
