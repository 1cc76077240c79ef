/* Portable tests of the option parser: values, ranges, error lines, the table itself.
 * May include: tests/test.h, guard/option, string.h. */
#include "guard/option/option.h"
#include "tests/test.h"

#include <string.h>

static struct moat_options options;
static struct moat_option_text text;
static char error[MOAT_OPTION_ERROR_BYTES];

static bool parse(const char *given) {
    memset(&text, 0, sizeof text);
    memset(error, 'x', sizeof error);
    moat_options_default(&options);
    return moat_options_parse(&options, &text, given, error);
}

static void check_refused(const char *given, const char *line) {
    CHECK(!parse(given));
    CHECK_TEXT(error, line);
}

MOAT_TEST(option, defaults_stand_when_nothing_is_given) {
    const char *const nothing[] = {NULL, "", ":", ":::"};
    for (size_t i = 0; i < 4; i++) {
        CHECK(parse(nothing[i]));
        CHECK_EQ(options.exitcode, 66);
        CHECK_EQ(options.leak_exitcode, 23);
        CHECK_EQ(options.on_error, MOAT_ON_ERROR_ABORT);
        CHECK(options.leak_check);
        CHECK(!options.summary);
        CHECK_TEXT(options.report, "");
        CHECK_EQ(options.quarantine, 262144);
        CHECK_EQ(options.set, 0);
        CHECK_TEXT(error, "");
    }
}

MOAT_TEST(option, values_of_each_type_are_read) {
    CHECK(parse("exitcode=7:on_error=exit:leak_check=no:report=a file.txt:format=json"));
    CHECK_EQ(options.exitcode, 7);
    CHECK_EQ(options.on_error, MOAT_ON_ERROR_EXIT);
    CHECK(!options.leak_check);
    CHECK_TEXT(options.report, "a file.txt");
    CHECK_EQ(options.format, MOAT_FORMAT_JSON);
    CHECK(moat_option_is_set(&options, MOAT_OPTION_ID_exitcode));
    CHECK(moat_option_is_set(&options, MOAT_OPTION_ID_report));
    CHECK(!moat_option_is_set(&options, MOAT_OPTION_ID_leak_exitcode));
}

MOAT_TEST(option, the_last_of_equal_keys_counts) {
    CHECK(parse("exitcode=7:exitcode=8:report=a:report=bc"));
    CHECK_EQ(options.exitcode, 8);
    CHECK_TEXT(options.report, "bc");
}

MOAT_TEST(option, a_second_string_goes_over_the_first) {
    CHECK(parse("exitcode=7:report=first"));
    CHECK(moat_options_parse(&options, &text, "exitcode=9", error));
    CHECK_EQ(options.exitcode, 9);
    CHECK_TEXT(options.report, "first");
}

MOAT_TEST(option, bytes_take_suffixes_and_hexadecimal) {
    CHECK(parse("quarantine=1K"));
    CHECK_EQ(options.quarantine, 1024);
    CHECK(parse("quarantine=3m"));
    CHECK_EQ(options.quarantine, 3 * 1048576);
    CHECK(parse("quarantine=16G"));
    CHECK_EQ(options.quarantine, 17179869184);
    CHECK(parse("quarantine=0x1F"));
    CHECK_EQ(options.quarantine, 31);
    CHECK(parse("secret=18446744073709551615"));
    CHECK_EQ(options.secret, UINT64_MAX);
    CHECK(parse("secret=0xffffffffffffffff"));
    CHECK_EQ(options.secret, UINT64_MAX);
    check_refused("exitcode=1K", "option exitcode=1K is not a number: it takes 1 to 255");
}

MOAT_TEST(option, every_word_for_yes_and_no) {
    const char *const yes[] = {"summary=1", "summary=yes", "summary=on", "summary=true"};
    const char *const no[] = {"leak_check=0", "leak_check=no", "leak_check=off", "leak_check=false"};
    for (size_t i = 0; i < 4; i++) {
        CHECK(parse(yes[i]) && options.summary);
        CHECK(parse(no[i]) && !options.leak_check);
    }
    check_refused("summary=maybe",
                  "option summary=maybe is neither yes nor no: it takes 0, 1, no, yes, off, on, false or true");
}

