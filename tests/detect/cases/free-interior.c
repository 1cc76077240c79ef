// A pointer into the middle of a block.
// find: kind=invalid-free when=free size=64 first=27
// status: 134
#include <stdlib.h>

int main(void) {
    char *block = malloc(64); /* @allocated main */
    free(block + 27);         /* @found main */
    return 0;
}
