// Shrinking gives the tail up: writing there is an overflow.
// find: kind=heap-buffer-overflow when=free size=2500 first=2500 last=2500
// status: 134
#include <stdlib.h>

int main(void) {
    char *block = malloc(3000);
    block = realloc(block, 2500); /* @allocated main */
    block[2500] = 7;
    free(block); /* @found main */
    return 0;
}
