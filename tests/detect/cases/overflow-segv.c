// The program crashes by itself: the heap is looked through first, for the damage is the likely cause.
// find: kind=heap-buffer-overflow when=check size=48 first=48 last=48
// status: 139
#include <stdlib.h>

char *kept;

int main(void) {
    kept = malloc(48); /* @allocated main */
    kept[48] = 'A';
    *(volatile int *)0 = 1;
    return 0;
}
