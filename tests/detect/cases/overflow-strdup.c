// A block that the C library allocated for the program: the stack goes through it to the caller.
// find: kind=heap-buffer-overflow when=free size=4 first=4 last=4
// status: 134
#include <stdlib.h>
#include <string.h>

int main(void) {
    char *copy = strdup("abc"); /* @allocated main */
    strcat(copy, "d");
    free(copy); /* @found main */
    return 0;
}
