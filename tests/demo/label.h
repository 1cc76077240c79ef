/* The demo's C++ side, as C sees it: labels are made and released there. */
#ifndef DEMO_LABEL_H
#define DEMO_LABEL_H

#ifdef __cplusplus
extern "C" {
#endif

/* A line's label; the caller gives it back through label_release. */
char *label_make(const char *name, long requests);
void label_release(char *label);

#ifdef __cplusplus
}
#endif
#endif
