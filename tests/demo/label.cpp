// The demo's C++ side: a label is an array from new[], so only delete[] may take it back.
#include "label.h"

#include <cstdio>

namespace {
constexpr int label_bytes = 64;
}

char *label_make(const char *name, long requests) {
    char *label = new char[label_bytes];
    std::snprintf(label, label_bytes, "%-16s %4ld requests", name, requests);
    return label;
}

void label_release(char *label) { delete[] label; }
