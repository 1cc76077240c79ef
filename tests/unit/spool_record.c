/* Portable tests of the spool's records: there and back, every truncation, every damaged byte, hostile contents.
 * May include: tests/test.h, tests/unit/report_sample.h, guard/report, string.h. */
#include "guard/report/report.h"
#include "tests/test.h"
#include "tests/unit/report_sample.h"

#define ROUNDS 300
#define HOSTILE_ROUNDS 4000
#define HEADER_BYTES 20u
#define HEADER_SUM_AT 16u
#define BODY_SUM_AT 12u
#define BODY_LENGTH_AT 8u

static struct moat_report report;
static struct moat_report back;
static unsigned char record[MOAT_RECORD_BYTES_MAX];
static unsigned char damaged[MOAT_RECORD_BYTES_MAX];
static struct sample_text text;

/* CRC-32 bit by bit, straight from its polynomial, to have another hand than the code's. */
static uint32_t crc_by_bits(const unsigned char *bytes, size_t length) {
    uint32_t sum = 0xffffffffu;
    for (size_t i = 0; i < length; i++) {
        sum ^= bytes[i];
        for (int bit = 0; bit < 8; bit++) {
            sum = (sum & 1) != 0 ? sum >> 1 ^ 0xedb88320u : sum >> 1;
        }
    }
    return ~sum;
}

static void put32(unsigned char *at, uint32_t value) {
    for (int i = 0; i < 4; i++) {
        at[i] = (unsigned char)(value >> (8 * i));
    }
}

static void seal(unsigned char *bytes, size_t length) {
    put32(bytes + BODY_LENGTH_AT, (uint32_t)(length - HEADER_BYTES));
    put32(bytes + BODY_SUM_AT, crc_by_bits(bytes + HEADER_BYTES, length - HEADER_BYTES));
    put32(bytes + HEADER_SUM_AT, crc_by_bits(bytes, HEADER_SUM_AT));
}

MOAT_TEST(spool, random_reports_come_back_whole) {
    uint64_t state = SAMPLE_SEED;
    for (int round = 0; round < ROUNDS; round++) {
        size_t used = 0;
        sample_report(&state, &report);
        size_t length = moat_report_encode(&report, record, sizeof record);
        CHECK(length > HEADER_BYTES);
        CHECK_EQ(moat_report_decode(record, length, &back, &used), MOAT_DECODE_OK);
        CHECK_EQ(used, length);
        CHECK(memcmp(&report, &back, sizeof report) == 0);
    }
}

MOAT_TEST(spool, the_bytes_are_the_same_on_every_machine) {
    /* A note of process 258, word for word: head 1 + 4 + 8 + 8 + 16 bytes, then three strings. */
    static const unsigned char body[] = {32, 4, 3, 2, 1, 5, 0, 0, 0, 0, 0, 0, 0, 2, 1, 0, 0,   0, 0, 0, 0, 6,   0,
                                         0,  0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 1, 0, 'p', 0, 0, 2, 0, 'h', 'i'};
    static unsigned char wanted[HEADER_BYTES + sizeof body] = "MoaR\001\006";
    memcpy(wanted + HEADER_BYTES, body, sizeof body);
    CHECK_EQ(crc_by_bits((const unsigned char *)"123456789", 9), 0xcbf43926u); /* the published check value */
    seal(wanted, sizeof wanted);
    memset(&report, 0, sizeof report);
    report.type = MOAT_REPORT_NOTE;
    report.word_bits = 32;
    report.bug_id = 0x01020304;
    report.repeats = 5;
    report.pid = 258;
    report.value[0] = 6;
    report.value[1] = 7;
    strcpy(report.program, "p");
    strcpy(report.note, "hi");
    CHECK_EQ(moat_report_encode(&report, record, sizeof record), sizeof wanted);
    CHECK(memcmp(record, wanted, sizeof wanted) == 0);
}

