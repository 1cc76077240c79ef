/* Everything the Linux port keeps, in one object: the leak scan leaves it out as a root.
 * May include: the port's public headers. For the port's own .c files only. */
#ifndef MOAT_PORT_STATE_H
#define MOAT_PORT_STATE_H

#include "guard/port/linux/lock.h"
#include "guard/port/linux/module.h"
#include "guard/port/linux/pages.h"
#include "guard/port/linux/port.h"
#include "guard/port/linux/syscall.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ---- unwind.c ---- */

enum { MOAT_UNWIND_ENDS = 64 };

struct moat_unwind_state {
    int (*backtrace)(void **frames, int most);                /* libunwind's fast walk; NULL: not there */
    int (*cursor_init)(void *cursor, void *context, int how); /* its cursor, to start from given registers */
    int (*cursor_step)(void *cursor);
    int (*cursor_register)(void *cursor, int which, uintptr_t *value);
    int (*walk)(int (*frame)(void *unwinder, void *context), void *context); /* libgcc's */
    uintptr_t (*walk_pc)(void *unwinder);
    void *(*enclosing)(void *pc); /* the start of the function that has unwind information for pc */
    _Atomic bool walk_ready;      /* libgcc was seen to have unwind information for itself */
    _Atomic bool loader_active;   /* the loader allocated or freed since unloads were last counted */
    _Atomic bool distrust;        /* libunwind's cache may hold rules of code that is gone: do not use it any more */
    _Atomic size_t unloads;       /* as last counted */
    _Atomic uintptr_t end[MOAT_UNWIND_ENDS];     /* return addresses seen to end a stack properly, by hash */
    _Atomic uintptr_t not_end[MOAT_UNWIND_ENDS]; /* and those that do not */
};

/* ---- rules.c ---- */

enum { MOAT_RULES_BITS = 15, MOAT_RULES_STAYING_MAX = 128 };

struct moat_rules_entry {
    _Atomic uint64_t key; /* masked with the rule */
    _Atomic uint64_t rule;
};

struct moat_rules_range {
    uintptr_t start, end;
};

struct moat_rules_state {
    struct moat_rules_entry *entries;
    unsigned staying_count;
    struct moat_rules_range staying[MOAT_RULES_STAYING_MAX]; /* modules that are never unloaded */
    struct moat_rules_range loader;                          /* empty: it cannot be told when it calls */
    _Atomic bool unloads_unknown;                            /* they cannot be counted */
    _Atomic uint64_t loader_calls;
};

/* ---- module.c ---- */

enum { MOAT_MODULE_BUCKETS = 1024, MOAT_MODULE_PATH_POOL = 512 << 10 };

struct moat_module_entry {
    uintptr_t map_start, map_end;
    uintptr_t bias;
    const void *link_map; /* with eh_frame and dynamic: tells it from a later module at the same place */
    const void *eh_frame;
    const void *dynamic;
    const uint8_t *build_id_place; /* where the build id can be compared again while it is loaded; NULL: it cannot */
    uint32_t path;                 /* offset into the pool */
    uint8_t build_id[MOAT_BUILD_ID_BYTES];
    uint8_t build_id_bytes;
    bool is_libc;
    uint16_t next; /* in its bucket, index + 1; 0: none */
};

/* A module looked for once; start == end: there is none. */
struct moat_module_range {
    _Atomic uintptr_t start, end;
    _Atomic bool known;
};

struct moat_module_state {
    _Atomic uint32_t count;
    _Atomic uint32_t path_used;
    _Atomic size_t lost;
    struct moat_module_range own, loader;
    struct moat_module_range program;             /* when it is fully static */
    _Atomic uint16_t bucket[MOAT_MODULE_BUCKETS]; /* index + 1 of the newest entry */
    struct moat_module_entry entry[MOAT_MODULES_MAX];
    char path[MOAT_MODULE_PATH_POOL];
};

/* ---- symtab.c ---- */

enum { MOAT_SYMTAB_NAME_BYTES = 512, MOAT_SYMTAB_CHUNK_BYTES = 48 << 10, MOAT_SYMTAB_ANSWERS = 256 };

/* Where a module's file has its tables, as checked against its size. */
struct moat_symtab_file {
    uint64_t file_bytes;
    uint64_t symbols_offset, symbols_bytes;
    uint64_t names_offset, names_bytes;
};

/* An earlier answer; all zero: none. */
struct moat_symtab_answer {
    uint64_t address; /* as linked */
    uint64_t build;   /* beginning of the build id */
    uint64_t value;
    uint32_t name; /* offset of its name; 0: no symbol covers the address */
    bool data;
};

struct moat_symtab_state {
    struct moat_symtab_answer answer[MOAT_SYMTAB_ANSWERS];
    char name[MOAT_SYMTAB_NAME_BYTES];
    unsigned char chunk[MOAT_SYMTAB_CHUNK_BYTES];
};

/* ---- roots.c ---- */

enum { MOAT_ROOTS_ENTRIES = 8192 };

struct moat_roots_state {
    uint64_t entries[MOAT_ROOTS_ENTRIES]; /* of pagemap, one a page */
};

/* ---- pages.c ---- */

struct moat_pages_state {
    struct moat_lock lock;
    _Atomic size_t page_bytes;
    size_t count;
    struct moat_range range[MOAT_PAGES_RANGES_MAX];
};

/* ---- output.c ---- */

struct moat_output_state {
    struct moat_file_identity standard_error;
    _Atomic size_t lost_bytes;
    char path[MOAT_PATH_BYTES];
};

struct moat_port_state {
    struct moat_unwind_state unwind;
    struct moat_rules_state rules;
    struct moat_module_state module;
    struct moat_symtab_state symtab;
    struct moat_pages_state pages;
    struct moat_roots_state roots;
    struct moat_output_state output;
    long forking_pid; /* between moat_port_before_fork and _after_fork */
};

#endif
