/* The main function of test binaries that bring our own runner, on hosts.
 * May include: tests/test.h and the C library. Usage: BINARY [FILTER] */
#define MOAT_TEST_IMPLEMENTATION
#include "tests/test.h"

#include <stdio.h>

void moat_test_put(const char *text) {
    fputs(text, stdout);
    fflush(stdout);
}

int main(int argc, char **argv) { return moat_test_main(argc > 1 ? argv[1] : NULL); }