MOAT_TEST(spool, the_fullest_report_fits) {
    memset(&report, 0, sizeof report);
    report.type = MOAT_REPORT_FINDING;
    report.word_bits = 64;
    memset(report.program, 'p', sizeof report.program - 1);
    memset(report.command, 'c', sizeof report.command - 1);
    memset(report.note, 'n', sizeof report.note - 1);
    memset(report.place_name, 'n', sizeof report.place_name - 1);
    memset(report.finding.rule, 'r', sizeof report.finding.rule - 1);
    report.finding.dump.length = MOAT_DUMP_BYTES;
    report.module_count = MOAT_REPORT_MODULES_MAX;
    for (unsigned i = 0; i < MOAT_REPORT_MODULES_MAX; i++) {
        memset(report.modules[i].path, 'm', sizeof report.modules[i].path - 1);
        report.modules[i].build_id_bytes = MOAT_BUILD_ID_BYTES;
    }
    for (unsigned i = 0; i < MOAT_STACK_COUNT; i++) {
        report.stacks[i].frame_count = MOAT_STACK_FRAMES_MAX;
    }
    size_t used = 0;
    size_t length = moat_report_encode(&report, record, sizeof record);
    CHECK(length > 0);
    CHECK_EQ(moat_report_decode(record, length, &back, &used), MOAT_DECODE_OK);
    CHECK(memcmp(&report, &back, sizeof report) == 0);
    CHECK_EQ(moat_report_encode(&report, record, length), length);
    CHECK_EQ(moat_report_encode(&report, record, length - 1), 0);
    CHECK_EQ(moat_report_encode(&report, record, 0), 0);
}

MOAT_TEST(spool, encoding_leaves_the_report_alone_even_where_it_is_wrong) {
    memset(&report, 0, sizeof report);
    report.type = MOAT_REPORT_FINDING;
    report.module_count = MOAT_REPORT_MODULES_MAX + 1;
    memcpy(&back, &report, sizeof report);
    CHECK_EQ(moat_report_encode(&report, record, sizeof record), 0);
    CHECK(memcmp(&report, &back, sizeof report) == 0);
    report.module_count = 0;
    report.type = 0;
    CHECK_EQ(moat_report_encode(&report, record, sizeof record), 0);
    /* A frame of a module that is not there has none; a string without end is cut. */
    report.type = MOAT_REPORT_FINDING;
    report.stacks[0].frame_count = 1;
    report.stacks[0].frames[0].module = 3;
    memset(report.program, 'p', sizeof report.program);
    size_t used = 0;
    size_t length = moat_report_encode(&report, record, sizeof record);
    CHECK_EQ(moat_report_decode(record, length, &back, &used), MOAT_DECODE_OK);
    CHECK_EQ(back.stacks[0].frames[0].module, MOAT_NO_MODULE);
    CHECK_EQ(strlen(back.program), sizeof back.program - 1);
}

static size_t small_record(void) {
    uint64_t state = 7;
    do {
        sample_report(&state, &report);
    } while (report.type != MOAT_REPORT_FINDING);
    report.module_count = 1;
    for (unsigned i = 0; i < MOAT_STACK_COUNT; i++) {
        report.stacks[i].frame_count = 1;
        report.stacks[i].frames[0].module = 0;
    }
    report.command[20] = '\0';
    report.program[20] = '\0';
    report.note[20] = '\0';
    report.place_name[20] = '\0';
    report.modules[0].path[20] = '\0';
    return moat_report_encode(&report, record, sizeof record);
}

MOAT_TEST(spool, every_truncation_asks_for_more) {
    size_t length = small_record();
    CHECK(length > 0);
    for (size_t cut = 0; cut < length; cut++) {
        size_t used = 99;
        CHECK_EQ(moat_report_decode(record, cut, &back, &used), MOAT_DECODE_MORE);
        CHECK_EQ(used, 0);
    }
}

MOAT_TEST(spool, every_damaged_byte_is_noticed_at_once) {
    size_t length = small_record();
    CHECK(length > 0);
    for (size_t at = 0; at < length; at++) {
        for (unsigned change = 1; change < 256; change++) {
            size_t used = 0;
            memcpy(damaged, record, length);
            damaged[at] = (unsigned char)(damaged[at] ^ change);
            CHECK_EQ(moat_report_decode(damaged, length, &back, &used), MOAT_DECODE_DAMAGED);
            CHECK(used > 0 && used <= length);
        }
    }
}

