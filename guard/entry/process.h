/* The process: the only global instances, and what every file of the entry layer shares.
 * May include: everything below.
 *
 * Order of locks: shard locks in index order, then the large lock, then the port's. The report lock is taken with none of them
 * held. Stacks are captured, and nodes added to the depot, before any lock. */
#ifndef MOAT_ENTRY_PROCESS_H
#define MOAT_ENTRY_PROCESS_H

#include "guard/engine/depot.h"
#include "guard/engine/guard.h"
#include "guard/engine/large.h"
#include "guard/option/option.h"
#include "guard/port/linux/lock.h"
#include "guard/port/linux/walk.h"
#include "guard/report/report.h"
#include "moat/heap.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define MOAT_SHARDS_MAX 64u
#define MOAT_SHARDS_AUTO_MAX 8u
/* Where a signal interrupted a call that holds one shard's lock, its handler is served by another. */
#define MOAT_SHARDS_AUTO_LEAST 2u
/* Allocation numbers a thread takes from the process's counter at a time. */
#define MOAT_SEQUENCE_BATCH 64u
#define MOAT_HEAP_CHUNK_BYTES ((size_t)4 << 20)
/* What malloc must align to where no alignment is asked for, and 1 where every block of the heap is aligned so anyway. */
#define MOAT_ANY_ALIGNMENT (MOAT_HEAP_ALIGNMENT_BYTES >= _Alignof(max_align_t) ? 1 : _Alignof(max_align_t))

/* What is visible outside the library. Everything else is hidden. */
#define MOAT_EXPORT __attribute__((visibility("default")))
/* Who called the exported function this stands in: the address of a `struct moat_walk_registers` on its stack, good until it returns. */
#define MOAT_CALLER ((uintptr_t)MOAT_WALK_CALLER)
/* The return address in it. */
#define MOAT_CALLER_PC(caller) (((const struct moat_walk_registers *)(caller))->pc)
/* A caller that has returned, of whose stack no more is left than this. */
#define MOAT_CALLER_GONE(return_address) ((uintptr_t) & (const struct moat_walk_registers){.pc = (return_address)})

/* One guard, its heap and its lock. Threads are spread over shards; a freed pointer's address tells its shard. */
struct moat_shard {
    struct moat_lock lock;
    bool ready;
    bool rewinds;               /* a guarded allocator whose blocks are not freed singly */
    struct moat_shard *guarded; /* itself, for a guarded allocator of the program's own; NULL for malloc's shards */
    const char *name;           /* of the guarded allocator */
    struct moat_shard *next;    /* in the list of guarded allocators */
    _Atomic(bool) taken;        /* a guarded allocator uses it; otherwise the next one may */
    bool refused_memory;        /* memory did not leave because of damage that is still to be reported */
    struct moat_guard_config config; /* a guarded allocator's own */
    struct moat_guard guard;
    union {
        struct moat_heap *heap;   /* an ordinary shard */
        struct moat_large *large; /* the shard of blocks with pages of their own */
    };
    struct moat_source source; /* where the heap grows: maps memory and tells the block map */
} __attribute__((aligned(64)));

/* Frees that can wait; the blocks of more than that are never given back. */
#define MOAT_DEFERRED_MAX 64u

struct moat_deferred {
    void *user;
    uintptr_t caller_pc;
    unsigned family;
};

/* What a thread keeps between calls. Slots are mapped, never allocated, and reused after their thread ended. */
struct moat_thread {
    struct moat_thread *next_free;
    struct moat_shard *shard;
    uint16_t number; /* from 1, in order of first allocation */
    pid_t tid;
    unsigned inside;   /* calls of the allocator under way in this thread; more than one: nested.c */
    unsigned shielded; /* > 0: inside Moat's own work: no stacks, no findings from here */
    uint64_t sequence_next;
    uint64_t sequence_end;
    /* Depot nodes of the latest stack's frames, from the one `ids_first` on; as of its walk number `ids_walk`. */
    unsigned ids_first, ids_end;
    uint64_t ids_walk;
    uint32_t ids[MOAT_WALK_FRAMES_MAX];
    struct moat_walk_memory walk;
    /* Frees that had to wait, since the call that a signal interrupted holds the lock. */
    unsigned deferred_count;
    struct moat_deferred deferred[MOAT_DEFERRED_MAX];
};

