/* Where the leak scan starts: every writable byte of the process that is not Moat's own.
 * May include: guard/port/linux/pages.h and the C library's freestanding headers. */
#ifndef MOAT_PORT_ROOTS_H
#define MOAT_PORT_ROOTS_H

#include "guard/port/linux/pages.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* How many threads the process has; 0 when it cannot be told. Context: any; errno is kept. */
size_t moat_thread_count(void);

/* Shows every range of memory that may hold the program's pointers: writable data of modules, brk, stacks, thread-local
 * storage, its own mappings.
 * Takes:   exclude: ranges left out, sorted by address and not overlapping (moat_pages_own plus the entry layer's
 * state; `struct moat_port_state` is left out by itself); stack_pointer: what lies below it on the main stack is left
 * out (0: nothing is). Gives:   true when every mapping was shown. A range shown can be read without a fault as long as
 * no other thread unmaps it: pages of files behind their end and of devices are left out, as are pages never touched.
 * Fails:   false when /proc cannot be read: then a leak check cannot be run.
 * Cost:    one walk over the map; 5 KiB of stack. Mappings are read by `root` in place.
 * Context: the only thread, no lock needed; errno is kept. `root` must not map or unmap memory that is shown. */
bool moat_roots_each(void (*root)(void *context, uintptr_t start, size_t bytes), void *context,
                     const struct moat_range_list *exclude, uintptr_t stack_pointer);

/* Whether `bytes` bytes at an address can be read without a fault, asked of the kernel. Cost: a system call a page. */
bool moat_memory_is_readable(uintptr_t address, size_t bytes);

/* Copies memory that may be unmapped or unreadable.
 * Gives:   how many bytes were copied before the first that could not be read. Context: any; errno is kept. */
size_t moat_memory_copy(void *to, uintptr_t from, size_t bytes);

#endif
