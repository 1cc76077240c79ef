// Freed, then given to realloc.
// find: kind=double-free when=realloc size=24
// status: 134
#include <stdlib.h>

int main(void) {
    void *block = malloc(24);   /* @allocated main */
    free(block);                /* @freed main */
    block = realloc(block, 48); /* @found main */
    return block == NULL;
}