MOAT_TEST(spool, the_next_record_is_found_behind_damage) {
    static unsigned char stream[3 * MOAT_RECORD_BYTES_MAX];
    size_t length = small_record();
    static const char *const junk[] = {"x", "MoaRMoaRMoaR", "M", "MoMoaMoaX",
                                       "some longer text with Mo in it, Moa too. MoaR!"};
    for (size_t i = 0; i < sizeof junk / sizeof *junk; i++) {
        size_t junk_length = strlen(junk[i]);
        size_t at = 0;
        memcpy(stream, junk[i], junk_length);
        memcpy(stream + junk_length, record, length);
        enum moat_decode_result result = MOAT_DECODE_DAMAGED;
        while (result == MOAT_DECODE_DAMAGED && at < junk_length + length) {
            size_t used = 0;
            result = moat_report_decode(stream + at, junk_length + length - at, &back, &used);
            CHECK(result == MOAT_DECODE_OK || used > 0);
            at += used;
        }
        CHECK_EQ(result, MOAT_DECODE_OK);
        CHECK_EQ(at, junk_length + length);
    }
}

/* Who may write to the spool may also compute a sum, so contents with right sums are no safer than without. */
MOAT_TEST(spool, hostile_contents_with_right_sums_do_no_harm) {
    uint64_t state = 0x5eed;
    size_t accepted = 0;
    for (int round = 0; round < HOSTILE_ROUNDS; round++) {
        size_t length = small_record();
        memcpy(damaged, record, length);
        for (uint64_t changes = 1 + sample_below(&state, 4); changes > 0; changes--) {
            size_t at = HEADER_BYTES + (size_t)sample_below(&state, length - HEADER_BYTES);
            damaged[at] = (unsigned char)(sample_below(&state, 3) == 0 ? 0xff : sample_next(&state));
        }
        length -= sample_below(&state, 4) == 0 ? (size_t)sample_below(&state, length - HEADER_BYTES) : 0;
        seal(damaged, length);
        size_t used = 0;
        enum moat_decode_result result = moat_report_decode(damaged, length, &back, &used);
        CHECK(result == MOAT_DECODE_OK || result == MOAT_DECODE_DAMAGED);
        if (result == MOAT_DECODE_OK) {
            accepted++;
            CHECK(back.module_count <= MOAT_REPORT_MODULES_MAX);
            for (unsigned i = 0; i < MOAT_STACK_COUNT; i++) {
                CHECK(back.stacks[i].frame_count <= MOAT_STACK_FRAMES_MAX);
            }
            moat_report_text(&back, NULL, false, sample_sink(&text));
            moat_report_json(&back, NULL, sample_sink(&text));
        }
    }
    CHECK(accepted > HOSTILE_ROUNDS / 4); /* or the test tests nothing */
}

MOAT_TEST(spool, a_brief_is_the_report_it_stands_for) {
    static char path[3 * MOAT_PATH_BYTES];
    unsigned char brief_record[MOAT_BRIEF_BYTES_MAX];
    memset(path, 'x', sizeof path - 1);
    struct moat_brief brief = {
        .type = MOAT_REPORT_EXEC, .pid = 12, .value = {34, 56}, .program = path, .command = "c d", .note = "/bin/true"};
    memset(&report, 0, sizeof report);
    report.type = MOAT_REPORT_EXEC;
    report.word_bits = 8 * sizeof(void *);
    report.pid = 12;
    report.value[0] = 34;
    report.value[1] = 56;
    memset(report.program, 'x', sizeof report.program - 1);
    strcpy(report.command, "c d");
    strcpy(report.note, "/bin/true");
    size_t length = moat_report_encode(&report, record, sizeof record);
    CHECK(length > 0);
    CHECK_EQ(moat_brief_encode(&brief, brief_record, sizeof brief_record), length);
    CHECK(memcmp(record, brief_record, length) == 0);
    brief.type = MOAT_REPORT_FINDING;
    CHECK_EQ(moat_brief_encode(&brief, brief_record, sizeof brief_record), 0);
}
