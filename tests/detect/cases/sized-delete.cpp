// A sized delete whose size is not the block's.
// find: kind=alloc-dealloc-mismatch when=free size=40
// status: 134
#include <new>

int main() {
    void *block = ::operator new(40);
    ::operator delete(block, 48); /* @found main */
    return 0;
}
