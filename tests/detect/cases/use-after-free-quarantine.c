// Written to after it was freed, found when the block leaves the quarantine.
// options: quarantine=4K quarantine_far=0
// find: kind=heap-use-after-free when=quarantine size=64 first=0 last=3
// status: 134
#include <stdlib.h>

static void release(int *block) { free(block); /* @freed release */ }

int main(void) {
    int *block = malloc(64); /* @allocated main */
    release(block);          /* @freed2 main */
    block[0] = 0x01020304;
    for (int i = 0; i < 10000; i++)
        free(malloc(500));
    return 0;
}
