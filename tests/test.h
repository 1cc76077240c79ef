/* The test header: MOAT_TEST and the CHECK family, on Criterion or on a runner of our own that needs next to nothing.
 * May include: Criterion with -DMOAT_TEST_CRITERION, otherwise setjmp.h and freestanding headers.
 *
 *   MOAT_TEST(heap, frees_what_it_gave) {
 *       CHECK_EQ(moat_heap_usable(heap, p), 24u);
 *   }
 *
 * A CHECK that does not hold prints its file and line and ends its test. Own runner: the linker gathers the tests in a section
 * of their own, so neither constructors nor a list are needed; one file defines MOAT_TEST_IMPLEMENTATION and moat_test_put
 * and calls moat_test_main (tests/main.c does it for hosts). */
#ifndef MOAT_TESTS_TEST_H
#define MOAT_TESTS_TEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef MOAT_TEST_CRITERION

#include <criterion/criterion.h>

#define MOAT_TEST(suite, name) Test(suite, name)
#define CHECK(condition) cr_assert((condition), "%s:%d: %s", __FILE__, __LINE__, #condition)
#define CHECK_EQ(left, right)                                                                                          \
    do {                                                                                                               \
        unsigned long long check_left = (unsigned long long)(left);                                                    \
        unsigned long long check_right = (unsigned long long)(right);                                                  \
        cr_assert(check_left == check_right, "%s:%d: %s is %llu, not %s = %llu", __FILE__, __LINE__, #left,            \
                  check_left, #right, check_right);                                                                    \
    } while (0)
#define CHECK_TEXT(left, right)                                                                                        \
    do {                                                                                                               \
        const char *check_left = (left);                                                                               \
        const char *check_right = (right);                                                                             \
        cr_assert(moat_test_same(check_left, check_right), "%s:%d: %s is \"%s\", not \"%s\"", __FILE__, __LINE__,      \
                  #left, check_left, check_right);                                                                     \
    } while (0)

#else

struct moat_test {
    const char *suite;
    const char *name;
    void (*run)(void);
};

#define MOAT_TEST(suite, name)                                                                                         \
    static void moat_test_##suite##_##name(void);                                                                      \
    static const struct moat_test moat_test_entry_##suite##_##name = {#suite, #name, moat_test_##suite##_##name};      \
    static const struct moat_test *moat_test_pointer_##suite##_##name __attribute__((used, section("moat_tests"))) =   \
        &moat_test_entry_##suite##_##name;                                                                             \
    static void moat_test_##suite##_##name(void)

#define CHECK(condition) ((condition) ? (void)0 : moat_test_fail(__FILE__, __LINE__, #condition))
#define CHECK_EQ(left, right)                                                                                          \
    moat_test_equal(__FILE__, __LINE__, #left " == " #right, (unsigned long long)(left), (unsigned long long)(right))
#define CHECK_TEXT(left, right) moat_test_text(__FILE__, __LINE__, #left " is the text", left, right)

/* Prints text. Whoever has the runner brings it. */
void moat_test_put(const char *text);

/* Runs every test whose suite or name contains `filter` (NULL: all) and prints a line for each that fails, and last
 * "N passed, N failed".
 * Gives:   0 when at least one ran and none failed, else 1. */
int moat_test_main(const char *filter);

__attribute__((noreturn)) void moat_test_fail(const char *file, int line, const char *what);
void moat_test_equal(const char *file, int line, const char *what, unsigned long long left, unsigned long long right);
void moat_test_text(const char *file, int line, const char *what, const char *left, const char *right);

#endif

static inline bool moat_test_same(const char *left, const char *right) {
    if (left == NULL || right == NULL)
        return left == right;
    while (*left != '\0' && *left == *right) {
        left++;
        right++;
    }
    return *left == *right;
}

/* ---- the runner ---------------------------------------------------------------------------------------------------- */

#if defined(MOAT_TEST_IMPLEMENTATION) && !defined(MOAT_TEST_CRITERION)

#include <setjmp.h>

/* Made by the linker for a section whose name is a C identifier. */
extern const struct moat_test *__start_moat_tests[];
extern const struct moat_test *__stop_moat_tests[];

#define MOAT_TEST_DIGITS 21

static jmp_buf moat_test_escape;

static void moat_test_put_number(unsigned long long number) {
    char text[MOAT_TEST_DIGITS];
    size_t at = sizeof text - 1;
    text[at] = '\0';
    do {
        text[--at] = (char)('0' + number % 10);
        number /= 10;
    } while (number != 0);
    moat_test_put(text + at);
}

static void moat_test_put_place(const char *file, int line) {
    moat_test_put(file);
    moat_test_put(":");
    moat_test_put_number((unsigned long long)line);
    moat_test_put(": ");
}

void moat_test_fail(const char *file, int line, const char *what) {
    moat_test_put_place(file, line);
    moat_test_put(what);
    moat_test_put("\n");
    longjmp(moat_test_escape, 1);
}

void moat_test_equal(const char *file, int line, const char *what, unsigned long long left, unsigned long long right) {
    if (left == right)
        return;
    moat_test_put_place(file, line);
    moat_test_put_number(left);
    moat_test_put(" against ");
    moat_test_put_number(right);
    moat_test_put("\n");
    moat_test_fail(file, line, what);
}

void moat_test_text(const char *file, int line, const char *what, const char *left, const char *right) {
    if (moat_test_same(left, right))
        return;
    moat_test_put_place(file, line);
    moat_test_put(left != NULL ? left : "NULL");
    moat_test_put(" against ");
    moat_test_put(right != NULL ? right : "NULL");
    moat_test_put("\n");
    moat_test_fail(file, line, what);
}

static bool moat_test_begins(const char *text, const char *with) {
    while (*with != '\0' && *text == *with) {
        text++;
        with++;
    }
    return *with == '\0';
}

static bool moat_test_wanted(const struct moat_test *test, const char *filter) {
    bool wanted = filter == NULL;
    for (const char *at = test->suite; !wanted && *at != '\0'; at++)
        wanted = moat_test_begins(at, filter);
    for (const char *at = test->name; !wanted && *at != '\0'; at++)
        wanted = moat_test_begins(at, filter);
    return wanted;
}

/* A function of its own, so that no local of the loop lives across setjmp. */
static bool moat_test_run(const struct moat_test *test) {
    if (setjmp(moat_test_escape) != 0) {
        moat_test_put("FAILED ");
        moat_test_put(test->suite);
        moat_test_put(".");
        moat_test_put(test->name);
        moat_test_put("\n");
        return false;
    }
    test->run();
    return true;
}

int moat_test_main(const char *filter) {
    unsigned passed = 0;
    unsigned failed = 0;
    for (const struct moat_test **at = __start_moat_tests; at < __stop_moat_tests; at++) {
        if (!moat_test_wanted(*at, filter))
            continue;
        bool ok = moat_test_run(*at);
        passed += ok;
        failed += !ok;
    }
    moat_test_put_number(passed);
    moat_test_put(" passed, ");
    moat_test_put_number(failed);
    moat_test_put(" failed\n");
    return failed == 0 && passed != 0 ? 0 : 1;
}

#endif
#endif
