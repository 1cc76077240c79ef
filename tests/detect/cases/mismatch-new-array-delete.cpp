// From new, given to delete[].
// find: kind=alloc-dealloc-mismatch when=free size=1 block.family=new
// status: 134
#include <cstdlib>
#include <new>

int main() {
    char *text = new char; /* @allocated main */
    delete[] text;         /* @found main */
    return 0;
}
