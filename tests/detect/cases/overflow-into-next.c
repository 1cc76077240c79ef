// A run of bytes from one block's tail into the next block's header: one overflow of the first.
// find: kind=heap-buffer-overflow size=64 first=64
// status: 134
#include <stdlib.h>
#include <string.h>

int main(void) {
    char *first = malloc(64); /* @allocated main */
    char *second = malloc(64);
    memset(first, 'B', 64 + 48);
    free(first); /* @found main */
    free(second);
    return 0;
}
