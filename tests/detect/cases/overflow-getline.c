// The C library grew the block with realloc: it counts as allocated there.
// find: kind=heap-buffer-overflow when=free size=120 first=120 last=120
// status: 134
#include <stdio.h>
#include <stdlib.h>

int main(void) {
    char *line = NULL;
    size_t room = 0;
    FILE *file = fopen("/proc/self/comm", "r");
    if (file == NULL || getline(&line, &room, file) <= 0) /* @allocated main */
        return 1;
    fclose(file);
    line[120] = 'A';
    free(line); /* @found main */
    return 0;
}
