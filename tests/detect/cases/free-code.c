// A function.
// find: kind=invalid-free when=free
// status: 134
#include <stdlib.h>

int main(void) {
    free((void *)main); /* @found main */
    return 0;
}
