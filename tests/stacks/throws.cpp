// Allocates in destructors and handlers while exceptions are in flight. Ends with 0.
#include <cstdio>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

struct Noisy {
    std::string name;
    explicit Noisy(int depth) : name("a name too long to be kept inside, of depth " + std::to_string(depth)) {}
    ~Noisy() { std::make_unique<std::string>(name + name); }
};

static int dive(int depth, int how) {
    Noisy noisy(depth);
    std::vector<std::string> more(static_cast<std::size_t>(depth % 5), noisy.name);
    if (depth == 0) {
        if (how % 3 == 0) {
            throw std::runtime_error(noisy.name);
        }
        return how % 3 == 1 ? throw how : static_cast<int>(more.size());
    }
    try {
        return dive(depth - 1, how) + 1;
    } catch (const std::runtime_error &error) {
        std::string kept = error.what();
        if (depth % 4 == 0) {
            std::throw_with_nested(std::logic_error(kept + "!"));
        }
        throw;
    } catch (int number) {
        Noisy another(number);
        if (depth % 7 == 0) {
            try {
                dive(depth / 2, how + 1);
            } catch (...) {
                another.name += "?";
            }
        }
        throw;
    }
}

static int run(int rounds) {
    std::map<std::string, int> outcomes;
    for (int round = 0; round < rounds; round++) {
        try {
            outcomes["returned " + std::to_string(dive(round % 23, round))]++;
        } catch (const std::exception &error) {
            outcomes[error.what()]++;
        } catch (...) {
            outcomes["something else was thrown"]++;
        }
    }
    return outcomes.size() > 3 ? 0 : 1;
}

int main() {
    int results[3] = {1, 1, 1};
    std::thread first([&] { results[0] = run(100); }), second([&] { results[1] = run(100); });
    results[2] = run(200);
    first.join();
    second.join();
    return results[0] + results[1] + results[2];
}
