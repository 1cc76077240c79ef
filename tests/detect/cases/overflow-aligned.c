// A block of a large alignment and an odd size.
// find: kind=heap-buffer-overflow when=free size=777 first=777 last=777 block.family=aligned
// status: 134
#include <stdlib.h>

int main(void) {
    void *block = NULL;
    if (posix_memalign(&block, 65536, 777) != 0) /* @allocated main */
        return 1;
    ((char *)block)[777] = 0x11;
    free(block); /* @found main */
    return 0;
}
