// From new, given to realloc.
// find: kind=alloc-dealloc-mismatch when=realloc size=4 block.family=new
// status: 134
#include <cstdlib>
#include <new>

int main() {
    int *number = new int(3);                              /* @allocated main */
    number = static_cast<int *>(std::realloc(number, 16)); /* @found main */
    return 0;
}