/* How many different bugs a process tells apart; further ones are printed each time. */
#define MOAT_BUGS_MAX 4096u

struct moat_bug {
    uint32_t id; /* 0: free */
    uint32_t count;
};

/* What writing reports needs, so that it need not allocate. One report at a time, under its lock. */
struct moat_reporting {
    struct moat_lock lock;
    _Atomic(pid_t) holder;                       /* thread id, so that a fault inside a report is seen as such */
    uint16_t module_of[MOAT_REPORT_MODULES_MAX]; /* process-wide indices of the report's modules */
    struct moat_report report;
    struct moat_bug bugs[MOAT_BUGS_MAX];
    unsigned char record[MOAT_RECORD_BYTES_MAX];
    char text[32u << 10];
    size_t text_bytes;
};

enum moat_stage { MOAT_STAGE_NONE, MOAT_STAGE_STARTING, MOAT_STAGE_EARLY, MOAT_STAGE_RUNNING, MOAT_STAGE_ENDING };

struct moat_process {
    _Atomic(int) stage; /* enum moat_stage */
    struct moat_lock start_lock;
    struct moat_options options;
    struct moat_option_text option_text;
    struct moat_guard_config config;
    struct moat_guard_config large_config;
    struct moat_block_map map;
    struct moat_depot depot;
    struct moat_large large_table;
    struct moat_shard shards[MOAT_SHARDS_MAX];
    struct moat_shard large;
    _Atomic(struct moat_shard *) guarded; /* a list that only grows, under the large lock; closed ones are not ready */
    unsigned shard_count;
    _Atomic(uint64_t) sequence;     /* the next allocation number to give out */
    uint64_t fork_sequence;         /* blocks from this number on are this process's own, not inherited */
    _Atomic(uint32_t) thread_count; /* threads that ever had a slot */
    struct moat_lock thread_lock;
    struct moat_thread *free_threads;
    struct moat_thread spare; /* for threads that can have no slot: their calls are served without stacks */
    pid_t pid;
    _Atomic(bool) dying;        /* a fatal report was written; end as soon as possible */
    _Atomic(uint64_t) findings; /* printed */
    _Atomic(uint64_t) repeats;
    _Atomic(uint64_t) suppressed;
    _Atomic(uint64_t) own_bytes; /* mapped for Moat's own tables */
    _Atomic(bool) budget_met;
    _Atomic(uint64_t) failable; /* allocations that failure injection has counted */
    bool failing;               /* failure injection is on */
    bool started;               /* main is about to run, or runs */
    bool has_suppressions;
    struct moat_reporting reporting;
};

/* Everything Moat keeps for itself is this object, the port's state and mapped pages; the leak scan leaves all of it out. */
extern struct moat_process moat_process;

/* ---- start.c --------------------------------------------------------------------------------------------------------- */

/* Makes the process able to serve allocations; the constructor does the rest. Called by whoever allocates first.
 * Takes:   the environment, or NULL: before the constructor it is read from /proc. */
void moat_start(char *const *environment);

/* preload.c, not in the archive: whether the program has a malloc of its own, a Moat that is linked in for instance. Then the preloaded
 * one keeps out of the way. */
bool moat_preload_is_bypassed(void) __attribute__((weak));

/* What must wait until the C library is ready, since it loads libraries. Once; no lock held. */
void moat_start_late(void);

static inline bool moat_is_started(void) {
    return __builtin_expect(atomic_load_explicit(&moat_process.stage, memory_order_acquire) >= MOAT_STAGE_EARLY, 1);
}

/* ---- thread.c -------------------------------------------------------------------------------------------------------- */

extern _Thread_local struct moat_thread *moat_thread_current;

/* Gives this thread a slot. */
struct moat_thread *moat_thread_enter(void);

static inline struct moat_thread *moat_thread_self(void) {
    struct moat_thread *self = moat_thread_current;
    return __builtin_expect(self != NULL, 1) ? self : moat_thread_enter();
}

/* Called by the constructor: from now on slots of threads that end are reused. */
void moat_thread_watch_exits(void);

/* In the child after fork: only this thread is left. */
void moat_thread_after_fork(void);

/* ---- stack.c --------------------------------------------------------------------------------------------------------- */

