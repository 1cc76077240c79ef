// A block with pages of its own, freed twice: its header is gone with its pages, what is known of it is not.
// find: kind=double-free when=free size=4000000
// status: 134
#include <stdlib.h>

int main(void) {
    void *block = malloc(4000000); /* @allocated main */
    free(block);                   /* @freed main */
    free(block);                   /* @found main */
    return 0;
}
