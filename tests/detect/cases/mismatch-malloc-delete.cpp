// From malloc, given to delete.
// find: kind=alloc-dealloc-mismatch when=free size=12 block.family=malloc
// status: 134
#include <cstdlib>
#include <new>

int main() {
    int *number = static_cast<int *>(std::malloc(12)); /* @allocated main */
    ::operator delete(number);                         /* @found main */
    return 0;
}
