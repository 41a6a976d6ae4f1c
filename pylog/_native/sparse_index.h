/* Kafka's two sparse indexes of a segment: packed big-endian entries, searched for a lower bound.
 *
 *   .index      int32 offset - segment base | int32 position of the batch
 *   .timeindex  int64 timestamp             | int32 offset - segment base
 *
 * Knows: entries in memory, and when one is due.  Must not know: files or their growth.
 * A search reads only whole entries; whoever appends publishes the count after the entry.
 */
#ifndef PLOG_SPARSE_INDEX_H
#define PLOG_SPARSE_INDEX_H

#include "base.h"

enum { PLOG_OFFSET_ENTRY_BYTES = 8, PLOG_TIME_ENTRY_BYTES = 12 };

/* Index of the greatest of `count` entries whose relative offset is <= target, -1 if there is none.
 * O(log count).  Source: Kafka OffsetIndex.lookup, without its warm section. */
int64_t plog_lookup_offset(const uint8_t *entries, size_t count, int64_t target);

/* The same for the time index: greatest entry whose timestamp is <= target. */
int64_t plog_lookup_timestamp(const uint8_t *entries, size_t count, int64_t target);

static inline void plog_offset_entry_write(uint8_t *entry, int32_t relative_offset,
                                           int32_t position)
{
    plog_store_i32(entry, relative_offset);
    plog_store_i32(entry + 4, position);
}

static inline void plog_time_entry_write(uint8_t *entry, int64_t timestamp, int32_t relative_offset)
{
    plog_store_i64(entry, timestamp);
    plog_store_i32(entry + 8, relative_offset);
}

/* What decides about the next entries.  Appending and recovery both use it, so that a rebuilt index
 * equals the one that was lost. */
typedef struct {
    int64_t bytes_since_entry;
    int64_t max_timestamp, max_timestamp_offset; /* -1: no batch yet */
    int64_t last_time_entry;                     /* timestamp of the newest time entry, -1: none */
} plog_index_progress;

/* Take a batch's timestamp into account; to be called before plog_index_is_due.  The earliest batch
 * wins ties, and the offset is its last one.  Source: Kafka LogSegment.append. */
static inline void plog_index_see_batch(plog_index_progress *progress, int64_t max_timestamp,
                                        int64_t last_offset)
{
    if (max_timestamp > progress->max_timestamp) {
        progress->max_timestamp = max_timestamp;
        progress->max_timestamp_offset = last_offset;
    }
}

/* Whether a batch gets an offset entry: decided before its own bytes are counted, strictly more. */
static inline bool plog_index_is_due(const plog_index_progress *progress, int64_t interval_bytes)
{
    return progress->bytes_since_entry > interval_bytes;
}

/* Whether a time entry is due with the offset entry, or when the segment is sealed. */
static inline bool plog_time_index_is_due(const plog_index_progress *progress)
{
    return progress->max_timestamp > progress->last_time_entry;
}

#endif
