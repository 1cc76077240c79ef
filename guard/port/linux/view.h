/* A thread's view of which modules are loaded. May include: the C library's freestanding headers only. */
#ifndef MOAT_PORT_VIEW_H
#define MOAT_PORT_VIEW_H

#include <stdint.h>

/* How far a thread has heard of unloading. All zero: nothing yet. */
struct moat_rules_view {
    uint64_t loader_calls; /* when `unloads` was asked for, plus one */
    uint64_t unloads;
    uint64_t epoch; /* the cache's name for this number of them */
};

#endif
