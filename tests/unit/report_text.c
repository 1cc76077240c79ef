/* Portable tests of the text renderer: every kind's sentence, stacks, the bytes and their reading, to the letter.
 * May include: tests/test.h, tests/unit/report_sample.h, guard/report, string.h. */
#include "guard/report/report.h"
#include "tests/test.h"
#include "tests/unit/report_sample.h"

#define RANDOM_ROUNDS 400

static struct moat_report report;
static struct sample_text text;

/* Frames are named by their pc: 0x1000 + i is names[i]; 0x2000 is a function without a file; others are nameless. */
static size_t locate(void *context, const struct moat_frame *frame, const struct moat_module *module,
                     struct moat_location *locations, size_t most) {
    static const struct moat_location names[] = {
        {.function = "drop_request", .file = "src/request.c", .line = 88},
        {.function = "serve", .file = "src/server.c", .line = 41},
        {.function = "parse_header", .file = "src/http.c", .line = 120},
        {.function = "serve", .file = "src/server.c", .line = 37},
        {.function = "open_session", .file = "src/session.c", .line = 15},
    };
    (void)context;
    (void)module;
    if (frame->pc >= 0x1000 && frame->pc < 0x1005 && most > 0) {
        locations[0] = names[frame->pc - 0x1000];
        return 1;
    }
    if (frame->pc == 0x2000 && most > 0) {
        locations[0] = (struct moat_location){.function = "main", .function_offset = 0x12};
        return 1;
    }
    if (frame->pc == 0x3000 && most > 1) {
        locations[0] = (struct moat_location){.function = "tiny", .file = "a.h", .line = 3, .inlined = true};
        locations[1] = (struct moat_location){.function = "a_function", .file = "a.c", .line = 9};
        return 2;
    }
    return 0;
}

static const struct moat_symboliser symboliser = {.locate = locate, .context = NULL};

static const char *rendered(void) {
    moat_report_text(&report, &symboliser, false, sample_sink(&text));
    return text.bytes;
}

static void add_frame(enum moat_report_stack which, uint64_t pc) {
    struct moat_stack *stack = &report.stacks[which];
    stack->frames[stack->frame_count].pc = pc;
    stack->frames[stack->frame_count++].module = 0;
}

static void start(unsigned kind, unsigned when) {
    memset(&report, 0, sizeof report);
    report.type = MOAT_REPORT_FINDING;
    report.word_bits = 64;
    report.pid = 4242;
    report.bug_id = 0x9f3c21aa;
    strcpy(report.program, "/usr/sbin/httpd");
    strcpy(report.modules[0].path, "/usr/sbin/httpd");
    report.modules[0].bias = 0x500;
    report.module_count = 1;
    report.finding.kind = (uint8_t)kind;
    report.finding.when = (uint8_t)when;
    report.finding.thread = 1;
}

static void give_block(uint64_t size, unsigned state) {
    report.finding.block.address = 0x55550000;
    report.finding.block.size_bytes = size;
    report.finding.block.sequence = 1042;
    report.finding.block.allocation_thread = 2;
    report.finding.block.state = (uint8_t)state;
}

/* The second line: the sentence. */
static void check_says(const char *sentence) {
    const char *line = strchr(rendered(), '\n');
    size_t length = strlen(sentence);
    CHECK(line != NULL);
    char found[512] = "";
    size_t found_length = strcspn(line + 1, "\n");
    CHECK(found_length >= 2 && found_length < sizeof found);
    memcpy(found, line + 3, found_length - 2);
    CHECK_TEXT(found, sentence);
    CHECK(memcmp(line + 1, "  ", 2) == 0 && length > 0);
}

static void check_has(const char *piece) {
    if (strstr(rendered(), piece) == NULL) {
        CHECK_TEXT(text.bytes, piece);
    }
}

static void check_lacks(const char *piece) {
    if (strstr(rendered(), piece) != NULL) {
        CHECK_TEXT(text.bytes, piece);
    }
}

