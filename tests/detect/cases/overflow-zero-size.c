// A block of no bytes has no byte to write to.
// find: kind=heap-buffer-overflow when=free size=0 first=0 last=0
// status: 134
#include <stdlib.h>

int main(void) {
    char *nothing = malloc(0); /* @allocated main */
    nothing[0] = 1;
    free(nothing); /* @found main */
    return 0;
}
