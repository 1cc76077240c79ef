// Two blocks from one place, forgotten.
// find: kind=memory-leak when=exit class=definite blocks=2 bytes=246
// status: 23
#include <stdlib.h>

static void forget(void) {
    volatile char *block = malloc(123); /* @allocated forget */
    block[0] = 1;
}

static void wipe_stack(void) {
    volatile char bytes[4096];
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = 0;
}

int main(void) {
    for (int i = 0; i < 2; i++)
        forget(); /* @allocated2 main */
    wipe_stack();
    return 0;
}
