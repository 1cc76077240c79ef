// From aligned_alloc, given to delete.
// find: kind=alloc-dealloc-mismatch when=free size=128 block.family=aligned
// status: 134
#include <cstdlib>
#include <new>

int main() {
    void *block = ::aligned_alloc(64, 128); /* @allocated main */
    ::operator delete(block);               /* @found main */
    return 0;
}
