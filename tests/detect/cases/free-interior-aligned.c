// Inside a block, and aligned like one.
// find: kind=invalid-free when=free size=640 first=320
// status: 134
#include <stdlib.h>

int main(void) {
    char *block = malloc(640); /* @allocated main */
    free(block + 320);         /* @found main */
    return 0;
}
