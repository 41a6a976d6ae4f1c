/* Open files: maps of them in memory, and bytes written to them.
 *
 * Knows: a descriptor, a position, a length.  Must not know what the bytes are, nor how long the
 * file is: whoever touches a byte of a map past its end is killed by SIGBUS, so callers keep a mark
 * of the end. */
#ifndef PLOG_MAPPING_H
#define PLOG_MAPPING_H

#include "base.h"

/* Map `len` (>= 1) bytes at `position`, a multiple of the page size; shared with all other maps.
 * PLOG_OK, or PLOG_SYSTEM with errno.  The map outlives the descriptor. */
plog_status plog_map(int fd, size_t len, int64_t position, bool writable, void **memory);
void plog_unmap(void *memory, size_t len);

/* Write `len` bytes; false when not all of them could be written, and some of them may be. */
bool plog_write(int fd, const uint8_t *data, size_t len, int64_t position);

/* Close a file; it is gone whatever close() answers. */
void plog_close(int fd);

#endif
