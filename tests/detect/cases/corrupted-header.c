// A wild write that hits Moat's own header and leaves the zones whole.
// find: kind=corrupted-metadata when=free
// status: 134
#include <stdlib.h>
#include <string.h>

int main(void) {
    char *block = malloc(64);
    memset(block - 40, 'B', 8);
    free(block); /* @found main */
    return 0;
}
