/* The memory around the first bad byte, and what the bad bytes say.
 * May include: guard/report/text.h, string.h for mem* only.
 *
 *   the bytes:
 *     +16  2f 69 6e 64 65 78 2e 68 | 74 6d 6c 9c   /index.h|tml.
 *                                    ^^ ^^ ^^      the text "tml"; e1 b7 d3 before
 *
 * A bar stands where the user's bytes begin and where they end. Rows keep room for it in the same columns, so that
 * bytes and carets stay below one another. */
#include "guard/report/text.h"

#include <string.h>

#define ROW_BYTES 16u
#define BYTES_COLUMN (2 * MOAT_TEXT_INDENT)
#define BEFORE_BYTES_MAX 8u  /* of the original bytes, this many are shown */
#define QUOTED_BYTES_MAX 40u /* of text found in the bad bytes */
#define SMALL_NUMBER_MAX 65535
#define SLOT_BYTES_MAX 8u
#define USER_POINTER_END ((uint64_t)1 << 47)
#define LARGE_POINTER_MIN ((uint64_t)1 << 32) /* below, a 64-bit value is more often a number */

/* What is the same for all rows. */
struct rows {
    const struct moat_report *report;
    const struct moat_dump *dump;
    uint32_t length;         /* of the dump, within its array */
    uint32_t row_bytes;      /* columns of bytes */
    bool gap[ROW_BYTES];     /* a bar is drawn before this column in some row */
    size_t first_column;     /* where the first byte stands */
    size_t character_column; /* where the bytes stand as characters */
};

/* A piece of the dump whose bytes were written by what looks like one write. */
struct run {
    uint32_t start, count;
};

static bool is_bad(const struct rows *rows, uint32_t index) { return (rows->dump->bad >> index & 1) != 0; }

/* Whether the user's bytes begin or end right before this byte. */
static bool is_edge(const struct rows *rows, uint32_t index) {
    const struct moat_block_facts *block = &rows->report->finding.block;
    int64_t offset = rows->dump->offset + (int64_t)index;
    return block->address != 0 && (offset == 0 || (offset > 0 && (uint64_t)offset == block->size_bytes));
}

static bool is_printable(unsigned char byte) { return byte >= ' ' && byte <= '~'; }

/* ---- reading bytes for the human ---- */

static uint64_t little_endian(const unsigned char *bytes, uint32_t count) {
    uint64_t value = 0;
    for (uint32_t i = count; i > 0; i--) {
        value = value << 8 | bytes[i - 1];
    }
    return value;
}

static bool all_same(const unsigned char *bytes, uint32_t count) {
    for (uint32_t i = 1; i < count; i++) {
        if (bytes[i] != bytes[0]) {
            return false;
        }
    }
    return true;
}

/* How many bytes of text the run begins with, when it is text, whitespace and at most one NUL behind it; else 0. */
static uint32_t text_length(const unsigned char *bytes, uint32_t count) {
    uint32_t length = count - (bytes[count - 1] == 0);
    for (uint32_t i = 0; i < length; i++) {
        if (!is_printable(bytes[i]) && bytes[i] != '\n' && bytes[i] != '\t' && bytes[i] != '\r') {
            return 0;
        }
    }
    return length;
}

static void say_text(struct moat_out *out, const unsigned char *bytes, uint32_t length, uint32_t count) {
    moat_out_text(out, length == 1 ? "the character \"" : "the text \"");
    for (uint32_t i = 0; i < length && i < QUOTED_BYTES_MAX; i++) {
        if (is_printable(bytes[i])) {
            moat_out_char(out, (char)bytes[i]);
        } else {
            moat_out_text(out, bytes[i] == '\n' ? "\\n" : bytes[i] == '\t' ? "\\t" : "\\r");
        }
    }
    moat_out_text(out, length > QUOTED_BYTES_MAX ? "...\"" : "\"");
    moat_out_text(out, count > length ? " and its NUL" : "");
}

static bool points_into(uint64_t value, const struct moat_block_facts *block) {
    return block->address != 0 && value >= block->address &&
           value - block->address < (block->size_bytes > 0 ? block->size_bytes : 1);
}

/* Whether the run is (most of) one pointer-sized slot that holds a likely pointer, and says so. A pointer's top bytes
 * are zero, and a byte may be what it was by chance, so that the run may be shorter than the slot. */
