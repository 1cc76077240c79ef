/* What only the preload library has: the step between the last constructor and main. May include: process.h, POSIX headers.
 *
 * Being initialised first means before the C library itself. A dlopen from there would initialise the C library without its arguments
 * and environment, so what loads libraries waits until __libc_start_main, which starts every program, comes by. */
#define _GNU_SOURCE 1 /* RTLD_NEXT */
#include "guard/entry/process.h"

#include "guard/port/linux/module.h"

#include <dlfcn.h>
#include <link.h>

/* A program that is linked to fixed addresses and takes malloc's is given an entry of its own table of jumps, which leads to
 * whoever serves: its symbol says that it is defined elsewhere. */
static bool is_defined(void *function) {
    Dl_info info;
    void *symbol = NULL;
    return dladdr1(function, &info, &symbol, RTLD_DL_SYMENT) == 0 || symbol == NULL ||
           ((const ElfW(Sym) *)symbol)->st_shndx != SHN_UNDEF;
}

bool moat_preload_is_bypassed(void) {
    void *served_by = dlsym(RTLD_DEFAULT, "malloc");
    return served_by != NULL && !moat_module_is_own((uintptr_t)served_by) && is_defined(served_by);
}

typedef int start_main(int (*program)(int, char **, char **), int argument_count, char **arguments, void (*init)(void),
                       void (*fini)(void), void (*loader_fini)(void), void *stack_end);

MOAT_EXPORT start_main __libc_start_main;

int __libc_start_main(int (*program)(int, char **, char **), int argument_count, char **arguments, void (*init)(void),
                      void (*fini)(void), void (*loader_fini)(void), void *stack_end) {
    start_main *next;
    *(void **)&next = dlsym(RTLD_NEXT, "__libc_start_main");
    moat_start_late();
    return next(program, argument_count, arguments, init, fini, loader_fini, stack_end);
}
