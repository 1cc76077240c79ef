// A global variable.
// find: kind=invalid-free when=free
// status: 134
#include <stdlib.h>

long global[4] = {1};

int main(void) {
    free(global); /* @found main */
    return 0;
}
