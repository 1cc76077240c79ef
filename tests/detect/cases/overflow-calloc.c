// calloc's block is exactly count times size.
// find: kind=heap-buffer-overflow when=free size=21 first=21 last=21
// status: 134
#include <stdlib.h>

int main(void) {
    char *block = calloc(3, 7); /* @allocated main */
    block[21] = 1;
    free(block); /* @found main */
    return 0;
}
