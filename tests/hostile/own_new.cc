// A library with operators new of its own, which it keeps to itself.
#include <cstdlib>
#include <new>
#include <string>

void *operator new(std::size_t size) {
    void *block = std::malloc(size != 0 ? size : 1);
    if (block == nullptr) {
        throw std::bad_alloc();
    }
    return block;
}

std::string *make_string() { return new std::string(100, 'x'); }

char *make_plain() { return static_cast<char *>(std::malloc(10)); }
