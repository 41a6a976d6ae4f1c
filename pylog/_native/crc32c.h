/* CRC-32C (Castagnoli), chosen for the processor at run time: SSE4.2, ARMv8 or tables.
 *
 * Knows: bytes.  Must not know: batches.  After plog_crc32c_initialize every function may run on
 * any thread.
 */
#ifndef PLOG_CRC32C_H
#define PLOG_CRC32C_H

#include "base.h"

/* Build the tables and look at the processor; further calls do nothing. */
void plog_crc32c_initialize(void);

/* Continue a CRC (0 to begin) over `len` bytes. */
uint32_t plog_crc32c(uint32_t crc, const uint8_t *data, size_t len);

/* "sse4.2", "armv8" or "table". */
const char *plog_crc32c_backend(void);

#endif