/* The calling thread's stack as a depot id, from MOAT_CALLER outwards; 0 when stacks are off. Context: no lock held. */
uint32_t moat_stack_capture(struct moat_thread *self, uintptr_t caller);

/* Adds a stack of return addresses, innermost first, to the depot. */
uint32_t moat_stack_intern(const uintptr_t *frames, size_t count, bool complete);

/* ---- shard.c --------------------------------------------------------------------------------------------------------- */

void moat_shards_init(void);
/* Makes the shard's heap; its lock held. False when there is no memory for it. */
bool moat_shard_open(struct moat_shard *shard);
/* Whose block an address could be; for strangers the large shard. Its lock must then be taken and the answer proved. */
struct moat_shard *moat_shard_of(uintptr_t address);
/* All locks, in order. `try`: gives up after about that many milliseconds at each; a lock not had is left out of *held. */
void moat_shards_lock_all(void);
void moat_shards_unlock_all(void);
/* Calls `each` for every open shard, large included, without locking. */
void moat_shards_each(void (*each)(void *context, struct moat_shard *shard), void *context);

/* The name of malloc's own heap in reports. */
#define MOAT_HEAP_NAME "the heap"

/* ---- allocate.c, free.c, resize.c, sweep.c: what every allocating and freeing call comes down to ---------------------------------------------------- */

struct moat_request {
    size_t size_bytes;
    size_t alignment; /* a power of two */
    uint8_t family;   /* enum moat_family */
    bool zero;
    uintptr_t caller;
};

/* ---- nested.c: the same for all callers, from signal handlers too, over those named plainly ------------------------------ */

/* NULL with errno ENOMEM when there is none. */
void *moat_block_allocate(const struct moat_request *request);

void *moat_block_allocate_plainly(const struct moat_request *request);

/* What sized and aligned forms of free say of the block; SIZE_MAX and 0: nothing. */
struct moat_claimed {
    size_t size_bytes;
    size_t alignment;
};
#define MOAT_CLAIMED_NOTHING ((struct moat_claimed){SIZE_MAX, 0})

/* The same from a guarded allocator. */
void *moat_block_allocate_from(struct moat_shard *shard, const struct moat_request *request);

/* Frees to a guarded allocator. */
void moat_block_free_to(struct moat_shard *shard, void *user, uintptr_t caller);

/* What the calling thread is doing, for the engine. */
struct moat_call moat_block_call(unsigned family, unsigned when, uintptr_t caller);

/* Gives all that a guarded allocator holds back to it, proved. */
void moat_block_drain(struct moat_shard *shard, const struct moat_call *call);

/* Prints findings and does what on_error says. Context: no lock held. */
void moat_block_report(const struct moat_findings *findings);

/* errno is kept. NULL is fine. */
void moat_block_free(void *user, unsigned family, struct moat_claimed claimed, uintptr_t caller);
void moat_block_free_plainly(void *user, unsigned family, struct moat_claimed claimed, uintptr_t caller);

/* realloc without its zero size convention: NULL with ENOMEM leaves the block as it was. */
void *moat_block_resize(void *user, size_t size_bytes, uintptr_t caller);
void *moat_block_resize_plainly(void *user, size_t size_bytes, uintptr_t caller);

/* In place or not at all: true when the block now has that size. */
bool moat_block_resize_in_place(void *user, size_t size_bytes, uintptr_t caller);
bool moat_block_resize_in_place_plainly(void *user, size_t size_bytes, uintptr_t caller);

/* The requested size of a live block; 0 for anything else. */
size_t moat_block_size(const void *user);
size_t moat_block_size_plainly(const void *user);

/* Whether a signal interrupted the allocator in this thread, and the call at hand comes from the handler. */
static inline bool moat_nested_is(const struct moat_thread *self) { return __builtin_expect(self->inside > 1, 0); }

/* Whether the interrupted call may hold this shard's lock: then nobody will give it back before the handler returns. */
static inline bool moat_nested_is_held(const struct moat_thread *self, struct moat_shard *shard) {
    return moat_nested_is(self) && atomic_load_explicit(&shard->lock.state, memory_order_relaxed) != MOAT_LOCK_FREE;
}

/* Frees what handlers could not. Context: no lock held. */
void moat_nested_settle(void);

