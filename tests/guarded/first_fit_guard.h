/* The guard over first_fit: all that has to be written for it. */
#ifndef FIRST_FIT_GUARD_H
#define FIRST_FIT_GUARD_H

#include <stdbool.h>
#include <stddef.h>

/* Once, before the first message. */
bool message_start(void);

void *message_alloc(size_t bytes);
void message_free(void *block);

/* For the tests. */
extern struct moat_guarded messages;

#endif
