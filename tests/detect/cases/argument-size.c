// More than PTRDIFF_MAX bytes.
// options: report_failures=1 on_error=continue
// find: kind=invalid-argument when=call
// output: null ENOMEM
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int main(void) {
    volatile size_t negative = (size_t)-100;
    void *block = malloc(negative); /* @found main */
    puts(block == NULL && errno == ENOMEM ? "null ENOMEM" : "wrong");
    return 0;
}
