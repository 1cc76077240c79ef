// In front of a block that is never freed.
// find: kind=heap-buffer-underflow when=exit size=24 first=-4 last=-1
// status: 134
#include <stdlib.h>

int *kept;

int main(void) {
    kept = malloc(24); /* @allocated main */
    kept[-1] = 0x41414141;
    return 0;
}
