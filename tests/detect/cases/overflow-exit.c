// A block that is never freed, and still reachable: its overflow is found at exit.
// find: kind=heap-buffer-overflow when=exit size=10 first=10 last=12
// status: 134
#include <stdlib.h>
#include <string.h>

char *kept;

int main(void) {
    kept = malloc(10); /* @allocated main */
    memcpy(kept + 10, "xyz", 3);
    return 0;
}
