/* The Linux port as a whole: its state, and what it needs around a fork.
 * May include: the C library's freestanding headers only.
 *
 * Everything the port keeps lives in one object, `moat_port_state` (defined in state.c): the leak scan leaves it out as
 * a root. Only the busy flag of the unwinder is elsewhere (thread-local, holds no pointer). */
#ifndef MOAT_PORT_PORT_H
#define MOAT_PORT_PORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct moat_port_state;
extern struct moat_port_state moat_port_state;

/* The bytes of moat_port_state, whole. */
void moat_port_state_range(uintptr_t *start, size_t *bytes);

/* Around fork: takes and gives back the port's own lock, last before the fork and first after it. */
void moat_port_before_fork(void);
void moat_port_after_fork(void);

#endif
