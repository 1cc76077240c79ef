// Freed by an atexit handler, which runs before Moat's own end.
// find: kind=heap-buffer-overflow when=free size=30 first=30 last=30
// status: 134
#include <stdlib.h>

static char *block;

static void clean_up(void) { free(block); /* @found clean_up */ }

int main(void) {
    atexit(clean_up);
    block = malloc(30); /* @allocated main */
    block[30] = 'A';
    return 0;
}