MOAT_TEST(option, a_backslash_protects_a_colon_in_a_text) {
    CHECK(parse("report=C\\:\\\\x\\y:exitcode=3"));
    CHECK_TEXT(options.report, "C:\\x\\y");
    CHECK_EQ(options.exitcode, 3);
}

MOAT_TEST(option, ranges_hold_at_both_ends) {
    CHECK(parse("exitcode=1"));
    CHECK(parse("exitcode=255"));
    check_refused("exitcode=0", "option exitcode=0 is out of range: it takes 1 to 255");
    check_refused("exitcode=256", "option exitcode=256 is out of range: it takes 1 to 255");
    check_refused("redzone=5K", "option redzone=5K is out of range: it takes 1 to 4K bytes");
    check_refused("secret=18446744073709551616",
                  "option secret=18446744073709551616 is out of range: it takes 0 to 18446744073709551615");
    check_refused("quarantine=18446744073709551615K",
                  "option quarantine=18446744073709551615K is out of range: it takes 0 to 16G bytes");
    check_refused("quarantine=18014398509481985K", /* 2^64 + 1024 */
                  "option quarantine=18014398509481985K is out of range: it takes 0 to 16G bytes");
}

MOAT_TEST(option, nonsense_is_named) {
    check_refused("exitcode=", "option exitcode= is not a number: it takes 1 to 255");
    check_refused("exitcode=-1", "option exitcode=-1 is not a number: it takes 1 to 255");
    check_refused("exitcode=1 ", "option exitcode=1  is not a number: it takes 1 to 255");
    check_refused("quarantine=K",
                  "option quarantine=K is not a number: it takes 0 to 16G bytes, also with a K, M or G");
    check_refused("exitcode", "option exitcode has no value: write exitcode=VALUE");
    check_refused("on_error=stop", "option on_error=stop is none of abort|continue|exit");
    check_refused("on_error=abor", "option on_error=abor is none of abort|continue|exit");
}

MOAT_TEST(option, an_unknown_key_brings_the_nearest) {
    check_refused("exitcod=1", "unknown option \"exitcod\"; did you mean exitcode?");
    check_refused("Quarantine=1", "unknown option \"Quarantine\"; did you mean quarantine?");
    check_refused("leakcheck=1", "unknown option \"leakcheck\"; did you mean leak_check?");
    check_refused("=1", "unknown option \"\"; `moat options` lists them");
    check_refused("zzzzzzzz=1", "unknown option \"zzzzzzzz\"; `moat options` lists them");
    check_refused("exitcode=1:bogus_key_without_likeness",
                  "unknown option \"bogus_key_without_likeness\"; `moat options` "
                  "lists them");
}

MOAT_TEST(option, an_error_line_is_bounded_and_printable) {
    char given[2000];
    memset(given, 'q', sizeof given);
    memcpy(given, "exitcode=\033[31m", 14);
    given[sizeof given - 1] = '\0';
    CHECK(!parse(given));
    CHECK(strlen(error) < MOAT_OPTION_ERROR_BYTES);
    CHECK(strchr(error, '\033') == NULL);
    CHECK(strstr(error, "it takes 1 to 255") != NULL);
    memset(given, 'q', sizeof given - 1);
    CHECK(!parse(given));
    CHECK(strlen(error) < MOAT_OPTION_ERROR_BYTES);
}

