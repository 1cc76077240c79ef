// The last byte of a freed block counts as much as the first.
// find: kind=heap-use-after-free when=exit size=61 first=60 last=60
// status: 134
#include <stdlib.h>

int main(void) {
    char *block = malloc(61); /* @allocated main */
    free(block);              /* @freed main */
    block[60] = 0;
    return 0;
}