static bool say_pointer(struct moat_out *out, const struct rows *rows, struct run run) {
    const struct moat_finding *finding = &rows->report->finding;
    uint32_t slot = rows->report->word_bits == 32 ? 4 : SLOT_BYTES_MAX;
    uint32_t start = run.start - (uint32_t)((uint64_t)(rows->dump->offset + (int64_t)run.start) % slot);
    if (start > run.start || start + slot > rows->length || run.start + run.count > start + slot ||
        run.count < slot - 2) {
        return false;
    }
    uint64_t value = little_endian(rows->dump->bytes + start, slot);
    bool known = points_into(value, &finding->block);
    bool before = points_into(value, &finding->neighbour[0]);
    bool after = points_into(value, &finding->neighbour[1]);
    bool likely = slot == SLOT_BYTES_MAX && value >= LARGE_POINTER_MIN && value < USER_POINTER_END;
    if (!known && !before && !after && !likely) {
        return false;
    }
    moat_out_text(out, "a pointer");
    if (before || after) {
        moat_out_text(out, " into block #");
        moat_out_number(out, finding->neighbour[before ? 0 : 1].sequence);
    } else if (known) {
        moat_out_text(out, " into this block");
    }
    moat_out_text(out, ", ");
    moat_out_address(out, value);
    return true;
}

static bool say_number(struct moat_out *out, const struct rows *rows, struct run run) {
    int64_t offset = rows->dump->offset + (int64_t)run.start;
    if ((run.count != 2 && run.count != 4 && run.count != 8) || offset % (int64_t)run.count != 0) {
        return false;
    }
    uint64_t bits = little_endian(rows->dump->bytes + run.start, run.count);
    uint64_t sign = (uint64_t)1 << (8 * run.count - 1);
    int64_t value = (int64_t)((bits ^ sign) - sign); /* extends the sign */
    if (value > SMALL_NUMBER_MAX || value < -SMALL_NUMBER_MAX) {
        return false;
    }
    moat_out_text(out, "the number ");
    moat_out_signed(out, value);
    return true;
}

/* What the run looks like. False when it looks like nothing in particular; then nothing was written. */
static bool say_reading(struct moat_out *out, const struct rows *rows, struct run run) {
    const unsigned char *bytes = rows->dump->bytes + run.start;
    if (run.count == 1 && bytes[0] == 0) {
        moat_out_text(out, "a lone NUL");
        return true;
    }
    uint32_t text = text_length(bytes, run.count);
    if (text > 0) {
        say_text(out, bytes, text, run.count);
        return true;
    }
    if (bytes[0] != 0 && (say_pointer(out, rows, run) || say_number(out, rows, run))) {
        return true;
    }
    if (run.count > 1 && all_same(bytes, run.count)) {
        moat_out_grouped(out, run.count);
        moat_out_text(out, bytes[0] == 0 ? " zero bytes" : " bytes of ");
        if (bytes[0] != 0) {
            moat_out_text(out, "0x");
            moat_out_hex(out, bytes[0], 2);
        }
        return true;
    }
    return say_pointer(out, rows, run) || say_number(out, rows, run);
}

static void say_before(struct moat_out *out, const struct rows *rows, struct run run) {
    const unsigned char *expected = rows->dump->expected + run.start;
    bool same = run.count > 1 && all_same(expected, run.count);
    uint32_t shown = same ? 1 : run.count < BEFORE_BYTES_MAX ? run.count : BEFORE_BYTES_MAX;
    moat_out_text(out, same ? "all " : "");
    for (uint32_t i = 0; i < shown; i++) {
        moat_out_hex(out, expected[i], 2);
        moat_out_char(out, ' ');
    }
    moat_out_text(out, !same && shown < run.count ? "... before" : "before");
}

/* ---- rows ---- */

/* The run that begins at or after `from`. One good byte between two bad ones belongs to it: by chance it was already
 * what was written. */
static struct run next_run(const struct rows *rows, uint32_t from) {
    struct run run = {from, 0};
    while (run.start < rows->length && !is_bad(rows, run.start)) {
        run.start++;
    }
    uint32_t index = run.start;
    while (index < rows->length && (is_bad(rows, index) || (index + 1 < rows->length && is_bad(rows, index + 1)))) {
        index++;
    }
    run.count = index - run.start;
    return run;
}

static size_t column_of(const struct rows *rows, uint32_t column) {
    size_t place = rows->first_column + (size_t)column * 3;
    for (uint32_t i = 0; i <= column; i++) {
        place += rows->gap[i] ? 2 : 0;
    }
    return place;
}

static void say_row(struct moat_out *out, const struct rows *rows, uint32_t start, uint32_t end) {
    moat_out_to_column(out, BYTES_COLUMN);
    moat_out_paint(out, MOAT_PAINT_DIM);
    moat_out_offset(out, rows->dump->offset + (int64_t)start);
    moat_out_paint(out, MOAT_PAINT_NONE);
    for (uint32_t i = start; i < end; i++) {
        if (is_edge(rows, i)) {
            moat_out_to_column(out, column_of(rows, i - start) - 2);
            moat_out_char(out, '|');
        }
        moat_out_to_column(out, column_of(rows, i - start));
        bool bad = is_bad(rows, i);
        if (bad) {
            moat_out_paint(out, MOAT_PAINT_BAD);
        }
        moat_out_hex(out, rows->dump->bytes[i], 2);
        if (bad) {
            moat_out_paint(out, MOAT_PAINT_NONE);
        }
    }
    moat_out_to_column(out, rows->character_column);
    for (uint32_t i = start; i < end; i++) {
        if (is_edge(rows, i)) {
            moat_out_char(out, '|');
        }
        moat_out_char(out, is_printable(rows->dump->bytes[i]) ? (char)rows->dump->bytes[i] : '.');
    }
    moat_out_char(out, '\n');
}

