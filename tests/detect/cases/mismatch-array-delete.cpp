// From new[], given to delete without brackets.
// find: kind=alloc-dealloc-mismatch when=free size=20 block.family=new[]
// status: 134
#include <cstdlib>
#include <new>

int main() {
    char *text = new char[20]; /* @allocated main */
    ::operator delete(text);   /* @found main */
    return 0;
}
