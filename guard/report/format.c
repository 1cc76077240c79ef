/* The renderers' formatter.
 * May include: guard/report/format.h, string.h for mem* and str* only. */
#include "guard/report/format.h"

#include <string.h>

static const char hex_digits[] = "0123456789abcdef";

void moat_out_start(struct moat_out *out, struct moat_sink sink, bool colour) {
    out->sink = sink;
    out->used_bytes = 0;
    out->column = 0;
    out->colour = colour;
}

void moat_out_finish(struct moat_out *out) {
    if (out->used_bytes > 0) {
        out->sink.write(out->sink.context, out->bytes, out->used_bytes);
        out->used_bytes = 0;
    }
}

static void put(struct moat_out *out, const char *bytes, size_t count) {
    while (count > 0) {
        size_t room = MOAT_OUT_BYTES - out->used_bytes;
        size_t part = count < room ? count : room;
        memcpy(out->bytes + out->used_bytes, bytes, part);
        out->used_bytes += part;
        bytes += part;
        count -= part;
        if (out->used_bytes == MOAT_OUT_BYTES) {
            moat_out_finish(out);
        }
    }
}

void moat_out_bytes(struct moat_out *out, const char *bytes, size_t count) {
    put(out, bytes, count);
    for (size_t i = 0; i < count; i++) {
        bool continuation = ((unsigned char)bytes[i] & 0xc0u) == 0x80u; /* of a UTF-8 character: takes no column */
        out->column = bytes[i] == '\n' ? 0 : out->column + !continuation;
    }
}

void moat_out_text(struct moat_out *out, const char *text) { moat_out_bytes(out, text, strlen(text)); }

void moat_out_char(struct moat_out *out, char byte) { moat_out_bytes(out, &byte, 1); }

void moat_out_repeat(struct moat_out *out, char byte, size_t count) {
    for (; count > 0; count--) {
        moat_out_char(out, byte);
    }
}

void moat_out_to_column(struct moat_out *out, size_t column) {
    moat_out_repeat(out, ' ', column > out->column ? column - out->column : 0);
}

void moat_out_paint(struct moat_out *out, enum moat_paint paint) {
    static const char *const codes[] = {[MOAT_PAINT_NONE] = "\033[0m",
                                        [MOAT_PAINT_KIND] = "\033[1;31m",
                                        [MOAT_PAINT_BAD] = "\033[31m",
                                        [MOAT_PAINT_DIM] = "\033[2m"};
    if (out->colour) {
        put(out, codes[paint], strlen(codes[paint]));
    }
}

/* Digits of any base up to 16, with a comma before every third when asked. */
static void put_digits(struct moat_out *out, uint64_t value, unsigned base, unsigned least, bool grouped) {
    char room[32]; /* 20 digits and 6 commas at the most */
    char *next = room + sizeof room;
    unsigned digits = 0;
    do {
        if (grouped && digits > 0 && digits % 3 == 0) {
            *--next = ',';
        }
        *--next = hex_digits[value % base];
        value /= base;
        digits++;
    } while (value != 0 || digits < least);
    moat_out_bytes(out, next, (size_t)(room + sizeof room - next));
}

void moat_out_number(struct moat_out *out, uint64_t value) { put_digits(out, value, 10, 1, false); }

void moat_out_grouped(struct moat_out *out, uint64_t value) { put_digits(out, value, 10, 1, true); }

static uint64_t magnitude(int64_t value) { return value < 0 ? 0 - (uint64_t)value : (uint64_t)value; }

void moat_out_signed(struct moat_out *out, int64_t value) {
    if (value < 0) {
        moat_out_char(out, '-');
    }
    moat_out_number(out, magnitude(value));
}

void moat_out_offset(struct moat_out *out, int64_t value) {
    moat_out_char(out, value < 0 ? '-' : '+');
    moat_out_number(out, magnitude(value));
}

void moat_out_hex(struct moat_out *out, uint64_t value, unsigned digits) {
    put_digits(out, value, 16, digits <= 16 ? digits : 16, false);
}

void moat_out_address(struct moat_out *out, uint64_t value) {
    moat_out_text(out, "0x");
    moat_out_hex(out, value, 1);
}

size_t moat_utf8_length(const char *text, size_t left) {
    const unsigned char *byte = (const unsigned char *)text;
    if (left == 0) {
        return 0;
    }
    if (byte[0] < 0x80) {
        return 1;
    }
    size_t length = byte[0] >= 0xc2 && byte[0] <= 0xdf   ? 2
                    : byte[0] >= 0xe0 && byte[0] <= 0xef ? 3
                    : byte[0] >= 0xf0 && byte[0] <= 0xf4 ? 4
                                                         : 0;
    if (length == 0 || length > left) {
        return 0;
    }
    for (size_t i = 1; i < length; i++) {
        if ((byte[i] & 0xc0) != 0x80) {
            return 0;
        }
    }
    bool overlong = (byte[0] == 0xe0 && byte[1] < 0xa0) || (byte[0] == 0xf0 && byte[1] < 0x90);
    bool surrogate = byte[0] == 0xed && byte[1] >= 0xa0;
    bool too_large = byte[0] == 0xf4 && byte[1] >= 0x90;
    return overlong || surrogate || too_large ? 0 : length;
}

/* The length of a character that may go to a terminal as it is; 0: escape this byte. U+0080 to U+009F are control
 * codes. */
static size_t harmless_length(const char *text, size_t left) {
    unsigned char byte = (unsigned char)text[0];
    if (byte < 0x80) {
        return byte >= 0x20 && byte != 0x7f ? 1 : 0;
    }
    if (byte == 0xc2 && left > 1 && (unsigned char)text[1] < 0xa0) {
        return 0;
    }
    return moat_utf8_length(text, left);
}

void moat_out_clean(struct moat_out *out, const char *text, size_t count) {
    while (count > 0) {
        size_t length = harmless_length(text, count);
        if (length > 0) {
            moat_out_bytes(out, text, length);
        } else {
            length = 1;
            moat_out_text(out, "\\x");
            moat_out_hex(out, (unsigned char)text[0], 2);
        }
        text += length;
        count -= length;
    }
}

void moat_out_clean_text(struct moat_out *out, const char *text) { moat_out_clean(out, text, strlen(text)); }

size_t moat_clean_width(const char *text) {
    size_t width = 0;
    for (size_t left = strlen(text); left > 0;) {
        size_t length = harmless_length(text, left);
        width += length > 0 ? 1 : strlen("\\xNN");
        length = length > 0 ? length : 1;
        text += length;
        left -= length;
    }
    return width;
}

const char *moat_path_base(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash != NULL ? slash + 1 : path;
}
