// Freed again long after the block left the quarantine.
// options: quarantine=4K quarantine_far=0
// find: kind=double-free when=free
// status: 134
#include <stdlib.h>

int main(void) {
    void *block = malloc(3000);
    free(block);
    for (int i = 0; i < 200; i++)
        free(malloc(900));
    free(block); /* @found main */
    return 0;
}