/* ---- a whole report ---- */

MOAT_TEST(text, an_overflow_to_the_letter) {
    start(MOAT_HEAP_BUFFER_OVERFLOW, MOAT_WHEN_FREE);
    give_block(24, MOAT_BLOCK_LIVE);
    report.finding.first = 24;
    report.finding.last = 26;
    report.finding.bad_count = 3;
    struct moat_dump *dump = &report.finding.dump;
    dump->offset = 16;
    dump->length = 12;
    dump->bad = 7 << 8;
    dump->outside = 0xf00;
    memcpy(dump->bytes, "/index.html\x9c", 12);
    memcpy(dump->expected, "/index.h\xe1\xb7\xd3\x9c", 12);
    report.finding.neighbour[1] =
        (struct moat_block_facts){.address = 0x55550000 + 24 + 96, .size_bytes = 64, .state = MOAT_BLOCK_LIVE};
    report.finding.whole_at = 1061;
    report.finding.bad_by = 1090;
    add_frame(MOAT_STACK_FOUND, 0x1000);
    add_frame(MOAT_STACK_FOUND, 0x1001);
    add_frame(MOAT_STACK_ALLOCATED, 0x1002);
    add_frame(MOAT_STACK_ALLOCATED, 0x1003);
    add_frame(MOAT_STACK_AFTER, 0x1004);
    CHECK_TEXT(rendered(), "==4242== moat: heap-buffer-overflow in httpd\n"
                           "  3 bytes were written past the end of a 24-byte block, at offsets +24 to +26.\n"
                           "\n"
                           "  found when thread 1 freed the block:\n"
                           "    #0 drop_request   src/request.c:88\n"
                           "    #1 serve          src/server.c:41\n"
                           "  allocated by thread 2 as allocation 1042:\n"
                           "    #0 parse_header   src/http.c:120\n"
                           "    #1 serve          src/server.c:37\n"
                           "\n"
                           "  the bytes:\n"
                           "    +16  2f 69 6e 64 65 78 2e 68 | 74 6d 6c 9c   /index.h|tml.\n"
                           "                                   ^^ ^^ ^^      the text \"tml\"; e1 b7 d3 before\n"
                           "  neighbour: 96 bytes further on, a live 64-byte block from src/session.c:15\n"
                           "  window: whole when it was last checked at event 1061, damaged by event 1090\n"
                           "  bug id 9f3c21aa\n\n");
}

/* ---- sentences ---- */

MOAT_TEST(text, sentences_of_damage) {
    start(MOAT_HEAP_BUFFER_OVERFLOW, MOAT_WHEN_EXIT);
    give_block(24, MOAT_BLOCK_LIVE);
    report.finding.first = report.finding.last = 24;
    report.finding.bad_count = 1;
    check_says("1 byte was written past the end of a 24-byte block, at offset +24.");
    report.finding.last = 4023;
    report.finding.bad_count = 3400;
    check_says("3,400 bytes were written past the end of a 24-byte block, between offsets +24 and +4023.");
    report.finding.kind = MOAT_HEAP_BUFFER_UNDERFLOW;
    report.finding.first = -2;
    report.finding.last = -1;
    report.finding.bad_count = 2;
    check_says("2 bytes were written before the start of a 24-byte block, at offsets -2 to -1.");
    report.finding.kind = MOAT_HEAP_USE_AFTER_FREE;
    report.finding.first = report.finding.last = 3;
    report.finding.bad_count = 1;
    report.finding.block.state = MOAT_BLOCK_QUARANTINED;
    check_says("1 byte was written to a 24-byte block after it was freed, at offset +3.");
}

