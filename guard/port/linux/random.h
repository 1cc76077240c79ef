/* The secret of this run.
 * May include: the C library's freestanding headers only. */
#ifndef MOAT_PORT_RANDOM_H
#define MOAT_PORT_RANDOM_H

#include <stdint.h>

/* A number an attacker or a stray byte cannot know: from getrandom without waiting, else from the bytes the kernel
 * gives each process (AT_RANDOM), else from time, process id and addresses. Never 0. A new one at each call.
 * Context: any, also before the C library is ready; errno is kept. */
uint64_t moat_random_secret(void);

#endif
