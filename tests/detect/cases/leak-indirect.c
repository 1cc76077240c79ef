// A list whose head is forgotten: one lost block, four that only it leads to.
// find: kind=memory-leak when=exit class=definite
// status: 23
#include <stdlib.h>

struct link {
    struct link *next;
    char payload[92];
};

static void forget_list(void) {
    struct link *head = NULL;
    for (int i = 0; i < 5; i++) {
        struct link *link = malloc(sizeof *link); /* @allocated forget_list */
        link->next = head;
        head = link;
    }
}

static void wipe_stack(void) {
    volatile char bytes[4096];
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = 0;
}

int main(void) {
    forget_list();
    wipe_stack();
    return 0;
}
