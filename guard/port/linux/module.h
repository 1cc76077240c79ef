/* Modules: which program or shared object an address belongs to, remembered beyond its unloading.
 * May include: guard/report/report.h and the C library's freestanding headers. */
#ifndef MOAT_PORT_MODULE_H
#define MOAT_PORT_MODULE_H

#include "guard/report/report.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The most modules remembered, unloaded ones included. */
#define MOAT_MODULES_MAX 4096

/* The module that holds an address now; recorded when it is first seen.
 * Takes:   any address, in code or data.
 * Gives:   its index in a table that only grows, or MOAT_NO_MODULE. A module loaded where another one was gets an index
 *          of its own. An index stays valid for the life of the process.
 * Fails:   MOAT_NO_MODULE too when the table is full; moat_module_lost counts those.
 * Cost:    some 20 ns for a module seen before; the first time it may read /proc/self/maps (some 100 us).
 * Context: any thread, lock-free on glibc 2.35 and later, callable from signal handlers; errno is kept. On other C
 *          libraries it takes the loader's lock: then call it without a lock of Moat's held. */
uint16_t moat_module_of(uintptr_t address);

/* What is known of a module. Takes an index from moat_module_of; for any other, *out is all zero.
 * Context: any, signal handlers included. */
void moat_module_get(uint16_t index, struct moat_module *out);

/* The same without copying the path: NULL and zero for an index that is not one. The text lives as long as the process.
 */
const char *moat_module_path(uint16_t index);
uint64_t moat_module_bias(uint16_t index);

/* Whether the bug id skips frames of it: the C library and its parts, the loader, libstdc++, libc++, libgcc_s. */
bool moat_module_is_libc(uint16_t index);

/* Whether an address lies in Moat's own code.
 * In the preload library that is the library's range. Linked statically, Moat's code must be in a section named
 * `moat_text` (the archive's objects are made with it, see the Makefile); without it the answer is always false.
 * Context: any. */
bool moat_module_is_own(uintptr_t pc);

/* Whether an address lies in the dynamic loader (false in static programs). Context: any. */
bool moat_module_is_loader(uintptr_t pc);

/* Where the loader is, to tell its calls of malloc and free by; 0 and 0 in static programs. Context: any. */
void moat_module_get_loader(uintptr_t *start, uintptr_t *end);

/* A module's extent and its .eh_frame_hdr, NULL when it has none. */
struct moat_module_table {
    uintptr_t start, end;
    const void *eh_frame_header;
};

/* The table to unwind an address of code by, as the loader has it now.
 * Gives:   false when no module holds the address.
 * Context: as moat_module_of; nothing is remembered. */
bool moat_module_find_table(uintptr_t address, struct moat_module_table *table);

/* How many modules were seen in all, and how many addresses found no room in the table. */
size_t moat_module_count(void);
size_t moat_module_lost(void);

/* The path of the program, and its arguments joined by single blanks, cut with "..." when too long.
 * Takes:   room for `most` >= 4 bytes.
 * Gives:   the length without the NUL; 0 when it cannot be told. */
size_t moat_program_path(char *path, size_t most);
size_t moat_program_command(char *command, size_t most);

#endif
