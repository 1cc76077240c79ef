// A program that does nothing wrong, in every way there is.
// none:
// status: 0
// output: clean
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <new>
#include <string>
#include <vector>

struct alignas(256) Wide {
    char bytes[256];
};

int main() {
    std::map<std::string, std::vector<std::string>> words;
    for (int i = 0; i < 1000; i++)
        words[std::to_string(i % 37)].push_back(std::string(static_cast<size_t>(i), 'x'));
    auto wide = std::make_unique<Wide>();
    auto many = std::make_unique<Wide[]>(3);
    int *none = new (std::nothrow) int(4);
    delete none;
    try {
        volatile size_t much = static_cast<size_t>(-1) / 4;
        char *block = new char[much];
        std::free(block);
        return 1;
    } catch (const std::bad_alloc &) {
    }
    char *block = static_cast<char *>(std::malloc(0));
    block = static_cast<char *>(std::realloc(block, 100));
    std::memset(block, 1, 100);
    block = static_cast<char *>(std::realloc(block, 3000000));
    block = static_cast<char *>(std::realloc(block, 10));
    std::free(block);
    std::free(nullptr);
    std::puts("clean");
    return reinterpret_cast<size_t>(wide.get()) % 256 != 0 || reinterpret_cast<size_t>(many.get()) % 256 != 0;
}
