// The same without asking: programs probe, so nothing is said.
// none:
// status: 0
// output: null ENOMEM
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

int main(void) {
    volatile size_t many = (size_t)1 << 40;
    void *block = calloc(many, many);
    puts(block == NULL && errno == ENOMEM ? "null ENOMEM" : "wrong");
    return 0;
}
