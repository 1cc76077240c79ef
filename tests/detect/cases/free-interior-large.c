// Inside a block with pages of its own.
// find: kind=invalid-free when=free size=5000000 first=2500000
// status: 134
#include <stdlib.h>

int main(void) {
    char *block = malloc(5000000); /* @allocated main */
    free(block + 2500000);         /* @found main */
    return 0;
}
