// Allocates in every way there is, one after the other, and says which got nothing. Usage: fail [ROUNDS]
// May include: the C and C++ libraries.
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <malloc.h>
#include <new>

static int number;

// One line for each allocation, so that the driver knows which number failed, and how.
static void *said(const char *call, void *block) {
    number++;
    if (block == nullptr) {
        std::printf("%d %s %s\n", number, call, errno == ENOMEM ? "ENOMEM" : "errno?");
        errno = 0;
    }
    return block;
}

template <typename Call> static void *thrown(Call call) {
    try {
        return call();
    } catch (const std::bad_alloc &) {
        errno = ENOMEM;
        return nullptr;
    }
}

static void by_posix() {
    void *block = &number;
    int error = posix_memalign(&block, 64, 100);
    bool untouched = error == 0 || block == &number;
    if (error != 0) {
        block = nullptr;
        errno = untouched ? error : 0;
    }
    std::free(said("posix_memalign", block));
}

static void round_of_calls() {
    void *block = said("malloc", std::malloc(100));
    // A realloc that fails leaves the block as it was.
    void *grown = block == nullptr ? nullptr : said("realloc", std::realloc(block, 5000));
    std::free(grown != nullptr ? grown : block);
    std::free(said("calloc", std::calloc(10, 10)));
    std::free(said("realloc-null", std::realloc(nullptr, 10)));
    std::free(said("reallocarray", reallocarray(nullptr, 10, 10)));
    by_posix();
    std::free(said("aligned_alloc", std::aligned_alloc(64, 128)));
    std::free(said("memalign", memalign(64, 128)));
    ::operator delete(said("new", thrown([] { return ::operator new(10); })));
    ::operator delete[](said("new[]", thrown([] { return ::operator new[](10); })));
    ::operator delete(said("new-nothrow", ::operator new(10, std::nothrow)));
    ::operator delete(said("new-aligned", thrown([] { return ::operator new(10, std::align_val_t(64)); })),
                      std::align_val_t(64));
    std::free(said("large", std::malloc(3 << 20)));
}

int main(int argc, char **argv) {
    static char buffer[1 << 16];
    std::setvbuf(stdout, buffer, _IOFBF, sizeof buffer); // stdio's own would count
    for (int rounds = argc > 1 ? std::atoi(argv[1]) : 1; rounds > 0; rounds--) {
        round_of_calls();
    }
    std::printf("%d calls\n", number);
    return 0;
}
