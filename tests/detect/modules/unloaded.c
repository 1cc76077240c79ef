// The library of cases/unloaded-library.c.
#include <stdlib.h>

char *make_in_library(void);

char *make_in_library(void) { return malloc(48); /* @allocated make_in_library */ }