MOAT_TEST(option, texts_share_a_bounded_room) {
    static char given[MOAT_OPTION_TEXT_BYTES + 32] = "report=";
    memset(given + 7, 'a', MOAT_OPTION_TEXT_BYTES - 1);
    CHECK(parse(given));
    CHECK_EQ(strlen(options.report), MOAT_OPTION_TEXT_BYTES - 1);
    CHECK(!moat_options_parse(&options, &text, "spool=", error));
    given[7 + MOAT_OPTION_TEXT_BYTES - 1] = 'a';
    CHECK(!parse(given));
    CHECK(strstr(error, "is too long: all texts together may have 4096 bytes") != NULL);
}

MOAT_TEST(option, what_stands_before_an_error_counts) {
    CHECK(!parse("exitcode=9:nothing=1:leak_exitcode=8"));
    CHECK_EQ(options.exitcode, 9);
    CHECK_EQ(options.leak_exitcode, 23);
}

static void check_word(const char *words, uint64_t index, const char *wanted) {
    char word[32];
    CHECK(moat_option_word(words, index, word, sizeof word));
    CHECK_TEXT(word, wanted);
}

MOAT_TEST(option, the_enumerations_follow_the_table) {
    const struct moat_option_info *table = moat_option_table;
    check_word(table[MOAT_OPTION_ID_on_error].words, MOAT_ON_ERROR_ABORT, "abort");
    check_word(table[MOAT_OPTION_ID_on_error].words, MOAT_ON_ERROR_CONTINUE, "continue");
    check_word(table[MOAT_OPTION_ID_on_error].words, MOAT_ON_ERROR_EXIT, "exit");
    check_word(table[MOAT_OPTION_ID_format].words, MOAT_FORMAT_TEXT, "text");
    check_word(table[MOAT_OPTION_ID_format].words, MOAT_FORMAT_JSON, "json");
    check_word(table[MOAT_OPTION_ID_colour].words, MOAT_COLOUR_AUTO, "auto");
    check_word(table[MOAT_OPTION_ID_colour].words, MOAT_COLOUR_ALWAYS, "always");
    check_word(table[MOAT_OPTION_ID_colour].words, MOAT_COLOUR_NEVER, "never");
    check_word(table[MOAT_OPTION_ID_realloc_moves].words, MOAT_REALLOC_MOVES_AUTO, "auto");
    check_word(table[MOAT_OPTION_ID_realloc_moves].words, MOAT_REALLOC_MOVES_ALWAYS, "always");
    char word[32];
    CHECK(!moat_option_word("a|b", 2, word, sizeof word));
}

MOAT_TEST(option, every_default_is_within_its_range) {
    for (size_t i = 0; i < MOAT_OPTION_COUNT; i++) {
        const struct moat_option_info *info = &moat_option_table[i];
        char word[32];
        CHECK(info->help[0] != '\0');
        CHECK(strlen(info->name) <= 32);
        if (info->type == MOAT_OPTION_IS_NUMBER) {
            CHECK(info->least <= info->default_value && info->default_value <= info->most);
            CHECK(strcmp(info->unit, "") == 0 || strcmp(info->unit, "bytes") == 0);
        } else if (info->type == MOAT_OPTION_IS_CHOICE) {
            CHECK(moat_option_word(info->words, info->default_value, word, sizeof word));
        }
    }
}

MOAT_TEST(option, numbers_are_written_as_they_are_read) {
    char room[MOAT_OPTION_NUMBER_BYTES];
    CHECK_TEXT(moat_option_number_text(0, "bytes", room), "0");
    CHECK_TEXT(moat_option_number_text(1023, "bytes", room), "1023");
    CHECK_TEXT(moat_option_number_text(1024, "bytes", room), "1K");
    CHECK_TEXT(moat_option_number_text(1536 * 1024, "bytes", room), "1536K");
    CHECK_TEXT(moat_option_number_text((uint64_t)5 << 30, "bytes", room), "5G");
    CHECK_TEXT(moat_option_number_text((uint64_t)2048 << 30, "bytes", room), "2048G");
    CHECK_TEXT(moat_option_number_text(1024, "", room), "1024");
    CHECK_TEXT(moat_option_number_text(UINT64_MAX, "bytes", room), "18446744073709551615");
}
