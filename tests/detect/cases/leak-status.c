// A leak leaves a status that is not 0 alone.
// find: kind=memory-leak when=exit class=definite blocks=1 bytes=77
// status: 5
#include <stdlib.h>

static void forget(void) {
    volatile char *block = malloc(77); /* @allocated forget */
    block[0] = 1;
}

int main(void) {
    forget(); /* @allocated2 main */
    return 5;
}