/* Runs the program's own code from within a call: the allocator is not inside it. Gives what moat_nested_return takes. */
static inline unsigned moat_nested_leave(struct moat_thread *self) {
    unsigned inside = self->inside;
    self->inside = 0;
    return inside;
}

static inline void moat_nested_return(struct moat_thread *self, unsigned inside) { self->inside = inside; }

/* A finding for a call whose arguments cannot be right: sizes, alignments (only with report_failures) and errno is set to `error`. */
void *moat_block_refuse(unsigned argument, uint64_t value0, uint64_t value1, int error, uintptr_t caller);

/* Checks all blocks, live and freed, and prints what it finds; acting on it is the caller's.
 * Takes:   try_locks: from a handler, where a lock may be held for good: what cannot be locked is left out.
 * Gives:   the number of findings; *corrupt: one of them is a corruption that on_error speaks of. */
uint64_t moat_block_sweep(unsigned when, uintptr_t caller, bool try_locks, bool *corrupt);

/* ---- tune.c, stats.c ------------------------------------------------------------------------------------------------- */

/* Puts the options that may change while the program runs into force. */
void moat_tune_apply(void);
/* The same for heaps and guards that are open already. */
void moat_tune_apply_to_all(void);
/* How much free memory a heap keeps, as it wants to be told. */
size_t moat_tune_keep_bytes(void);
/* Whether this allocation is to fail; counts it. Only asked while moat_process.failing. */
bool moat_tune_fails(void);
/* Memory for Moat's tables, counted against the budget: what is needed is given past it, what is spare is not. */
const struct moat_source *moat_tune_needed_memory(void);
const struct moat_source *moat_tune_spare_memory(void);
/* Lets a guard hold back no more than its share of what the budget leaves. */
void moat_tune_limit_quarantine(struct moat_guard *guard);
/* Gives a quarantine's ring back; it holds nothing from then on. */
void moat_tune_release_ring(struct moat_quarantine *ring);
/* The line of stats=1. */
void moat_stats_note(void);

/* ---- finding.c --------------------------------------------------------------------------------------------------------- */

/* Reports a finding and does what on_error says. May not return. Context: no lock held; errno is kept. */
void moat_finding_report(const struct moat_finding *finding);

/* The same without acting on on_error. True when it was a corruption that no suppression took out. */
bool moat_finding_print(const struct moat_finding *finding);

/* What on_error says after a corruption was reported: may not return. */
void moat_finding_act(void);

/* One line for the user. */
void moat_note(const char *text);

/* Starts a report in the shared buffer, whose lock is held until moat_report_end. NULL: this thread is inside one already.
 * Send writes it, to `moat run` or else as the options say; `wait`: returns when it was printed. */
struct moat_report *moat_report_begin(unsigned type);
void moat_report_send(struct moat_report *report, bool wait_until_taken);
/* Hands it to `moat run` or to nobody; false when there is none that takes it. */
bool moat_report_offer(struct moat_report *report, bool wait_until_taken);
void moat_report_end(void);

/* After fork in the child. */
void moat_finding_after_fork(void);

/* ---- suppress.c -------------------------------------------------------------------------------------------------------- */

/* Reads the suppression file; false with one line in `error` when it is unreadable or malformed. */
bool moat_suppress_load(const char *path, char *error, size_t error_bytes);
/* Whether a suppression takes this report out. */
bool moat_suppress_matches(const struct moat_report *report, const struct moat_symboliser *symboliser);

/* ---- operators.c ------------------------------------------------------------------------------------------------------- */

/* Whether a mismatch of families is none: a library's own operators stand between. Context: the report lock held. */
bool moat_operators_fit(const struct moat_finding *finding);

/* ---- beginnings and ends: exit.c, fault.c, fork.c, exec.c, leak.c --------------------------------------------------------------------- */

void moat_exit_init(void);
void moat_fault_init(void);
void moat_fork_init(void);
void moat_exec_init(void);
/* Tells `moat run` that this process is covered. */
void moat_exec_check_in(void);

struct moat_summary;
/* The leak check at exit; fills in the leak part of the summary, `note` with the reason when it could not run. */
void moat_leak_check(struct moat_summary *summary, char *note, size_t note_bytes);

#endif
