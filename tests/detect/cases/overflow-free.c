// One byte of text past the end, found when the block is freed.
// find: kind=heap-buffer-overflow when=free size=24 first=24 last=24 block.state=live block.family=malloc
// status: 134
#include <stdlib.h>
#include <string.h>

static char *make_block(void) { return malloc(24); /* @allocated make_block */ }

static void drop_block(char *block) { free(block); /* @found drop_block */ }

int main(void) {
    char *block = make_block(); /* @allocated2 main */
    memset(block, 'A', 25);
    drop_block(block); /* @found2 main */
    return 0;
}
