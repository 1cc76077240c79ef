// Written to after it was freed; still in quarantine at exit.
// find: kind=heap-use-after-free when=exit size=64 first=10 last=10
// status: 134
#include <stdlib.h>

int main(void) {
    char *block = malloc(64); /* @allocated main */
    free(block);              /* @freed main */
    block[10] = 'A';
    return 0;
}
