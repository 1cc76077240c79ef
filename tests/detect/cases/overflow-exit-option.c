// on_error=exit ends the process with exitcode.
// options: on_error=exit exitcode=99
// find: kind=heap-buffer-overflow when=free size=16 first=16 last=16
// status: 99
#include <stdlib.h>

int main(void) {
    char *block = malloc(16); /* @allocated main */
    block[16] = 'A';
    free(block); /* @found main */
    return 0;
}
