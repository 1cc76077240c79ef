// leak_check=0: not looked for.
// options: leak_check=0
// none:
// status: 0
#include <stdlib.h>

int main(void) {
    volatile char *block = malloc(77);
    block[0] = 1;
    block = NULL;
    return 0;
}
