// Found by realloc before it moves anything.
// find: kind=heap-buffer-overflow when=realloc size=100 first=100 last=100
// status: 134
#include <stdlib.h>

int main(void) {
    char *block = malloc(100); /* @allocated main */
    block[100] = 'A';
    block = realloc(block, 200); /* @found main */
    free(block);
    return 0;
}
