/* The spool: a file through which processes hand finished reports to the `moat run` that started them.
 * May include: freestanding headers.
 *
 *   offset 0     8 bytes   "MOATSPL1"
 *          8     u32       version, 1
 *          12    u8        open: 1 while the reader takes records; 0 before it leaves
 *          13    u8        locked: the reader holds an exclusive flock() as long as it lives
 *          16    u64       taken: every byte before this file offset was read, and what it said is printed
 *          24    u64       seen: every byte before this file offset was read, and will be printed; all ones while the
 *                          reader is at work: it looks for more before it waits again
 *          32    i64       the reader's process id
 *          ...   zeros up to MOAT_SPOOL_HEADER_BYTES
 *   then         records (moat_report_encode), one after another
 *
 * All integers are little-endian. Only the reader writes the header. A writer appends a record with one O_APPEND write,
 * so records of processes that write at the same time never mix. It then waits until the reader has printed it, for
 * what comes next may be abort(). A reader that has seen a record is given time to name its frames, which takes seconds
 * in a large program; one that has not seen it is given up after MOAT_SPOOL_SEEN_WAIT_MS. The lock tells at once that
 * the reader is dead, also to a process in another pid namespace, where its id means nothing. */
#ifndef MOAT_GUARD_REPORT_SPOOL_FILE_H
#define MOAT_GUARD_REPORT_SPOOL_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MOAT_SPOOL_MAGIC "MOATSPL1"
#define MOAT_SPOOL_MAGIC_BYTES 8u
#define MOAT_SPOOL_VERSION 1u
#define MOAT_SPOOL_HEADER_BYTES 4096u
#define MOAT_SPOOL_VERSION_AT 8u
#define MOAT_SPOOL_OPEN_AT 12u
#define MOAT_SPOOL_LOCKED_AT 13u
#define MOAT_SPOOL_TAKEN_AT 16u
#define MOAT_SPOOL_SEEN_AT 24u
#define MOAT_SPOOL_READER_AT 32u
#define MOAT_SPOOL_FIELDS_BYTES 40u /* all fields lie in the header's first bytes */

#define MOAT_SPOOL_SEEN_WAIT_MS 2000
#define MOAT_SPOOL_TAKEN_WAIT_MS 60000

/* Appends a record to the spool.
 * Takes:   the spool's path; a record of at most MOAT_RECORD_BYTES_MAX; whether to wait until the reader has printed it
 *          (true before anything that may end the process).
 * Gives:   true when the reader has it (wait_until_taken) or will read it (else).
 * Fails:   false when the caller should print the report itself: no such spool, not writable, the file size limit is
 *          near, the reader is gone or does not answer.
 * Cost:    with waiting, up to MOAT_SPOOL_SEEN_WAIT_MS, or MOAT_SPOOL_TAKEN_WAIT_MS once the reader was seen working.
 * Context: any, a signal handler too: system calls only, none of them a cancellation point; errno is kept. */
bool moat_spool_append(const char *path, const unsigned char *record, size_t length, bool wait_until_taken);

#endif
