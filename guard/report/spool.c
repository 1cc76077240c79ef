/* Reports as bytes, and back.
 * May include: guard/report/report.h, string.h for mem* only.
 *
 *   record:  "MoaR"  u8 version  u8 type  u16 zero  u32 body bytes  u32 CRC-32 of the body
 *            u32 CRC-32 of the 16 bytes before  body
 *
 * All integers are little-endian and written one by one: a 32-bit process writes for a 64-bit reader. The header has a
 * sum of its own, so that a damaged length is noticed at once instead of being waited for. A body is read only after
 * its sum proved right, and every count and length in it is proved all the same, for whoever may write to the spool may
 * also compute a sum. */
#include "guard/report/report.h"

#include <string.h>

#define RECORD_MAGIC "MoaR"
#define RECORD_MAGIC_BYTES 4u
#define RECORD_VERSION 1u
#define RECORD_HEADER_BYTES 20u
#define AT_VERSION 4u
#define AT_TYPE 5u
#define AT_ZERO 6u
#define AT_LENGTH 8u
#define AT_BODY_SUM 12u
#define AT_HEADER_SUM 16u

/* CRC-32 as in IEEE 802.3, four bits at a time: the table has 16 entries, which a small target can spare. */
static uint32_t crc_of(const unsigned char *bytes, size_t length) {
    static const uint32_t of_nibble[16] = {0x00000000, 0x1db71064, 0x3b6e20c8, 0x26d930ac, 0x76dc4190, 0x6b6b51f4,
                                           0x4db26158, 0x5005713c, 0xedb88320, 0xf00f9344, 0xd6d6a3e8, 0xcb61b38c,
                                           0x9b64c2b0, 0x86d3d2d4, 0xa00ae278, 0xbdbdf21c};
    uint32_t sum = 0xffffffff;
    for (size_t i = 0; i < length; i++) {
        sum ^= bytes[i];
        sum = sum >> 4 ^ of_nibble[sum & 15];
        sum = sum >> 4 ^ of_nibble[sum & 15];
    }
    return ~sum;
}

static void store(unsigned char *bytes, uint64_t value, unsigned count) {
    for (unsigned i = 0; i < count; i++) {
        bytes[i] = (unsigned char)(value >> (8 * i));
    }
}

static uint64_t load(const unsigned char *bytes, unsigned count) {
    uint64_t value = 0;
    for (unsigned i = count; i > 0; i--) {
        value = value << 8 | bytes[i - 1];
    }
    return value;
}

/* ---- one description of the body for both directions ----
 * Writing and reading walk the same functions, so that they cannot disagree on a field: `write` says which way it goes.
 * Writing never stores into the report. */

struct stream {
    unsigned char *bytes;
    size_t length, next;
    bool write;
    bool failed; /* no room, too short, or a value that cannot be */
};

static uint64_t pass(struct stream *stream, uint64_t value, unsigned count) {
    if (stream->failed || stream->length - stream->next < count) {
        stream->failed = true;
        return 0;
    }
    if (stream->write) {
        store(stream->bytes + stream->next, value, count);
    } else {
        value = load(stream->bytes + stream->next, count);
    }
    stream->next += count;
    return value;
}

static void pass_u8(struct stream *stream, uint8_t *value) { *value = (uint8_t)pass(stream, *value, 1); }

static void pass_u16(struct stream *stream, uint16_t *value) { *value = (uint16_t)pass(stream, *value, 2); }

static void pass_u32(struct stream *stream, uint32_t *value) { *value = (uint32_t)pass(stream, *value, 4); }

static void pass_u64(struct stream *stream, uint64_t *value) { *value = pass(stream, *value, 8); }

static void pass_i64(struct stream *stream, int64_t *value) { *value = (int64_t)pass(stream, (uint64_t)*value, 8); }

static void pass_bytes(struct stream *stream, unsigned char *bytes, size_t count) {
    if (stream->failed || stream->length - stream->next < count) {
        stream->failed = true;
        return;
    }
    if (stream->write) {
        memcpy(stream->bytes + stream->next, bytes, count);
    } else {
        memcpy(bytes, stream->bytes + stream->next, count);
    }
    stream->next += count;
}

/* A count that must stay below its array's size. */
static void pass_count(struct stream *stream, uint16_t *count, size_t most) {
    pass_u16(stream, count);
    stream->failed = stream->failed || *count > most;
    if (stream->failed && !stream->write) {
        *count = 0;
    }
}

