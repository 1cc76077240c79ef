// realloc of what was never allocated.
// find: kind=invalid-free when=realloc
// status: 134
#include <stdlib.h>

int main(void) {
    char local[32] = {0};
    char *moved = realloc(local, 64); /* @found main */
    return moved == NULL;
}
