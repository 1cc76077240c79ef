// Memory the program mapped itself.
// find: kind=invalid-free when=free
// status: 134
#include <stdlib.h>
#include <sys/mman.h>

int main(void) {
    char *pages = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    free(pages + 64); /* @found main */
    return 0;
}
