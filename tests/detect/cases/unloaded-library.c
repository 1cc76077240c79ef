// The block was allocated by a library that is gone when the bug is found: its frames still have names.
// module: unloaded.c
// find: kind=heap-buffer-overflow when=free size=48 first=48 last=48
// status: 134
#include <dlfcn.h>
#include <stdlib.h>

int main(int argc, char **argv) {
    void *library = dlopen(argv[argc - 1], RTLD_NOW);
    if (library == NULL)
        return 1;
    char *(*make)(void) = (char *(*)(void))dlsym(library, "make_in_library");
    char *block = make(); /* @allocated2 main */
    dlclose(library);
    block[48] = 'A';
    free(block); /* @found main */
    return 0;
}
