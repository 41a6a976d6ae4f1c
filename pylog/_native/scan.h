/* Walks over whole batches: the read path's one pass, recovery's scan, the search for the next
 * batch behind damage.
 *
 * Knows: batches in memory and what a segment's indexes must hold.  Must not know: files.
 * Takes no lock, allocates nothing: a scan that runs out of room for entries says so and goes on
 * when it is called again with more.
 */
#ifndef PLOG_SCAN_H
#define PLOG_SCAN_H

#include "batch.h"
#include "sparse_index.h"

/* ---- reading */

typedef struct {
    size_t start;          /* where the walk begins; a batch begins there */
    int64_t target_offset; /* batches that end at or before it are skipped, unchecked */
    int64_t limit_offset;  /* stop before a batch that begins at or after it */
    size_t max_bytes;      /* stop when so many are taken; one batch always is */
    int64_t next_offset;   /* the offset expected at start, -1: unknown */
    int64_t entry_offset;  /* last offset of the first batch as the index has it, -1: unknown */
    bool is_strict;        /* offsets are dense; else, after compaction, they only ascend */
} plog_check_request;

typedef struct {
    size_t first, end;   /* positions of the batches taken; end is also where the walk stopped */
    int64_t next_offset; /* after the last batch taken or skipped */
    size_t needed;       /* INCOMPLETE: bytes of the cut batch from its start, as far as known */
} plog_check_result;

/* END, INCOMPLETE, ZEROS, LIMIT, or BAD_* with the damage at out->end.  The CRC of each batch taken
 * is good; a batch skipped is trusted only to lead to the next one. */
plog_status plog_check_batches(const uint8_t *data, size_t len, const plog_check_request *request,
                               plog_check_result *out);

/* ---- recovery */

/* Entries that a scan emits into memory of its caller, `capacity` in bytes. */
typedef struct {
    uint8_t *entries; /* borrowed */
    size_t size, capacity;
} plog_entry_buffer;

/* An entry of scanner.epochs, in native byte order: it never goes into a file. */
typedef struct {
    int64_t first_offset;
    int32_t leader_epoch;
} plog_epoch_entry;

typedef struct {
    int64_t base_offset, next_offset, index_interval_bytes;
    size_t position; /* in the file */
    bool is_strict;
    int64_t batches, records;
    int64_t first_timestamp; /* max timestamp of the first batch, -1: none */
    int32_t leader_epoch;    /* of the last batch, -1: none */
    plog_index_progress progress;
    plog_entry_buffer index, timeindex, epochs;
} plog_scanner;

void plog_scanner_begin(plog_scanner *scanner, int64_t base_offset, int64_t next_offset,
                        size_t position, int64_t index_interval_bytes, bool is_strict);

/* Consume whole batches from the `len` bytes that stand at scanner->position in the file.
 * NO_ROOM: an entry buffer may be too small for the next batch; give more and call again with what
 * is left.  Otherwise the reason why the scan stopped.  *consumed: bytes of good batches. */
plog_status plog_scanner_feed(plog_scanner *scanner, const uint8_t *data, size_t len,
                              size_t *consumed);

/* Add the final time entry, as Kafka does when a segment rolls or closes.  OK or NO_ROOM. */
plog_status plog_scanner_seal(plog_scanner *scanner);

/* ---- behind damage */

typedef struct {
    size_t start;                           /* where the search begins */
    size_t position;                        /* of the data in its file */
    int64_t minimum_offset, maximum_offset; /* of the base offset: [minimum, maximum) */
    int64_t known_position, known_offset;   /* an end of a batch that is known, -1: none */
    bool is_strict; /* offsets are dense; else, after compaction, they only ascend */
} plog_find_request;

/* The position in [start, len) of the next batch with a good CRC and a credible base offset.  The
 * CRC leaves out the base offset, so a sector that was lost may have taken that and nothing else:
 * believed is one that leads to the end that is known, or that the next batch follows, and at the
 * end of the data, or before zeros, one that shares its sector with the batch's magic byte.
 * OK or END: there is none.  At most 64 x len bytes go through the CRC, whatever the bytes are. */
plog_status plog_find_batch(const uint8_t *data, size_t len, const plog_find_request *request,
                            size_t *out);

#endif
