/* The small formatter that the renderers write with: buffered, bounded, without stdio.
 * May include: guard/report/report.h. Nothing here allocates, locks or calls more than mem* and str*. */
#ifndef MOAT_GUARD_REPORT_FORMAT_H
#define MOAT_GUARD_REPORT_FORMAT_H

#include "guard/report/report.h"

#define MOAT_OUT_BYTES 512

/* Text on its way to a sink. `column` counts the characters since the last newline, colours not among them. */
struct moat_out {
    struct moat_sink sink;
    size_t used_bytes;
    size_t column;
    bool colour;
    char bytes[MOAT_OUT_BYTES];
};

/* What a piece of text is, for those who want colours. */
enum moat_paint { MOAT_PAINT_NONE, MOAT_PAINT_KIND, MOAT_PAINT_BAD, MOAT_PAINT_DIM };

void moat_out_start(struct moat_out *out, struct moat_sink sink, bool colour);
/* Hands what is buffered to the sink. Must come last. */
void moat_out_finish(struct moat_out *out);

void moat_out_bytes(struct moat_out *out, const char *bytes, size_t count);
void moat_out_text(struct moat_out *out, const char *text);
void moat_out_char(struct moat_out *out, char byte);
void moat_out_repeat(struct moat_out *out, char byte, size_t count);
/* Blanks up to a column; none when the line is there already. */
void moat_out_to_column(struct moat_out *out, size_t column);
/* Starts and, with MOAT_PAINT_NONE, ends a colour. */
void moat_out_paint(struct moat_out *out, enum moat_paint paint);

void moat_out_number(struct moat_out *out, uint64_t value);
/* As 1,234,567. */
void moat_out_grouped(struct moat_out *out, uint64_t value);
void moat_out_signed(struct moat_out *out, int64_t value);
/* As +24, -3, +0. */
void moat_out_offset(struct moat_out *out, int64_t value);
/* Without 0x, at least `digits` of them. */
void moat_out_hex(struct moat_out *out, uint64_t value, unsigned digits);
/* With 0x. */
void moat_out_address(struct moat_out *out, uint64_t value);

/* Text that came from outside (names, paths, memory): what a terminal might act on comes out as \xNN. */
void moat_out_clean(struct moat_out *out, const char *text, size_t count);
void moat_out_clean_text(struct moat_out *out, const char *text);

/* How many bytes the UTF-8 character at `text` has, of `left` bytes; 0 when they are none (overlong forms, surrogates
 * and what is cut short included). */
size_t moat_utf8_length(const char *text, size_t left);

/* How many columns moat_out_clean_text takes for it. */
size_t moat_clean_width(const char *text);

/* What follows the last slash of a path. */
const char *moat_path_base(const char *path);

#endif
