// An address that no pointer can have.
// find: kind=invalid-free when=free
// status: 134
#include <stdlib.h>

int main(void) {
    free((void *)0x4141414141414141); /* @found main */
    return 0;
}
