// The old pointer after a realloc that moved the block.
// find: kind=heap-use-after-free when=exit size=32 first=5 last=5
// status: 134
#include <stdlib.h>

int main(void) {
    char *old = malloc(32);       /* @allocated main */
    char *new = realloc(old, 64); /* @freed main */
    old[5] = 'A';
    free(new);
    return 0;
}
