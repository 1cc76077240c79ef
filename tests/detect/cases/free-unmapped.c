// An address with nothing there.
// find: kind=invalid-free when=free
// status: 134
#include <stdlib.h>

int main(void) {
    free((void *)0x10000); /* @found main */
    return 0;
}
