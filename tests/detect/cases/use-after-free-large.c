// A freed block with pages of its own is not accessible: a read is caught at the instruction, too.
// find: kind=heap-use-after-free when=access size=3000000 first=12345
// status: 134
#include <stdlib.h>

int main(void) {
    char *block = malloc(3000000); /* @allocated main */
    block[12345] = 1;
    free(block);         /* @freed main */
    return block[12345]; /* @found main */
}
