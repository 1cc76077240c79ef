// Two bad bytes with good ones between: first and last span both.
// find: kind=heap-buffer-overflow when=free size=40 first=41 last=44
// status: 134
#include <stdlib.h>

int main(void) {
    unsigned char *block = malloc(40); /* @allocated main */
    block[41] = 0xff;
    block[44] = 0x00;
    free(block); /* @found main */
    return 0;
}
