// Blocks that something still points to, also into their middle, are no leaks.
// none:
// status: 0
#include <stdlib.h>

static char *global_start;
static char *global_inside;
static _Thread_local char *thread_local_start;
struct link {
    struct link *next;
} * list;

int main(void) {
    global_start = malloc(100);
    global_inside = (char *)malloc(100) + 60;
    thread_local_start = malloc(100);
    for (int i = 0; i < 3; i++) {
        struct link *link = malloc(sizeof *link);
        link->next = list;
        list = link;
    }
    char *on_stack = malloc(100);
    void **table = calloc(10, sizeof *table);
    table[9] = malloc(2000000);
    on_stack[0] = table != NULL;
    exit(0);
}
