// A program that closes all its descriptors and reuses them still gets its report out.
// find: kind=heap-buffer-overflow when=free size=16 first=16 last=16
// status: 134
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

int main(void) {
    for (int descriptor = 0; descriptor < 256; descriptor++)
        close(descriptor);
    for (int i = 0; i < 3; i++)
        if (open("/dev/null", O_RDWR) != i)
            return 1;
    char *block = malloc(16); /* @allocated main */
    block[16] = 'A';
    free(block); /* @found main */
    return 0;
}
