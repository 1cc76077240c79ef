// Deletes what own_new.cc made; with an argument also what was never made by new.
#include <cstdio>
#include <string>

std::string *make_string();
char *make_plain();

int main(int count, char **) {
    for (int i = 0; i < 1000; i++) {
        delete make_string();
    }
    if (count > 1) {
        delete make_plain();
    }
    std::puts("done");
    return 0;
}
