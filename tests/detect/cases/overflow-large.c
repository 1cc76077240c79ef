// A block with pages of its own, one byte past an end that is not a page's end.
// find: kind=heap-buffer-overflow when=free size=2000001 first=2000001 last=2000001
// status: 134
#include <stdlib.h>

int main(void) {
    char *block = malloc(2000001); /* @allocated main */
    block[2000001] = 0;
    free(block); /* @found main */
    return 0;
}
