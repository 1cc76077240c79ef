/* A program that reports to the spool by itself, as the preload library would, so that `moat run` is tested alone.
 * May include: guard/report, guard/option and the C library.
 *
 * Its arguments are actions, done in order: check-in, overflow, leak, possible, summary, leaky-summary,
 * unchecked-summary, note=TEXT, exec-note=PATH, exec-gone, exec=PATH, print=TEXT, exit=N, kill=SIGNAL, sleep=MS, fork,
 * pid, junk, flood=N, untaken (succeeds when nobody takes a report). */
#define _GNU_SOURCE
#include "guard/option/option.h"
#include "guard/report/report.h"
#include "guard/report/spool_file.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <link.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static struct moat_report report;
static unsigned char record[MOAT_RECORD_BYTES_MAX];
static const char *spool_path;

static void prepare(unsigned type) {
    memset(&report, 0, sizeof report);
    report.type = (uint8_t)type;
    report.word_bits = sizeof(void *) * 8;
    report.pid = getpid();
    strcpy(report.program, "/usr/bin/fake");
    strcpy(report.command, "fake one \"two\" \xff");
}

static bool send(bool wait) {
    size_t length = moat_report_encode(&report, record, sizeof record);
    return length > 0 && moat_spool_append(spool_path, record, length, wait);
}

static int note_build_id(struct dl_phdr_info *info, size_t size, void *context) {
    struct moat_module *module = context;
    (void)size;
    module->bias = info->dlpi_addr;
    for (size_t i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *part = &info->dlpi_phdr[i];
        const unsigned char *at = (const unsigned char *)(info->dlpi_addr + part->p_vaddr); /* NOLINT: an address */
        const unsigned char *end = at + (part->p_type == PT_NOTE ? part->p_memsz : 0);
        while (end - at > (long)sizeof(ElfW(Nhdr))) {
            ElfW(Nhdr) head;
            memcpy(&head, at, sizeof head);
            const unsigned char *name = at + sizeof head;
            const unsigned char *text = name + ((head.n_namesz + 3) & ~3u);
            if (head.n_type == NT_GNU_BUILD_ID && memcmp(name, "GNU", 4) == 0 && head.n_descsz <= MOAT_BUILD_ID_BYTES) {
                memcpy(module->build_id, text, head.n_descsz);
                module->build_id_bytes = (uint8_t)head.n_descsz;
            }
            at = text + ((head.n_descsz + 3) & ~3u);
        }
    }
    return 1; /* the program itself comes first */
}

static void add_frame(struct moat_stack *stack, void *pc, uint16_t module) {
    stack->frames[stack->frame_count++] = (struct moat_frame){.pc = (uintptr_t)pc, .module = module};
}

/* Called from an inlined function, so that its return address has two lines. */
__attribute__((noinline)) static void send_overflow(void) {
    struct moat_finding *finding = &report.finding;
    void *here = __builtin_return_address(0);
    prepare(MOAT_REPORT_FINDING);
    report.bug_id = 0x1234abcd;
    report.module_count = 1;
    dl_iterate_phdr(note_build_id, &report.modules[0]);
    const char *module = getenv("FAKE_MODULE"); /* pretends to be another file */
    if (realpath(module != NULL ? module : "/proc/self/exe", report.modules[0].path) == NULL) {
        exit(99);
    }
    add_frame(&report.stacks[MOAT_STACK_FOUND], here, 0);
    add_frame(&report.stacks[MOAT_STACK_ALLOCATED], here, MOAT_NO_MODULE);
    finding->kind = MOAT_HEAP_BUFFER_OVERFLOW;
    finding->when = MOAT_WHEN_FREE;
    finding->thread = 1;
    finding->block =
        (struct moat_block_facts){.address = 0x10000, .size_bytes = 24, .sequence = 7, .state = MOAT_BLOCK_LIVE};
    finding->first = 24;
    finding->last = 24;
    finding->bad_count = 1;
    finding->dump.offset = 16;
    finding->dump.length = 16;
    finding->dump.bad = 1 << 8;
    finding->dump.expected[8] = 0x9c;
    if (!send(true)) {
        fputs("nobody took the report\n", stderr);
        exit(98);
    }
}

static inline __attribute__((always_inline)) void overflow_inlined(void) {
    send_overflow(); /* the inlined line */
    __asm__ volatile("" ::: "memory");
}

__attribute__((noinline)) static void overflow(void) {
    overflow_inlined(); /* the calling line */
    __asm__ volatile("" ::: "memory");
}

static void send_leak(unsigned class) {
    prepare(MOAT_REPORT_FINDING);
    report.finding.kind = MOAT_MEMORY_LEAK;
    report.finding.when = MOAT_WHEN_EXIT;
    report.finding.leak_class = (uint8_t) class;
    report.finding.leak_blocks = 2;
    report.finding.leak_bytes = 3400;
    send(true);
}

