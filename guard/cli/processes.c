/* Who came under Moat, and who should have but did not.
 * May include: guard/cli/cli.h and the C library. */
#include "guard/cli/cli.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#define BUCKETS 1024u

struct process {
    struct process *next;
    int64_t pid;
    bool checked_in;
    char *executing; /* path of an exec that no check-in followed yet; NULL: none */
};

struct moat_processes {
    struct process *buckets[BUCKETS];
};

struct moat_processes *moat_processes_create(void) {
    return moat_cli_allocate(sizeof(struct moat_processes));
}

static struct process *find(const struct moat_processes *processes, int64_t pid) {
    struct process *process = processes->buckets[(uint64_t)pid % BUCKETS];
    while (process != NULL && process->pid != pid) {
        process = process->next;
    }
    return process;
}

static struct process *obtain(struct moat_processes *processes, int64_t pid) {
    struct process *process = find(processes, pid);
    if (process == NULL) {
        struct process **bucket = &processes->buckets[(uint64_t)pid % BUCKETS];
        process = moat_cli_allocate(sizeof *process);
        process->pid = pid;
        process->next = *bucket;
        *bucket = process;
    }
    return process;
}

static void forget_exec(struct process *process) {
    free(process->executing);
    process->executing = NULL;
}

void moat_processes_check_in(struct moat_processes *processes, int64_t pid) {
    struct process *process = obtain(processes, pid);
    process->checked_in = true;
    forget_exec(process);
}

void moat_processes_exec(struct moat_processes *processes, int64_t pid, const char *path, bool self) {
    struct process *process = obtain(processes, pid);
    if (!self && process->checked_in) {
        return; /* reported by its parent after the fact, when it had checked in already */
    }
    forget_exec(process);
    process->executing = moat_cli_copy(path);
}

void moat_processes_exec_gone(struct moat_processes *processes, int64_t pid) {
    struct process *process = find(processes, pid);
    if (process != NULL) {
        forget_exec(process);
    }
}

bool moat_processes_checked_in(const struct moat_processes *processes, int64_t pid) {
    const struct process *process = find(processes, pid);
    return process != NULL && process->checked_in && process->executing == NULL;
}

bool moat_processes_executing(const struct moat_processes *processes, int64_t pid) {
    const struct process *process = find(processes, pid);
    return process != NULL && process->executing != NULL;
}

/* Whether an earlier missing process had the same path. */
static bool is_repeat(const struct moat_processes *processes, size_t bucket, const struct process *process) {
    for (size_t i = 0; i <= bucket; i++) {
        for (const struct process *other = processes->buckets[i]; other != NULL; other = other->next) {
            if (other == process) {
                return false;
            }
            if (other->executing != NULL && strcmp(other->executing, process->executing) == 0) {
                return true;
            }
        }
    }
    return false;
}

void moat_processes_missing(struct moat_processes *processes,
                            void (*visit)(void *context, int64_t pid, const char *path), void *context) {
    for (size_t i = 0; i < BUCKETS; i++) {
        for (const struct process *process = processes->buckets[i]; process != NULL; process = process->next) {
            if (process->executing != NULL && !is_repeat(processes, i, process)) {
                visit(context, process->pid, process->executing);
            }
        }
    }
}

bool moat_processes_pending(const struct moat_processes *processes) {
    for (size_t i = 0; i < BUCKETS; i++) {
        for (const struct process *process = processes->buckets[i]; process != NULL; process = process->next) {
            if (process->executing != NULL && process->pid > 0 &&
                (kill((pid_t)process->pid, 0) == 0 || errno == EPERM)) {
                return true;
            }
        }
    }
    return false;
}
