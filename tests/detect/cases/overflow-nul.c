// The commonest overflow: a text's terminating NUL, behind a block of an odd size.
// find: kind=heap-buffer-overflow when=free size=5 first=5 last=5
// status: 134
#include <stdlib.h>
#include <string.h>

int main(void) {
    char *name = malloc(strlen("hello")); /* @allocated main */
    strcpy(name, "hello");
    free(name); /* @found main */
    return 0;
}