/* A string in an array of `room` bytes: its length, then its bytes. One without its NUL is cut at the array's end. */
static void pass_string(struct stream *stream, char *text, size_t room) {
    const char *end = stream->write ? memchr(text, '\0', room) : NULL;
    uint16_t length = (uint16_t)(end != NULL ? (size_t)(end - text) : room - 1);
    pass_count(stream, &length, room - 1);
    pass_bytes(stream, (unsigned char *)text, length);
    if (!stream->write) {
        text[stream->failed ? 0 : length] = '\0';
        if (strlen(text) != length) {
            stream->failed = true; /* a NUL inside */
        }
    }
}

static void pass_block(struct stream *stream, struct moat_block_facts *block) {
    pass_u64(stream, &block->address);
    pass_u64(stream, &block->size_bytes);
    pass_u64(stream, &block->sequence);
    pass_u32(stream, &block->allocation_stack);
    pass_u32(stream, &block->free_stack);
    pass_u16(stream, &block->allocation_thread);
    pass_u16(stream, &block->free_thread);
    pass_u8(stream, &block->state);
    pass_u8(stream, &block->family);
}

static void pass_dump(struct stream *stream, struct moat_dump *dump) {
    uint16_t length = (uint16_t)(dump->length < MOAT_DUMP_BYTES ? dump->length : MOAT_DUMP_BYTES);
    pass_i64(stream, &dump->offset);
    pass_count(stream, &length, MOAT_DUMP_BYTES);
    pass_u64(stream, &dump->bad);
    pass_u64(stream, &dump->outside);
    pass_bytes(stream, dump->bytes, length);
    pass_bytes(stream, dump->expected, length);
    if (!stream->write) {
        dump->length = length;
    }
}

static void pass_finding(struct stream *stream, struct moat_finding *finding) {
    pass_u8(stream, &finding->kind);
    pass_u8(stream, &finding->when);
    pass_u8(stream, &finding->place);
    pass_u8(stream, &finding->argument);
    pass_u8(stream, &finding->caller_family);
    pass_u8(stream, &finding->leak_class);
    pass_u8(stream, &finding->is_write);
    pass_u8(stream, &finding->header_lost);
    pass_u16(stream, &finding->thread);
    pass_u32(stream, &finding->found_stack);
    pass_block(stream, &finding->block);
    pass_block(stream, &finding->neighbour[0]);
    pass_block(stream, &finding->neighbour[1]);
    pass_i64(stream, &finding->first);
    pass_i64(stream, &finding->last);
    pass_u64(stream, &finding->bad_count);
    pass_u64(stream, &finding->address);
    pass_u64(stream, &finding->argument_value[0]);
    pass_u64(stream, &finding->argument_value[1]);
    pass_u64(stream, &finding->whole_at);
    pass_u64(stream, &finding->bad_by);
    pass_u64(stream, &finding->leak_blocks);
    pass_u64(stream, &finding->leak_bytes);
    pass_u64(stream, &finding->leak_indirect_blocks);
    pass_u64(stream, &finding->leak_indirect_bytes);
    pass_dump(stream, &finding->dump);
    pass_string(stream, finding->owner, sizeof finding->owner);
    pass_string(stream, finding->asked, sizeof finding->asked);
    pass_string(stream, finding->rule, sizeof finding->rule);
}

static void pass_summary(struct stream *stream, struct moat_summary *summary) {
    pass_u64(stream, &summary->findings);
    pass_u64(stream, &summary->repeats);
    pass_u64(stream, &summary->suppressed);
    pass_u64(stream, &summary->leak_groups);
    pass_u64(stream, &summary->leak_definite_blocks);
    pass_u64(stream, &summary->leak_definite_bytes);
    pass_u64(stream, &summary->leak_indirect_blocks);
    pass_u64(stream, &summary->leak_indirect_bytes);
    pass_u64(stream, &summary->live_blocks);
    pass_u64(stream, &summary->live_bytes);
    pass_u64(stream, &summary->allocations);
    pass_u8(stream, &summary->leak_outcome);
}

static void pass_modules(struct stream *stream, struct moat_report *report) {
    pass_count(stream, &report->module_count, MOAT_REPORT_MODULES_MAX);
    for (uint16_t i = 0; i < report->module_count && !stream->failed; i++) {
        struct moat_module *module = &report->modules[i];
        pass_string(stream, module->path, sizeof module->path);
        pass_u64(stream, &module->bias);
        pass_u8(stream, &module->build_id_bytes);
        if (module->build_id_bytes > MOAT_BUILD_ID_BYTES) {
            stream->failed = true;
            return;
        }
        pass_bytes(stream, module->build_id, module->build_id_bytes);
    }
}

