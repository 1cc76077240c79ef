#include "first_fit.h"

#include <stdint.h>

/* In front of every block lies one word: how long the block is, the word itself included. A free block's next word is its link. */
struct first_fit_node {
    size_t bytes;
    struct first_fit_node *next;
};

#define WORD sizeof(size_t)
#define UNIT ((size_t)8)

void first_fit_init(struct first_fit *heap, void *memory, size_t bytes) {
    heap->first = memory;
    heap->first->bytes = bytes;
    heap->first->next = NULL;
}

void *first_fit_alloc(struct first_fit *heap, size_t bytes) {
    if (bytes > SIZE_MAX / 2) {
        return NULL;
    }
    size_t need = (bytes + WORD + UNIT - 1) / UNIT * UNIT;
    need = need < sizeof(struct first_fit_node) ? sizeof(struct first_fit_node) : need;
    for (struct first_fit_node **link = &heap->first; *link != NULL; link = &(*link)->next) {
        struct first_fit_node *node = *link;
        if (node->bytes < need) {
            continue;
        }
        if (node->bytes - need >= sizeof(struct first_fit_node)) {
            struct first_fit_node *rest = (struct first_fit_node *)((char *)node + need);
            rest->bytes = node->bytes - need;
            rest->next = node->next;
            *link = rest;
            node->bytes = need;
        } else {
            *link = node->next;
        }
        return (char *)node + WORD;
    }
    return NULL;
}

/* Joins a node with the one behind it, if they touch. */
static void join(struct first_fit_node *node) {
    if ((char *)node + node->bytes == (char *)node->next) {
        node->bytes += node->next->bytes;
        node->next = node->next->next;
    }
}

void first_fit_free(struct first_fit *heap, void *block) {
    struct first_fit_node *node = (struct first_fit_node *)((char *)block - WORD);
    struct first_fit_node *before = NULL;
    struct first_fit_node *after = heap->first;
    while (after != NULL && after < node) {
        before = after;
        after = after->next;
    }
    node->next = after;
    join(node);
    if (before == NULL) {
        heap->first = node;
    } else {
        before->next = node;
        join(before);
    }
}
