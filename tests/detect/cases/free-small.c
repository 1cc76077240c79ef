// A small number that was taken for a pointer.
// find: kind=invalid-free when=free
// status: 134
#include <stdlib.h>

int main(void) {
    free((void *)8); /* @found main */
    return 0;
}
