/* Short texts without stdio: the few string functions the port's files share.
 * May include: the C library's freestanding headers, <string.h>. */
#ifndef MOAT_PORT_TEXT_H
#define MOAT_PORT_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Text being put together in a buffer: always NUL-terminated, cut when full. */
struct moat_text_buffer {
    char *start;
    size_t room; /* of the buffer, the NUL included; at least 1 */
    size_t length;
};

static inline struct moat_text_buffer moat_text_begin(char *start, size_t room) {
    start[0] = '\0';
    return (struct moat_text_buffer){start, room, 0};
}

static inline void moat_text_add_bytes(struct moat_text_buffer *text, const char *added, size_t bytes) {
    size_t left = text->room - 1 - text->length;
    if (bytes > left)
        bytes = left;
    memcpy(text->start + text->length, added, bytes);
    text->length += bytes;
    text->start[text->length] = '\0';
}

static inline void moat_text_add(struct moat_text_buffer *text, const char *added) {
    moat_text_add_bytes(text, added, strlen(added));
}

static inline void moat_text_add_number(struct moat_text_buffer *text, uint64_t value, unsigned base) {
    char digits[32]; /* 20 at most in base 10, 16 in base 16 */
    size_t at = sizeof digits;
    do {
        digits[--at] = "0123456789abcdef"[value % base];
        value /= base;
    } while (value);
    moat_text_add_bytes(text, digits + at, sizeof digits - at);
}

static inline bool moat_text_starts(const char *text, const char *beginning) {
    return strncmp(text, beginning, strlen(beginning)) == 0;
}

/* Cuts an ending off. Gives whether it was there. */
static inline bool moat_text_drop_ending(char *text, const char *ending) {
    size_t length = strlen(text), ending_length = strlen(ending);
    if (length < ending_length || memcmp(text + length - ending_length, ending, ending_length) != 0)
        return false;
    text[length - ending_length] = '\0';
    return true;
}

static inline const char *moat_text_base_name(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

#endif
