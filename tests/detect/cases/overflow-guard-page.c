// A write far behind a large block meets its guard page: found at the instruction itself.
// find: kind=heap-buffer-overflow when=access size=2000000
// status: 134
#include <stdlib.h>
#include <string.h>

int main(void) {
    char *block = malloc(2000000); /* @allocated main */
    for (size_t i = 2000000; i < 2000000 + 8192; i++)
        block[i] = 'A'; /* @found main */
    free(block);
    return 0;
}
