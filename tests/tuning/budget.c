/* Fills what Moat keeps for itself: many different stacks, many freed blocks. Says how much that was at the most.
 * May include: moat.h, the C library. */
#include <moat.h>

#include <stdio.h>
#include <stdlib.h>

static struct moat_statistics most;
static uint64_t most_beyond_map;

/* A different stack for each number. */
__attribute__((noinline)) static void *descend(unsigned bits, unsigned depth) {
    void *block = depth == 0 ? malloc(100 + bits % 50) : bits % 2 == 0 ? descend(bits / 2, depth - 1) : NULL;
    if (depth != 0 && bits % 2 != 0) {
        block = descend(bits / 2, depth - 1);
    }
    __asm__ volatile("" : "+r"(block)); /* no tail calls */
    return block;
}

static void look(void) {
    struct moat_statistics now;
    moat_stats(&now);
    uint64_t beyond_map = now.own_bytes + now.quarantine_bytes - now.map_bytes;
    if (beyond_map > most_beyond_map) {
        most_beyond_map = beyond_map;
    }
    most = now;
}

int main(void) {
    enum { LIVE = 2000 };
    static void *live[LIVE];
    for (unsigned i = 0; i < 200000; i++) {
        unsigned at = i % LIVE;
        free(live[at]);
        live[at] = descend(i * 2654435761u >> 14, 18);
        if (i % 1000 == 0) {
            look();
        }
    }
    look();
    printf("%llu %llu\n", (unsigned long long)most_beyond_map, (unsigned long long)most.stacks_lost);
    for (unsigned i = 0; i < LIVE; i++) {
        free(live[i]);
    }
    return 0;
}
