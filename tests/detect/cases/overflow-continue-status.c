// on_error=continue leaves a status that is not 0 alone.
// options: on_error=continue
// find: kind=heap-buffer-overflow when=free size=16 first=16 last=16
// status: 7
#include <stdlib.h>

int main(void) {
    char *block = malloc(16); /* @allocated main */
    block[16] = 'A';
    free(block); /* @found main */
    return 7;
}
