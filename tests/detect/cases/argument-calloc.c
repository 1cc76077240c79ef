// A product that overflows: NULL and ENOMEM, and a finding for who asks for it.
// options: report_failures=1 on_error=continue
// find: kind=invalid-argument when=call
// output: null ENOMEM
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

int main(void) {
    volatile size_t many = (size_t)1 << 40;
    void *block = calloc(many, many); /* @found main */
    puts(block == NULL && errno == ENOMEM ? "null ENOMEM" : "wrong");
    return 0;
}