/* A frame's two flags share a byte. */
#define FRAME_EXACT 1u
#define FRAME_OWN 2u

static void pass_stack(struct stream *stream, struct moat_stack *stack, uint16_t module_count) {
    pass_count(stream, &stack->frame_count, MOAT_STACK_FRAMES_MAX);
    pass_u8(stream, &stack->incomplete);
    for (uint16_t i = 0; i < stack->frame_count && !stream->failed; i++) {
        struct moat_frame *frame = &stack->frames[i];
        uint8_t flags = (uint8_t)((frame->exact ? FRAME_EXACT : 0u) | (frame->own ? FRAME_OWN : 0u));
        uint16_t module = frame->module < module_count ? frame->module : MOAT_NO_MODULE;
        pass_u64(stream, &frame->pc);
        pass_u16(stream, &module);
        pass_u8(stream, &flags);
        if (!stream->write) {
            frame->module = module;
            frame->exact = (flags & FRAME_EXACT) != 0;
            frame->own = (flags & FRAME_OWN) != 0;
            stream->failed = stream->failed || (module != MOAT_NO_MODULE && module >= module_count);
        }
    }
}

/* What a record of any type begins with. */
struct head {
    uint8_t word_bits;
    uint32_t bug_id;
    uint64_t repeats;
    int64_t pid;
    uint64_t value[2];
};

static void pass_head(struct stream *stream, struct head *head) {
    pass_u8(stream, &head->word_bits);
    pass_u32(stream, &head->bug_id);
    pass_u64(stream, &head->repeats);
    pass_i64(stream, &head->pid);
    pass_u64(stream, &head->value[0]);
    pass_u64(stream, &head->value[1]);
}

static void pass_report(struct stream *stream, struct moat_report *report) {
    struct head head = {.word_bits = report->word_bits == 32 ? 32 : 64,
                        .bug_id = report->bug_id,
                        .repeats = report->repeats,
                        .pid = report->pid,
                        .value = {report->value[0], report->value[1]}};
    pass_head(stream, &head);
    if (!stream->write) {
        report->word_bits = head.word_bits;
        report->bug_id = head.bug_id;
        report->repeats = head.repeats;
        report->pid = head.pid;
        report->value[0] = head.value[0];
        report->value[1] = head.value[1];
    }
    pass_string(stream, report->program, sizeof report->program);
    pass_string(stream, report->command, sizeof report->command);
    pass_string(stream, report->note, sizeof report->note);
    if (report->type == MOAT_REPORT_FINDING) {
        pass_string(stream, report->place_name, sizeof report->place_name);
        pass_finding(stream, &report->finding);
        pass_modules(stream, report);
        for (unsigned which = 0; which < MOAT_STACK_COUNT; which++) {
            pass_stack(stream, &report->stacks[which], report->module_count);
        }
    } else if (report->type == MOAT_REPORT_SUMMARY) {
        pass_summary(stream, &report->summary);
    }
}

static bool type_is_known(uint8_t type) { return type >= MOAT_REPORT_FINDING && type <= MOAT_REPORT_NOT_COVERED; }

/* Writes the header of a record whose body is there. Gives its whole length; 0 when the body did not fit. */
static size_t seal(unsigned char *record, uint8_t type, const struct stream *stream) {
    if (stream->failed) {
        return 0;
    }
    memcpy(record, RECORD_MAGIC, RECORD_MAGIC_BYTES);
    record[AT_VERSION] = RECORD_VERSION;
    record[AT_TYPE] = type;
    store(record + AT_ZERO, 0, 2);
    store(record + AT_LENGTH, stream->next, 4);
    store(record + AT_BODY_SUM, crc_of(stream->bytes, stream->next), 4);
    store(record + AT_HEADER_SUM, crc_of(record, AT_HEADER_SUM), 4);
    return RECORD_HEADER_BYTES + stream->next;
}

size_t moat_report_encode(const struct moat_report *report, unsigned char *record, size_t most) {
    if (most < RECORD_HEADER_BYTES || !type_is_known(report->type)) {
        return 0;
    }
    most = most < MOAT_RECORD_BYTES_MAX ? most : MOAT_RECORD_BYTES_MAX;
    struct stream stream = {.bytes = record + RECORD_HEADER_BYTES, .length = most - RECORD_HEADER_BYTES, .write = true};
    /* The cast lets one walk serve both ways; writing leaves the report alone. */
    pass_report(&stream, (struct moat_report *)(uintptr_t)report);
    return seal(record, report->type, &stream);
}

