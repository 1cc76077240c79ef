// on_error=continue: the program goes on to its own end, and its status says that something was found.
// options: on_error=continue
// find: kind=heap-buffer-overflow when=free size=16 first=16 last=16
// status: 66
// output: still here
#include <stdio.h>
#include <stdlib.h>

int main(void) {
    char *block = malloc(16); /* @allocated main */
    block[16] = 'A';
    free(block); /* @found main */
    puts("still here");
    return 0;
}
