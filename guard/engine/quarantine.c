/* The quarantine's ring. May include: quarantine.h only. */
#include "guard/engine/quarantine.h"

/* The smallest dressed block and its entry: so many bytes of budget are used up by one block at the least. */
#define MOAT_SMALLEST_HELD_BYTES 80u

void moat_quarantine_init(struct moat_quarantine *quarantine, size_t budget_bytes, size_t least_bytes,
                          const struct moat_source *memory) {
    *quarantine = (struct moat_quarantine){.budget_bytes = budget_bytes};
    if (budget_bytes == 0 || memory == NULL) {
        return;
    }
    least_bytes = least_bytes > MOAT_SMALLEST_HELD_BYTES ? least_bytes : MOAT_SMALLEST_HELD_BYTES;
    size_t capacity = 1;
    while (capacity < budget_bytes / least_bytes + 1) {
        capacity *= 2;
    }
    for (; capacity != 0; capacity /= 2) {
        size_t got_bytes;
        quarantine->entries = memory->acquire(memory->context, capacity * sizeof *quarantine->entries, &got_bytes);
        if (quarantine->entries != NULL) {
            quarantine->capacity = capacity;
            return;
        }
    }
}