/* The carets below a row, and the reading of each run that begins in it. */
static void say_carets(struct moat_out *out, const struct rows *rows, uint32_t start, uint32_t end) {
    moat_out_paint(out, MOAT_PAINT_BAD);
    for (uint32_t i = start; i < end; i++) {
        if (is_bad(rows, i)) {
            moat_out_to_column(out, column_of(rows, i - start));
            moat_out_text(out, "^^");
        }
    }
    moat_out_paint(out, MOAT_PAINT_NONE);
    for (uint32_t from = start; from < end;) {
        struct run run = next_run(rows, from);
        if (run.start >= end) {
            break;
        }
        bool begins_here = run.start > start || start == 0 || !is_bad(rows, start - 1);
        if (begins_here) {
            if (from > start) {
                moat_out_char(out, '\n');
            }
            moat_out_to_column(out, rows->character_column);
            moat_out_text(out, say_reading(out, rows, run) ? "; " : "");
            say_before(out, rows, run);
        }
        from = run.start + run.count;
    }
    moat_out_char(out, '\n');
}

/* Whether a row is worth a line: it has bad bytes, or user's bytes right beside a row that has. Without any bad byte
 * all are. */
static bool row_is_shown(const struct rows *rows, uint32_t start) {
    uint64_t row = (((uint64_t)1 << ROW_BYTES) - 1) << start;
    uint64_t beside = start > 0 ? row | row >> ROW_BYTES : row;
    beside |= start + ROW_BYTES < MOAT_DUMP_BYTES ? row << ROW_BYTES : 0;
    bool all_outside = (rows->dump->outside & row) == row;
    uint64_t bad = rows->dump->bad;
    return bad == 0 || (bad & row) != 0 || ((bad & beside) != 0 && !all_outside);
}

static size_t offset_width(int64_t offset) {
    size_t width = 2; /* sign and one digit */
    for (uint64_t rest = offset < 0 ? 0 - (uint64_t)offset : (uint64_t)offset; rest >= 10; rest /= 10) {
        width++;
    }
    return width;
}

static void lay_out(struct rows *rows, const struct moat_report *report) {
    memset(rows, 0, sizeof *rows);
    rows->report = report;
    rows->dump = &report->finding.dump;
    rows->length = rows->dump->length < MOAT_DUMP_BYTES ? rows->dump->length : MOAT_DUMP_BYTES;
    rows->row_bytes = rows->length < ROW_BYTES ? rows->length : ROW_BYTES;
    size_t widest = 0;
    for (uint32_t start = 0; start < rows->length; start += ROW_BYTES) {
        if (!row_is_shown(rows, start)) {
            continue;
        }
        size_t width = offset_width(rows->dump->offset + (int64_t)start);
        widest = width > widest ? width : widest;
        for (uint32_t i = start; i < rows->length && i < start + ROW_BYTES; i++) {
            rows->gap[i % ROW_BYTES] = rows->gap[i % ROW_BYTES] || is_edge(rows, i);
        }
    }
    rows->first_column = BYTES_COLUMN + widest + 2;
    rows->character_column = column_of(rows, rows->row_bytes - (rows->row_bytes > 0)) + 2 + 3;
}

void moat_text_bytes(struct moat_out *out, const struct moat_report *report) {
    struct rows rows;
    lay_out(&rows, report);
    if (rows.length == 0) {
        return;
    }
    moat_out_to_column(out, MOAT_TEXT_INDENT);
    moat_out_text(out, "the bytes:\n");
    uint64_t shown_bad = 0;
    for (uint32_t start = 0; start < rows.length; start += ROW_BYTES) {
        uint32_t end = rows.length - start < ROW_BYTES ? rows.length : start + ROW_BYTES;
        uint64_t bad_here = 0;
        for (uint32_t i = start; i < end; i++) {
            bad_here += is_bad(&rows, i);
        }
        if (row_is_shown(&rows, start)) {
            say_row(out, &rows, start, end);
        }
        if (bad_here > 0) {
            say_carets(out, &rows, start, end);
        }
        shown_bad += bad_here;
    }
    if (shown_bad > 0 && report->finding.bad_count > shown_bad) {
        moat_out_to_column(out, BYTES_COLUMN);
        moat_out_text(out, "and ");
        moat_out_grouped(out, report->finding.bad_count - shown_bad);
        moat_out_text(out, " more, up to offset ");
        moat_out_offset(out, report->finding.last);
        moat_out_char(out, '\n');
    }
}
