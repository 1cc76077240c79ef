/* A library whose constructor and destructor allocate: opened and closed by stress.c. May include: the C library. */
#include <stdlib.h>
#include <string.h>

int constructed_answer(void);

static int *answer;

__attribute__((constructor)) static void construct(void) {
    answer = malloc(1000 * sizeof *answer);
    memset(answer, 0, 1000 * sizeof *answer);
    answer[999] = 42;
}

__attribute__((destructor)) static void destroy(void) { free(answer); }

int constructed_answer(void) { return answer[999]; }
