/* How a process comes under Moat: first allocation, options, constructor. May include: process.h, the port, POSIX headers. */
#define _GNU_SOURCE 1 /* environ */
#include "guard/entry/process.h"
#include "guard/port/linux/module.h"
#include "guard/port/linux/output.h"
#include "guard/port/linux/pages.h"
#include "guard/port/linux/random.h"
#include "guard/port/linux/unwind.h"
#include "moat.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/auxv.h>
#include <sys/syscall.h>
#include <unistd.h>

#define MOAT_USAGE_STATUS 125
#define MOAT_OPTIONS_VARIABLE "MOAT_OPTIONS="
/* As much of the environment as is looked through when the constructor's is not there yet. */
#define MOAT_ENVIRONMENT_BYTES (256u << 10)

struct moat_process moat_process;

/* What was wrong with the options; said by the constructor, when standard error is known. */
static char option_error[MOAT_OPTION_ERROR_BYTES];

static const char *options_in(char *const *environment) {
    const size_t length = sizeof MOAT_OPTIONS_VARIABLE - 1;
    for (; environment != NULL && *environment != NULL; environment++) {
        if (strncmp(*environment, MOAT_OPTIONS_VARIABLE, length) == 0) {
            return *environment + length;
        }
    }
    return NULL;
}

/* The same from the kernel's copy, for allocations before the constructor. The buffer is kept: it is needed once. */
static const char *options_in_kernel(void) {
    const size_t length = sizeof MOAT_OPTIONS_VARIABLE - 1;
    char *buffer = moat_pages_map(MOAT_ENVIRONMENT_BYTES, 0);
    long descriptor = syscall(SYS_openat, AT_FDCWD, "/proc/self/environ", O_RDONLY | O_CLOEXEC);
    const char *found = NULL;
    size_t used_bytes = 0;
    long got;
    if (buffer == NULL || descriptor < 0) {
        return NULL;
    }
    while (used_bytes < MOAT_ENVIRONMENT_BYTES - 1 &&
           (got = syscall(SYS_read, descriptor, buffer + used_bytes, MOAT_ENVIRONMENT_BYTES - 1 - used_bytes)) > 0) {
        used_bytes += (size_t)got;
    }
    syscall(SYS_close, descriptor);
    for (size_t at = 0; at < used_bytes && found == NULL; at += strlen(buffer + at) + 1) {
        found = strncmp(buffer + at, MOAT_OPTIONS_VARIABLE, length) == 0 ? buffer + at + length : NULL;
    }
    return found;
}

static unsigned processor_count(void) {
    unsigned long mask[16] = {0};
    unsigned count = 0;
    if (syscall(SYS_sched_getaffinity, 0, sizeof mask, mask) > 0) {
        for (size_t i = 0; i < sizeof mask / sizeof mask[0]; i++) {
            count += (unsigned)__builtin_popcountl(mask[i]);
        }
    }
    return count == 0 ? 1 : count;
}

static void options_read(char *const *environment) {
    struct moat_options *options = &moat_process.options;
    struct moat_option_text *text = &moat_process.option_text;
    moat_options_default(options);
    bool understood = true;
    if (moat_default_options != NULL) {
        understood = moat_options_parse(options, text, moat_default_options(), option_error);
    }
    if (understood && getauxval(AT_SECURE) == 0) {
        const char *given = environment != NULL ? options_in(environment) : options_in_kernel();
        moat_options_parse(options, text, given, option_error);
    }
}

static void config_fill(void) {
    const struct moat_options *options = &moat_process.options;
    unsigned processors = processor_count();
    processors = processors < MOAT_SHARDS_AUTO_LEAST ? MOAT_SHARDS_AUTO_LEAST : processors;
    moat_process.shard_count = options->shards != 0                ? (unsigned)options->shards
                               : processors < MOAT_SHARDS_AUTO_MAX ? processors
                                                                   : MOAT_SHARDS_AUTO_MAX;
    moat_process.config = (struct moat_guard_config){
        .secret = options->secret != 0 ? options->secret : moat_random_secret(),
        .scan_bytes = (size_t)options->large + (size_t)options->redzone,
    };
    moat_tune_apply();
}

void moat_start(char *const *environment) {
    int error = errno;
    moat_lock_take(&moat_process.start_lock);
    if (atomic_load(&moat_process.stage) == MOAT_STAGE_NONE) {
        atomic_store(&moat_process.stage, MOAT_STAGE_STARTING);
        moat_process.pid = getpid();
        atomic_store(&moat_process.sequence, 1);
        options_read(environment);
        config_fill();
        moat_map_init(&moat_process.map, moat_tune_needed_memory());
        moat_depot_init(&moat_process.depot, moat_tune_spare_memory(), moat_module_of);
        moat_process.spare.shard = &moat_process.shards[0];
        moat_shards_init();
        atomic_store_explicit(&moat_process.stage, MOAT_STAGE_EARLY, memory_order_release);
    }
    moat_lock_give(&moat_process.start_lock);
    errno = error;
}

void moat_start_late(void) {
    static bool done;
    if (!done && atomic_load(&moat_process.stage) >= MOAT_STAGE_EARLY) {
        done = true;
        if (moat_walk_is_available()) {
            moat_unwind_init_own();
        } else {
            moat_unwind_init();
        }
        moat_process.started = true; /* what the program allocates counts from here on */
    }
}

static void stop(const char *text) {
    static const char prefix[] = "moat: ";
    moat_output_write(prefix, sizeof prefix - 1);
    moat_output_write(text, strlen(text));
    moat_output_write("\n", 1);
    syscall(SYS_exit_group, MOAT_USAGE_STATUS);
}

/* Where reports go and what is left out of them: all that can be wrong with files named in the options. */
static void files_open(void) {
    const struct moat_options *options = &moat_process.options;
    if (options->report[0] != '\0' && moat_output_report_to(options->report) != 0) {
        stop("the file given by option 'report' cannot be opened for writing");
    }
    if (options->suppressions[0] != '\0') {
        char error[MOAT_OPTION_ERROR_BYTES];
        if (!moat_suppress_load(options->suppressions, error, sizeof error)) {
            stop(error);
        }
        moat_process.has_suppressions = true;
    }
}

__attribute__((constructor(101))) static void start_constructor(int argument_count, char **arguments,
                                                                char **environment) {
    (void)argument_count;
    (void)arguments;
    int error = errno;
    if (moat_preload_is_bypassed != NULL && moat_preload_is_bypassed()) {
        return;
    }
    moat_start(environment);
    moat_output_init();
    if (option_error[0] != '\0') {
        stop(option_error);
    }
    files_open();
    moat_thread_watch_exits();
    moat_unwind_init_early();
    moat_fork_init();
    moat_exit_init();
    moat_exec_init();
    if (moat_process.options.handle_signals) {
        moat_fault_init();
    }
    moat_exec_check_in();
    atomic_store_explicit(&moat_process.stage, MOAT_STAGE_RUNNING, memory_order_release);
    if (environ != NULL) {
        moat_start_late(); /* linked in: the C library is ready when constructors run */
    }
    errno = error;
}
