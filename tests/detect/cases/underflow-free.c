// One byte in front of the block, found when it is freed.
// find: kind=heap-buffer-underflow when=free size=24 first=-1 last=-1
// status: 134
#include <stdlib.h>

int main(void) {
    char *block = malloc(24); /* @allocated main */
    block[-1] = 0;
    free(block); /* @found main */
    return 0;
}
