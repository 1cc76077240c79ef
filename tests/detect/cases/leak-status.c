// A leak leaves a status that is not 0 alone.
// find: kind=memory-leak when=exit class=definite blocks=1 bytes=77
// status: 5
#include <stdlib.h>

static void forget(void) {
    volatile char *block = malloc(77); /* @allocated forget */
    block[0] = 1;
}

static void wipe_stack(void) {
    volatile char bytes[4096];
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = 0;
}

int main(void) {
    forget(); /* @allocated2 main */
    wipe_stack();
    return 5;
}
