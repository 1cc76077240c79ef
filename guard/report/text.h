/* The parts that the text renderer is made of.
 * May include: guard/report/report.h and format.h. */
#ifndef MOAT_GUARD_REPORT_TEXT_H
#define MOAT_GUARD_REPORT_TEXT_H

#include "guard/report/format.h"

/* Every line of a report but its heading starts in this column. */
#define MOAT_TEXT_INDENT 2u

/* The sentence that says what happened, with sizes and offsets, and what else must be said right after it
 * (text_says.c). */
void moat_text_says(struct moat_out *out, const struct moat_report *report);

/* The memory around the first bad byte, row by row, and what the bad bytes mean to a human (text_bytes.c). */
void moat_text_bytes(struct moat_out *out, const struct moat_report *report);

/* "1 byte", "3,400 bytes". */
void moat_text_count(struct moat_out *out, uint64_t count, const char *noun);

/* Whether the block had been freed when it was looked at. */
bool moat_block_was_freed(const struct moat_block_facts *block);

#endif
