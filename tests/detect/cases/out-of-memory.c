// More than the process may have.
// options: report_failures=1 on_error=continue
// find: kind=out-of-memory when=call
// output: null ENOMEM
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>

int main(void) {
    struct rlimit limit = {(rlim_t)1 << 30, (rlim_t)1 << 30};
    setrlimit(RLIMIT_AS, &limit);
    volatile size_t much = (size_t)1 << 32;
    void *block = malloc(much); /* @found main */
    puts(block == NULL && errno == ENOMEM ? "null ENOMEM" : "wrong");
    return 0;
}
