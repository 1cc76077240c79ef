// After a realloc the size is the new one.
// find: kind=heap-buffer-overflow when=free size=3000 first=3000 last=3000
// status: 134
#include <stdlib.h>

int main(void) {
    char *block = malloc(2000);
    block = realloc(block, 3000); /* @allocated main */
    block[3000] = 0;
    free(block); /* @found main */
    return 0;
}
