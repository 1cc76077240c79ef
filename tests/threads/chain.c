/* A list of a million links, lost as a whole: one definite block, all others indirect, and no stack is used up in
 * finding that. May include: the C library. */
#include <stdlib.h>

enum { LINKS = 1000000 };

static void **volatile newest;

int main(void) {
    for (unsigned i = 0; i < LINKS; i++) {
        void *volatile *link = malloc(2 * sizeof *link);
        if (link == NULL)
            return 1;
        link[0] = newest;
        link[1] = NULL;
        newest = (void **)link;
    }
    newest = NULL; /* and forgets it */
    return 0;
}
