/* Names for addresses from the symbol tables of the modules themselves, inside the process and without allocating.
 * May include: guard/report/report.h and the C library's freestanding headers. */
#ifndef MOAT_PORT_SYMTAB_H
#define MOAT_PORT_SYMTAB_H

#include "guard/report/report.h"

/* The symboliser to use where no `moat run` names the lines: function and offset, no file, no line.
 * A module's file is read afresh, and only believed when its build id is the one that was loaded. A damaged file gives
 * no name, nothing worse.
 * Context: one caller at a time (reports are written one at a time); signal handlers allowed; errno is kept. */
const struct moat_symboliser *moat_symtab_symboliser(void);

/* The name of the variable or function that covers an address, with offset, as text.
 * Takes:   address as loaded; module as given by moat_module_get.
 * Gives:   the length of the text in `name`, 0 when no symbol covers it.
 * Context: as above. */
size_t moat_symtab_name_data(uintptr_t address, const struct moat_module *module, char *name, size_t name_bytes);

#endif
