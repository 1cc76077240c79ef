// The program executes itself; the bug is in what it becomes.
// find: kind=heap-buffer-overflow when=free size=16 first=16 last=16
// status: 134
#include <stdlib.h>
#include <unistd.h>

int main(int argc, char **argv) {
    if (argc == 1) {
        free(malloc(10));
        execl("/proc/self/exe", argv[0], "again", (char *)NULL);
        return 1;
    }
    char *block = malloc(16); /* @allocated main */
    block[16] = 'A';
    free(block); /* @found main */
    return 0;
}
