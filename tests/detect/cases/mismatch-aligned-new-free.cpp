// From aligned new, given to free.
// find: kind=alloc-dealloc-mismatch when=free size=100 block.family=new-aligned
// status: 134
#include <cstdlib>
#include <new>

int main() {
    void *block = ::operator new(100, std::align_val_t(64)); /* @allocated main */
    std::free(block);                                        /* @found main */
    return 0;
}