/* As pass_string writes it, from text of any length: what is too long is cut. */
static void write_text(struct stream *stream, const char *text, size_t room) {
    size_t length = 0;
    while (length < room - 1 && text[length] != '\0') {
        length++;
    }
    pass(stream, length, 2);
    pass_bytes(stream, (unsigned char *)(uintptr_t)text, length); /* only read */
}

size_t moat_brief_encode(const struct moat_brief *brief, unsigned char *record, size_t most) {
    bool is_brief = brief->type == MOAT_REPORT_CHECK_IN || brief->type == MOAT_REPORT_EXEC ||
                    brief->type == MOAT_REPORT_EXEC_GONE || brief->type == MOAT_REPORT_NOTE;
    if (most < RECORD_HEADER_BYTES || !is_brief) {
        return 0;
    }
    most = most < MOAT_RECORD_BYTES_MAX ? most : MOAT_RECORD_BYTES_MAX;
    struct stream stream = {.bytes = record + RECORD_HEADER_BYTES, .length = most - RECORD_HEADER_BYTES, .write = true};
    struct head head = {
        .word_bits = 8 * sizeof(void *), .pid = brief->pid, .value = {brief->value[0], brief->value[1]}};
    pass_head(&stream, &head);
    write_text(&stream, brief->program, MOAT_PATH_BYTES);
    write_text(&stream, brief->command, MOAT_COMMAND_BYTES);
    write_text(&stream, brief->note, MOAT_NOTE_BYTES);
    return seal(record, brief->type, &stream);
}

/* Where the next record may begin: at the next magic, or what may be the beginning of one at the end. */
static size_t bytes_to_next(const unsigned char *bytes, size_t length) {
    size_t skip = 1;
    while (skip < length) {
        const unsigned char *found = memchr(bytes + skip, RECORD_MAGIC[0], length - skip);
        if (found == NULL) {
            return length;
        }
        skip = (size_t)(found - bytes);
        size_t left = length - skip;
        if (memcmp(found, RECORD_MAGIC, left < RECORD_MAGIC_BYTES ? left : RECORD_MAGIC_BYTES) == 0) {
            return skip;
        }
        skip++;
    }
    return skip < length ? skip : length;
}

static enum moat_decode_result damaged(const unsigned char *bytes, size_t length, size_t *used_bytes) {
    *used_bytes = bytes_to_next(bytes, length);
    return MOAT_DECODE_DAMAGED;
}

enum moat_decode_result moat_report_decode(const unsigned char *bytes, size_t length, struct moat_report *report,
                                           size_t *used_bytes) {
    *used_bytes = 0;
    size_t magic_bytes = length < RECORD_MAGIC_BYTES ? length : RECORD_MAGIC_BYTES;
    if (memcmp(bytes, RECORD_MAGIC, magic_bytes) != 0) {
        return damaged(bytes, length, used_bytes);
    }
    if (length < RECORD_HEADER_BYTES) {
        return MOAT_DECODE_MORE;
    }
    uint64_t body_bytes = load(bytes + AT_LENGTH, 4);
    if (load(bytes + AT_HEADER_SUM, 4) != crc_of(bytes, AT_HEADER_SUM) || bytes[AT_VERSION] != RECORD_VERSION ||
        !type_is_known(bytes[AT_TYPE]) || load(bytes + AT_ZERO, 2) != 0 ||
        body_bytes > MOAT_RECORD_BYTES_MAX - RECORD_HEADER_BYTES) {
        return damaged(bytes, length, used_bytes);
    }
    if (length - RECORD_HEADER_BYTES < body_bytes) {
        return MOAT_DECODE_MORE;
    }
    const unsigned char *body = bytes + RECORD_HEADER_BYTES;
    if (load(bytes + AT_BODY_SUM, 4) != crc_of(body, (size_t)body_bytes)) {
        return damaged(bytes, length, used_bytes);
    }
    memset(report, 0, sizeof *report);
    report->type = bytes[AT_TYPE];
    struct stream stream = {.bytes = (unsigned char *)(uintptr_t)body, .length = (size_t)body_bytes}; /* only read */
    pass_report(&stream, report);
    bool words_known = report->word_bits == 32 || report->word_bits == 64;
    if (stream.failed || stream.next != stream.length || !words_known) {
        return damaged(bytes, length, used_bytes);
    }
    *used_bytes = RECORD_HEADER_BYTES + (size_t)body_bytes;
    return MOAT_DECODE_OK;
}
