// A local variable.
// find: kind=invalid-free when=free
// status: 134
#include <stdlib.h>

int main(void) {
    long local[4] = {0};
    free(local); /* @found main */
    return 0;
}
