/* A heap as many a small RTOS has one: a list of free memory, first fit, neighbours joined. It knows nothing of Moat. */
#ifndef FIRST_FIT_H
#define FIRST_FIT_H

#include <stddef.h>

struct first_fit {
    struct first_fit_node *first; /* free memory, in address order */
};

/* Starts a heap in memory that is aligned to 8 and a multiple of 8 bytes long. */
void first_fit_init(struct first_fit *heap, void *memory, size_t bytes);

/* A block aligned to 8, or NULL. */
void *first_fit_alloc(struct first_fit *heap, size_t bytes);

void first_fit_free(struct first_fit *heap, void *block);

#endif
