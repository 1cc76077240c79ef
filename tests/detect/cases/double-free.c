// Freed twice.
// find: kind=double-free when=free size=24
// status: 134
#include <stdlib.h>

static void first_free(void *block) { free(block); /* @freed first_free */ }

static void second_free(void *block) { free(block); /* @found second_free */ }

int main(void) {
    void *block = malloc(24); /* @allocated main */
    first_free(block);        /* @freed2 main */
    second_free(block);       /* @found2 main */
    return 0;
}
