/* How these test programs say what they found: a line for each expectation, which run.sh counts.
 * May include: the C library. */
#ifndef MOAT_TESTS_ENTRY_VERDICT_H
#define MOAT_TESTS_ENTRY_VERDICT_H

#include <stdbool.h>
#include <stdio.h>

static inline void verdict(bool holds, const char *what) {
    printf("%s %s\n", holds ? "pass" : "FAIL", what);
    fflush(stdout);
}

#define EXPECT(condition) verdict(condition, #condition)

#endif
