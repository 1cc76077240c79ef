/* Prints how many requested bytes a 64 KiB heap holds: the workload of fill.h with its seed, and the mean over many
 * others. May include: fill.h, stdio.h. */
#include "fill.h"

#include <stdio.h>

#define OTHER_SEEDS 1000u

int main(void) {
    static _Alignas(64) unsigned char memory[FILL_BYTES];
    static struct fill fill;
    struct fill_result result = fill_run(&fill, memory, FILL_SEED);
    size_t first_bytes = 0;
    size_t last_bytes = 0;
    for (uint32_t i = 1; i <= OTHER_SEEDS; i++) {
        struct fill_result other = fill_run(&fill, memory, FILL_SEED * i + i);
        first_bytes += other.first_bytes;
        last_bytes += other.last_bytes;
    }
    printf("%zu %zu %zu %zu %zu\n", result.first_bytes, result.last_bytes, first_bytes / OTHER_SEEDS,
           last_bytes / OTHER_SEEDS, moat_heap_control_bytes(FILL_BYTES, NULL));
    return 0;
}
