// From new, given to free.
// find: kind=alloc-dealloc-mismatch when=free size=4 block.family=new
// status: 134
#include <cstdlib>
#include <new>

int main() {
    int *number = new int(3); /* @allocated main */
    std::free(number);        /* @found main */
    return 0;
}
