/* Where text for the user goes: standard error as it was at start, or a file.
 * May include: the C library's freestanding headers only.
 *
 * Programs close descriptor 2 and open a database in its place. So standard error is identified once, by device and
 * inode, and descriptor 2 is only written to while it still is that file; no copy of it is kept, since a copy would
 * hold a pipe open that someone waits on. Otherwise the text is appended to the file named by the `report` option, or,
 * without one, to `moat.PID.report` in the current directory. */
#ifndef MOAT_PORT_OUTPUT_H
#define MOAT_PORT_OUTPUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Remembers what standard error is. Call once, as early as possible. A descriptor 2 that is closed counts as gone. */
void moat_output_init(void);

/* Sends all text to a file instead, appending. Takes a path in which %p stands for the process id (%% for %); "" undoes
 * it. Gives:   0, or the error number when the file cannot be opened for writing (it is created to find out); the path
 * is kept in any case. Relative paths are made absolute now, so that a later chdir does not move the file. */
int moat_output_report_to(const char *path);

/* Writes text whole: interrupted and partial writes are continued, a full non-blocking pipe is waited for up to 2 s, a
 * broken pipe raises no signal.
 * Fails:   silently, when neither standard error nor the file takes it; moat_output_lost_bytes counts.
 * Context: any, signal handlers included; no lock, so one text should come in one call. errno is kept. */
void moat_output_write(const char *text, size_t length_bytes);

/* The same to a descriptor of the caller's: true when all of it was written. */
bool moat_output_write_to(int descriptor, const char *text, size_t length_bytes);

/* Whether the text goes to a terminal (standard error is one, and unchanged). */
bool moat_output_is_terminal(void);

size_t moat_output_lost_bytes(void);

#endif
