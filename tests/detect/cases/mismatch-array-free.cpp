// From new[], given to free.
// find: kind=alloc-dealloc-mismatch when=free size=33 block.family=new[]
// status: 134
#include <cstdlib>
#include <new>

int main() {
    char *text = new char[33]; /* @allocated main */
    std::free(text);           /* @found main */
    return 0;
}