static void send_summary(unsigned outcome) {
    prepare(MOAT_REPORT_SUMMARY);
    report.summary.leak_outcome = (uint8_t)outcome;
    report.summary.allocations = 12;
    report.summary.leak_definite_blocks = outcome == MOAT_LEAKS_FOUND ? 2 : 0;
    report.summary.leak_definite_bytes = outcome == MOAT_LEAKS_FOUND ? 3400 : 0;
    strcpy(report.note, outcome == MOAT_LEAKS_COULD_NOT_RUN ? "other threads were running" : "");
    send(true);
}

static void send_with_note(unsigned type, const char *note) {
    prepare(type);
    report.value[0] = (uint64_t)getpid();
    snprintf(report.note, sizeof report.note, "%s", note);
    send(true);
}

static void write_junk(void) {
    static const char junk[] = "MoaR not a record at all, and long enough to be taken for one";
    int fd = open(spool_path, O_WRONLY | O_APPEND | O_CLOEXEC);
    if (fd < 0 || write(fd, junk, sizeof junk) != (ssize_t)sizeof junk) {
        exit(97);
    }
    close(fd);
}

/* Forks; the child goes on with the remaining actions, the parent waits and then ends with 0. */
static void do_fork(void) {
    int status = 0;
    pid_t pid = fork();
    if (pid > 0) {
        waitpid(pid, &status, 0);
        exit(0);
    }
}

static void flood(int count) {
    prepare(MOAT_REPORT_NOTE);
    for (int i = 0; i < count; i++) {
        snprintf(report.note, sizeof report.note, "flood %d", i);
        send(false);
    }
}

static bool act_with_value(const char *word, const char *value) {
    size_t length = (size_t)(value - word);
    int number = atoi(value);
    if (strncmp(word, "note=", length) == 0) {
        send_with_note(MOAT_REPORT_NOTE, value);
    } else if (strncmp(word, "exec-note=", length) == 0) {
        send_with_note(MOAT_REPORT_EXEC, value);
    } else if (strncmp(word, "exec=", length) == 0) {
        send_with_note(MOAT_REPORT_EXEC, value);
        execl(value, value, (char *)NULL);
        send_with_note(MOAT_REPORT_EXEC_GONE, value);
    } else if (strncmp(word, "print=", length) == 0) {
        printf("%s\n", value);
        fflush(stdout);
    } else if (strncmp(word, "exit=", length) == 0) {
        exit(number);
    } else if (strncmp(word, "kill=", length) == 0) {
        kill(getpid(), number);
    } else if (strncmp(word, "sleep=", length) == 0) {
        usleep((useconds_t)number * 1000);
    } else if (strncmp(word, "flood=", length) == 0) {
        flood(number);
    } else {
        return false;
    }
    return true;
}

static bool act(const char *word) {
    const char *equals = strchr(word, '=');
    if (equals != NULL) {
        return act_with_value(word, equals + 1);
    }
    if (strcmp(word, "check-in") == 0) {
        send_with_note(MOAT_REPORT_CHECK_IN, "");
    } else if (strcmp(word, "overflow") == 0) {
        overflow();
    } else if (strcmp(word, "leak") == 0) {
        send_leak(MOAT_LEAK_DEFINITE);
    } else if (strcmp(word, "possible") == 0) {
        send_leak(MOAT_LEAK_POSSIBLE);
    } else if (strcmp(word, "summary") == 0) {
        send_summary(MOAT_LEAKS_CLEAN);
    } else if (strcmp(word, "leaky-summary") == 0) {
        send_summary(MOAT_LEAKS_FOUND);
    } else if (strcmp(word, "unchecked-summary") == 0) {
        send_summary(MOAT_LEAKS_COULD_NOT_RUN);
    } else if (strcmp(word, "exec-gone") == 0) {
        send_with_note(MOAT_REPORT_EXEC_GONE, "");
    } else if (strcmp(word, "fork") == 0) {
        do_fork();
    } else if (strcmp(word, "pid") == 0) {
        printf("%d\n", (int)getpid());
        fflush(stdout);
    } else if (strcmp(word, "junk") == 0) {
        write_junk();
    } else if (strcmp(word, "untaken") == 0) {
        prepare(MOAT_REPORT_NOTE);
        fputs(send(true) ? "taken\n" : "untaken\n", stdout);
        fflush(stdout);
    } else {
        return false;
    }
    return true;
}

int main(int argc, char **argv) {
    static struct moat_options options;
    static struct moat_option_text text;
    char error[MOAT_OPTION_ERROR_BYTES];
    moat_options_default(&options);
    if (!moat_options_parse(&options, &text, getenv("MOAT_OPTIONS"), error)) {
        fprintf(stderr, "fake: %s\n", error);
        return 96;
    }
    spool_path = options.spool;
    for (int i = 1; i < argc; i++) {
        if (!act(argv[i])) {
            fprintf(stderr, "fake: no action %s\n", argv[i]);
            return 95;
        }
    }
    return 0;
}
