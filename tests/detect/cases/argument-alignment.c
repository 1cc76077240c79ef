// An alignment that is no power of two.
// options: report_failures=1 on_error=continue
// find: kind=invalid-argument when=call
// output: EINVAL
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

int main(void) {
    void *block = NULL;
    int error = posix_memalign(&block, 24, 100); /* @found main */
    puts(error == EINVAL && block == NULL ? "EINVAL" : "wrong");
    return 0;
}