MOAT_TEST(text, the_article_fits_the_number) {
    static const struct {
        uint64_t size;
        const char *says;
    } cases[] = {{1, "a 1-"},
                 {8, "an 8-"},
                 {11, "an 11-"},
                 {18, "an 18-"},
                 {80, "an 80-"},
                 {88, "an 88-"},
                 {110, "a 110-"},
                 {180, "a 180-"},
                 {800, "an 800-"},
                 {1100, "a 1,100-"},
                 {8192, "an 8,192-"},
                 {11000, "an 11,000-"},
                 {18446744073709551615u, "an 18,446,744,073,709,551,615-"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        start(MOAT_DOUBLE_FREE, MOAT_WHEN_REALLOC);
        give_block(cases[i].size, MOAT_BLOCK_QUARANTINED);
        char says[128] = "";
        strcat(strcat(says, cases[i].says), "byte block was passed to realloc after it had been freed.");
        check_says(says);
    }
}

MOAT_TEST(text, sentences_of_accesses) {
    start(MOAT_HEAP_USE_AFTER_FREE, MOAT_WHEN_ACCESS);
    give_block(2000000, MOAT_BLOCK_QUARANTINED);
    report.finding.first = 3;
    check_says("a read hit offset +3 of a freed 2,000,000-byte block.");
    report.finding.is_write = 1;
    check_says("a write hit offset +3 of a freed 2,000,000-byte block.");
    report.finding.kind = MOAT_HEAP_BUFFER_OVERFLOW;
    report.finding.block.state = MOAT_BLOCK_LIVE;
    report.finding.first = 2000000;
    check_says("a write hit offset +2000000 of a 2,000,000-byte block, right behind its end.");
    report.finding.first = 2000001;
    check_says("a write hit offset +2000001 of a 2,000,000-byte block, 1 byte behind its end.");
    report.finding.kind = MOAT_HEAP_BUFFER_UNDERFLOW;
    report.finding.first = -8;
    check_says("a write hit offset -8 of a 2,000,000-byte block, before its start.");
}

MOAT_TEST(text, sentences_of_double_frees) {
    start(MOAT_DOUBLE_FREE, MOAT_WHEN_FREE);
    give_block(24, MOAT_BLOCK_QUARANTINED);
    report.finding.block.free_thread = 3;
    check_says("a 24-byte block that had been freed already was freed again, with free.");
    check_has("\n  freed again by thread 1:\n");
    check_has("\n  freed the first time by thread 3:\n");
    report.finding.caller_family = MOAT_FAMILY_NEW_ARRAY;
    check_says("a 24-byte block that had been freed already was freed again, with operator delete[].");
    report.finding.when = MOAT_WHEN_REALLOC;
    check_says("a 24-byte block was passed to realloc after it had been freed.");
}

static void check_place(unsigned place, uint64_t address, const char *name, const char *sentence) {
    start(MOAT_INVALID_FREE, MOAT_WHEN_FREE);
    report.finding.place = (uint8_t)place;
    report.finding.address = address;
    strcpy(report.place_name, name);
    check_says(sentence);
}

MOAT_TEST(text, sentences_of_invalid_frees) {
    start(MOAT_INVALID_FREE, MOAT_WHEN_FREE);
    give_block(64, MOAT_BLOCK_LIVE);
    report.finding.place = MOAT_PLACE_BLOCK;
    report.finding.address = 0x5555001b;
    report.finding.first = 27;
    check_says("free was called with 0x5555001b, which is 27 bytes inside a 64-byte block.");
    report.finding.first = 1;
    report.finding.block.state = MOAT_BLOCK_QUARANTINED;
    check_says("free was called with 0x5555001b, which is 1 byte inside a freed 64-byte block.");
    report.finding.first = 64;
    check_says("free was called with 0x5555001b, which is the end of a freed 64-byte block.");
    report.finding.first = 72;
    check_says("free was called with 0x5555001b, which is 8 bytes behind the end of a freed 64-byte block.");
    report.finding.first = -8;
    report.finding.when = MOAT_WHEN_REALLOC;
    check_says("realloc was called with 0x5555001b, which is 8 bytes before a freed 64-byte block.");
    check_place(MOAT_PLACE_STACK, 0x7ffc0000, "stack of thread 1",
                "free was called with 0x7ffc0000, which is on the stack of thread 1.");
    check_place(MOAT_PLACE_STACK, 0x7ffc0000, "", "free was called with 0x7ffc0000, which is on a thread's stack.");
    check_place(MOAT_PLACE_GLOBAL, 0x401000, "/lib/libz.so",
                "free was called with 0x401000, which is in the data of /lib/libz.so.");
    check_place(MOAT_PLACE_CODE, 0x401000, "/bin/a\033[0m",
                "free was called with 0x401000, which is in the code or constants of /bin/a\\x1b[0m.");
    check_place(MOAT_PLACE_MAPPED, 0x401000, "",
                "free was called with 0x401000, which is in mapped memory that is not the heap's.");
    check_place(MOAT_PLACE_UNMAPPED, 0x12345678, "",
                "free was called with 0x12345678, which is in memory that is not mapped.");
    check_place(MOAT_PLACE_UNMAPPED, 0x18, "", "free was called with 0x18, which is close to the null pointer.");
    check_place(MOAT_PLACE_UNMAPPED, 0xdeadbeefdeadbeef, "",
                "free was called with 0xdeadbeefdeadbeef, which is no address a program can have.");
    check_place(MOAT_PLACE_FREE, 0x12345678, "",
                "free was called with 0x12345678, which is in the heap's free memory: most likely the block was freed "
                "long ago.");
    check_place(MOAT_PLACE_UNKNOWN, 0x12345678, "",
                "free was called with 0x12345678, which is not the start of any block.");
}

MOAT_TEST(text, sentences_of_mismatches) {
    start(MOAT_ALLOC_DEALLOC_MISMATCH, MOAT_WHEN_FREE);
    give_block(24, MOAT_BLOCK_LIVE);
    report.finding.block.family = MOAT_FAMILY_NEW_ARRAY;
    check_says("a 24-byte block allocated with operator new[] was freed with free.");
    report.finding.block.family = MOAT_FAMILY_MALLOC;
    report.finding.caller_family = MOAT_FAMILY_NEW;
    check_says("a 24-byte block allocated with malloc was freed with operator delete.");
    report.finding.block.family = MOAT_FAMILY_NEW;
    report.finding.when = MOAT_WHEN_REALLOC;
    check_says("a 24-byte block allocated with operator new was passed to realloc.");
    report.finding.when = MOAT_WHEN_FREE;
    report.finding.argument = MOAT_ARGUMENT_SIZED_DELETE;
    report.finding.argument_value[0] = 32;
    check_says("a 24-byte block was freed as one of 32 bytes.");
    report.finding.argument = MOAT_ARGUMENT_ALIGNED_DELETE;
    check_says("a 24-byte block was freed as one aligned to 32, which it is not.");
    report.finding.argument = MOAT_ARGUMENT_OTHER_OWNER;
    strcpy(report.finding.owner, "pool \"nodes\"");
    strcpy(report.finding.asked, "the heap");
    check_says("a 24-byte block of pool \"nodes\" was freed to the heap.");
    report.finding.argument = MOAT_ARGUMENT_NOT_SINGLY;
    check_says("a 24-byte block of pool \"nodes\" was freed by itself; it goes when the whole is rewound, reset or "
               "closed.");
}

MOAT_TEST(text, sentences_of_arguments) {
    start(MOAT_INVALID_ARGUMENT, MOAT_WHEN_CALL);
    report.finding.argument = MOAT_ARGUMENT_SIZE;
    report.finding.argument_value[0] = UINT64_MAX;
    check_says(
        "a block of 18,446,744,073,709,551,615 bytes (as a signed number -1) was asked for, more than any object "
        "can have.");
    report.word_bits = 32;
    report.finding.argument_value[0] = 0xfffffff0;
    check_says("a block of 4,294,967,280 bytes (as a signed number -16) was asked for, more than any object can have.");
    report.word_bits = 64;
    report.finding.argument = MOAT_ARGUMENT_PRODUCT;
    report.finding.argument_value[0] = 4611686018427387904;
    report.finding.argument_value[1] = 8;
    check_says(
        "4,611,686,018,427,387,904 elements of 8 bytes each were asked for; their product does not fit a size_t.");
    report.finding.argument = MOAT_ARGUMENT_ALIGNMENT;
    report.finding.argument_value[0] = 48;
    check_says("an alignment of 48 was asked for, which is not a power of two.");
    report.finding.argument_value[0] = 4;
    check_says("an alignment of 4 was asked for, which this call does not allow.");
    report.finding.argument = MOAT_ARGUMENT_OVERLAP;
    report.finding.argument_value[0] = 16;
    report.finding.argument_value[1] = 0x1000;
    report.finding.address = 0x1008;
    check_says("16 bytes were copied between ranges that overlap, from 0x1000 to 0x1008.");
    report.finding.kind = MOAT_OUT_OF_MEMORY;
    report.finding.argument_value[0] = 1 << 20;
    check_says("malloc was asked for 1,048,576 bytes and there is no memory left for that.");
}

MOAT_TEST(text, sentences_of_metadata_and_leaks) {
    start(MOAT_CORRUPTED_METADATA, MOAT_WHEN_FREE);
    strcpy(report.finding.rule, "next block's back link");
    check_says("the heap's own records are damaged: next block's back link.");
    give_block(24, MOAT_BLOCK_LIVE);
    check_says("the heap's own records of a 24-byte block at 0x55550000 are damaged: next block's back link.");
    start(MOAT_MEMORY_LEAK, MOAT_WHEN_EXIT);
    report.finding.leak_class = MOAT_LEAK_DEFINITE;
    report.finding.leak_blocks = 12;
    report.finding.leak_bytes = 3400;
    report.finding.block.sequence = 77;
    check_says("3,400 bytes in 12 blocks were never freed, and nothing points there any more.");
    check_has("\n  allocated, the first one as allocation 77:\n");
    check_lacks("found");
    report.finding.leak_indirect_blocks = 1;
    report.finding.leak_indirect_bytes = 8;
    check_has("more.\n  lost with them, as only they point there: 8 bytes in 1 block.\n");
    report.finding.leak_blocks = report.finding.leak_bytes = 1;
    report.finding.leak_class = MOAT_LEAK_POSSIBLE;
    check_says("1 byte in 1 block was never freed, and nothing points to the start, only inside.");
}

/* ---- stacks ---- */

MOAT_TEST(text, frames_of_every_sort) {
    start(MOAT_INVALID_FREE, MOAT_WHEN_FREE);
    add_frame(MOAT_STACK_FOUND, 0x1000);
    report.stacks[MOAT_STACK_FOUND].frames[0].own = 1;
    add_frame(MOAT_STACK_FOUND, 0x3000);
    add_frame(MOAT_STACK_FOUND, 0x2000);
    add_frame(MOAT_STACK_FOUND, 0x4000);
    add_frame(MOAT_STACK_FOUND, 0x5000);
    report.stacks[MOAT_STACK_FOUND].frames[4].module = MOAT_NO_MODULE;
    report.stacks[MOAT_STACK_FOUND].incomplete = 1;
    check_has("  freed by thread 1:\n"
              "    #0 tiny         a.h:3 (inlined)\n"
              "    #1 a_function   a.c:9\n"
              "    #2 main+0x12 (httpd)\n"
              "    #3 httpd+0x3b00\n"
              "    #4 0x5000 (in no known module)\n"
              "    (the stack could not be followed further)\n");
}

MOAT_TEST(text, a_long_stack_is_shown_whole) {
    start(MOAT_INVALID_FREE, MOAT_WHEN_FREE);
    for (unsigned i = 0; i < MOAT_STACK_FRAMES_MAX; i++) {
        add_frame(MOAT_STACK_FOUND, 0x1001);
    }
    check_has("\n    #0   serve   src/server.c:41\n    #1   serve   src/server.c:41\n");
    check_has("\n    #99  serve   src/server.c:41\n    #100 serve   src/server.c:41\n");
    check_has("\n    #255 serve   src/server.c:41\n");
}

MOAT_TEST(text, without_a_symboliser_addresses_remain) {
    start(MOAT_INVALID_FREE, MOAT_WHEN_FREE);
    add_frame(MOAT_STACK_FOUND, 0x1000);
    moat_report_text(&report, NULL, false, sample_sink(&text));
    CHECK(strstr(text.bytes, "    #0 httpd+0xb00\n") != NULL);
}

MOAT_TEST(text, when_it_was_found) {
    start(MOAT_HEAP_USE_AFTER_FREE, MOAT_WHEN_QUARANTINE);
    give_block(8, MOAT_BLOCK_QUARANTINED);
    add_frame(MOAT_STACK_FOUND, 0x1001);
    check_has("\n  found when the block left the quarantine, during an unrelated call of thread 1:\n");
    report.finding.when = MOAT_WHEN_CHECK;
    check_has("\n  found by a check of the whole heap, in thread 1:\n");
    report.finding.when = MOAT_WHEN_EXIT;
    check_has("\n  found by the check at exit:\n    #0 serve");
    report.stacks[MOAT_STACK_FOUND].frame_count = 0;
    check_has("\n  found by the check at exit\n  allocated by");
    report.finding.when = MOAT_WHEN_REALLOC;
    check_has("\n  found when thread 1 reallocated the block:\n    (no stack was recorded)\n");
}

/* ---- the bytes ---- */

static void start_bytes(uint64_t size, int64_t offset, const char *bytes, const char *expected, uint32_t length) {
    start(MOAT_HEAP_BUFFER_OVERFLOW, MOAT_WHEN_FREE);
    give_block(size, MOAT_BLOCK_LIVE);
    struct moat_dump *dump = &report.finding.dump;
    dump->offset = offset;
    dump->length = length;
    memcpy(dump->bytes, bytes, length);
    memcpy(dump->expected, expected, length);
    for (uint32_t i = 0; i < length; i++) {
        uint64_t bit = (uint64_t)1 << i;
        int64_t at = offset + (int64_t)i;
        dump->bad |= bytes[i] != expected[i] ? bit : 0;
        dump->outside |= at < 0 || (uint64_t)at >= size ? bit : 0;
        report.finding.bad_count += bytes[i] != expected[i];
    }
}

#define ZONE "\x91\x92\x93\x94\x95\x96\x97\x98"

static void check_reading(const char *zone, const char *reading) {
    char bytes[17] = "abcdefgh";
    memcpy(bytes + 8, zone, 8);
    start_bytes(8, 0, bytes, "abcdefgh" ZONE, 16);
    check_has(reading);
}

MOAT_TEST(text, bad_bytes_are_read_for_the_human) {
    check_reading("\0\x92\x93\x94\x95\x96\x97\x98", "  a lone NUL; 91 before\n");
    check_reading("x\x92\x93\x94\x95\x96\x97\x98", "  the character \"x\"; 91 before\n");
    check_reading("hi\0\x94\x95\x96\x97\x98", "  the text \"hi\" and its NUL; 91 92 93 before\n");
    check_reading("a\tb\nc\r\"d", "  the text \"a\\tb\\nc\\r\"d\"; 91 92 93 94 95 96 97 98 before\n");
    check_reading("\x04\0\x55\x55\0\0\0\0", "  a pointer into this block, 0x55550004; ");
    check_reading("\x2a\0\0\0\x95\x96\x97\x98", "  the number 42; 91 92 93 94 before\n");
    check_reading("\xfe\xff\xff\xff\xff\xff\xff\xff", "  the number -2; ");
    check_reading("\0\0\0\0\0\0\0\0", "  8 zero bytes; ");
    check_reading("\xff\xff\xff\x94\x95\x96\x97\x98", "  3 bytes of 0xff; 91 92 93 before\n");
    check_reading("\x80\x81\x82\x94\x95\x96\x97\x98", "   91 92 93 before\n"); /* nothing to say of them */
    check_reading("\x00\x90\xf7\x12\xab\x7f\0\0", "  a pointer, 0x7fab12f79000; ");
    check_reading("\x91\x90\xf7\x12\xab\x7f\0\0",
                  "  a pointer, 0x7fab12f79091; "); /* its first byte was there already */
}

MOAT_TEST(text, a_pointer_names_the_block_it_points_into) {
    start_bytes(8, 0, "abcdefgh\x10\x01\x55\x55\0\0\0\0", "abcdefgh" ZONE, 16);
    report.finding.neighbour[1] = (struct moat_block_facts){.address = 0x55550100, .size_bytes = 32, .sequence = 17};
    check_has("  a pointer into block #17, 0x55550110; ");
    report.word_bits = 32;
    start_bytes(8, 0, "abcdefgh\x04\0\x55\x55\x95\x96\x97\x98", "abcdefgh" ZONE, 16);
    report.word_bits = 32;
    check_has("  a pointer into this block, 0x55550004; 91 92 93 94 before\n");
}

MOAT_TEST(text, a_byte_that_was_there_by_chance_belongs_to_the_run) {
    start_bytes(8, 0, "abcdefghXYZ\x94\x95\x96\x97\x98", "abcdefghQYQ\x94\x95\x96\x97\x98", 16);
    check_has("    +0  | 61 62 63 64 65 66 67 68 | 58 59 5a 94 95 96 97 98   |abcdefgh|XYZ.....\n"
              "                                    ^^    ^^                  the text \"XYZ\"; 51 59 51 before\n");
}

MOAT_TEST(text, two_runs_have_two_readings) {
    start_bytes(8, 0, "abcdefghX\x92\x93\x94\x95Y\x97\x98", "abcdefgh" ZONE, 16);
    check_has("^^             ^^         the character \"X\"; 91 before\n"
              "                                                              the character \"Y\"; 96 before\n");
}

MOAT_TEST(text, an_underflow_shows_the_start) {
    start_bytes(4, -16, "\x81\x82\x83\x84\x85\x86\x87\x88\x89\x8a\x8b\x8c\x8d\x8e\x8f\0abcd",
                "\x81\x82\x83\x84\x85\x86\x87\x88\x89\x8a\x8b\x8c\x8d\x8e\x8f\x90"
                "abcd",
                20);
    report.finding.kind = MOAT_HEAP_BUFFER_UNDERFLOW;
    check_has("    -16    81 82 83 84 85 86 87 88 89 8a 8b 8c 8d 8e 8f 00   ................\n"
              "                                                        ^^   a lone NUL; 90 before\n"
              "    +0   | 61 62 63 64                                       |abcd\n");
}

MOAT_TEST(text, what_the_dump_does_not_hold_is_counted) {
    start_bytes(8, 0, "abcdefghAAAAAAAA", "abcdefgh" ZONE, 16);
    report.finding.bad_count = 1008;
    report.finding.last = 1015;
    check_has("\n    and 1,000 more, up to offset +1015\n");
}

MOAT_TEST(text, poison_is_named_once) {
    start_bytes(16, 0, "\x31\x32\x33\xde\xde\xde\xde\xde\xde\xde\xde\xde\xde\xde\xde\xde",
                "\xde\xde\xde\xde\xde\xde\xde\xde\xde\xde\xde\xde\xde\xde\xde\xde", 16);
    check_has("  the text \"123\"; all de before\n");
}

/* ---- others ---- */

static void start_summary(unsigned outcome) {
    start(0, 0);
    report.type = MOAT_REPORT_SUMMARY;
    report.summary.leak_outcome = (uint8_t)outcome;
    report.summary.allocations = 1200;
}

MOAT_TEST(text, summaries) {
    start_summary(MOAT_LEAKS_CLEAN);
    CHECK_TEXT(rendered(), "==4242== moat: clean: 1,200 allocations, no findings, no leaks\n");
    start_summary(MOAT_LEAKS_NOT_ASKED);
    CHECK_TEXT(rendered(), "==4242== moat: clean: 1,200 allocations, no findings\n");
    start_summary(MOAT_LEAKS_FOUND);
    report.summary.findings = 3;
    report.summary.repeats = 2;
    report.summary.leak_definite_blocks = 12;
    report.summary.leak_definite_bytes = 3400;
    report.summary.leak_indirect_blocks = 1;
    report.summary.leak_indirect_bytes = 8;
    report.summary.suppressed = 4;
    CHECK_TEXT(rendered(), "==4242== moat: 3 findings (2 repeats), 12 blocks (3,400 bytes) leaked definitely, "
                           "1 block (8 bytes) leaked indirectly, 1,200 allocations, 4 suppressed\n");
    start_summary(MOAT_LEAKS_COULD_NOT_RUN);
    strcpy(report.note, "2 other threads were running");
    CHECK_TEXT(rendered(), "==4242== moat: no findings, 1,200 allocations; leak check did not run: "
                           "2 other threads were running\n");
}

MOAT_TEST(text, notes_and_silence) {
    start(0, 0);
    report.type = MOAT_REPORT_NOTE;
    strcpy(report.note, "a line\nand \033 another");
    CHECK_TEXT(rendered(), "==4242== moat: a line\\x0aand \\x1b another\n");
    report.type = MOAT_REPORT_NOT_COVERED;
    strcpy(report.note, "setuid");
    CHECK_TEXT(rendered(), "moat: not checked: /usr/sbin/httpd (setuid)\n");
    const unsigned silent[] = {0, MOAT_REPORT_CHECK_IN, MOAT_REPORT_EXEC, MOAT_REPORT_EXEC_GONE, 200};
    for (size_t i = 0; i < sizeof silent / sizeof *silent; i++) {
        report.type = (uint8_t)silent[i];
        CHECK_TEXT(rendered(), "");
    }
}

MOAT_TEST(text, colour_only_adds_escapes) {
    start(MOAT_HEAP_BUFFER_OVERFLOW, MOAT_WHEN_FREE);
    start_bytes(8, 0, "abcdefghX\x92\x93\x94\x95Y\x97\x98", "abcdefgh" ZONE, 16);
    add_frame(MOAT_STACK_FOUND, 0x1000);
    static char plain[8192];
    strcpy(plain, rendered());
    moat_report_text(&report, &symboliser, true, sample_sink(&text));
    CHECK(strstr(text.bytes, "\033[1;31mheap-buffer-overflow\033[0m") != NULL);
    size_t to = 0;
    for (size_t from = 0; from < text.length; from++) {
        if (text.bytes[from] == '\033') {
            from += strcspn(text.bytes + from, "m");
        } else {
            text.bytes[to++] = text.bytes[from];
        }
    }
    text.bytes[to] = '\0';
    CHECK_TEXT(text.bytes, plain);
}

MOAT_TEST(text, utf8_passes_and_broken_utf8_does_not) {
    start(0, 0);
    report.type = MOAT_REPORT_NOTE;
    strcpy(report.note, "caf\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80 \xc3( \xed\xa0\x80 \xc0\xaf \xc2\x9b \xff");
    CHECK_TEXT(rendered(), "==4242== moat: caf\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80 \\xc3( \\xed\\xa0\\x80 \\xc0\\xaf "
                           "\\xc2\\x9b \\xff\n");
}

MOAT_TEST(text, random_reports_render_without_control_bytes) {
    uint64_t state = SAMPLE_SEED;
    for (int round = 0; round < RANDOM_ROUNDS; round++) {
        sample_report(&state, &report);
        rendered();
        CHECK(text.length < SAMPLE_TEXT_BYTES - 1);
        for (size_t i = 0; i < text.length; i++) {
            unsigned char byte = (unsigned char)text.bytes[i];
            CHECK(byte == '\n' || (byte >= ' ' && byte != 0x7f));
        }
    }
}
