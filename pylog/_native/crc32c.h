/* CRC-32C (Castagnoli), chosen for the processor at run time: AVX-512, SSE4.2, ARMv8
 * or tables.
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

/* The ways that this processor has; the last one is used, all are for tests.  Their names: "table",
 * "sse4.2", "avx512", "armv8". */
size_t plog_crc32c_way_count(void);
const char *plog_crc32c_way_name(size_t way);
uint32_t plog_crc32c_by_way(size_t way, uint32_t crc, const uint8_t *data, size_t len);

#endif
