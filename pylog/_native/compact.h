/* Compaction's two passes over whole batches: collect the newest offset of each key, and filter.
 *
 * Pass 1 notes every keyed record of a range.  Pass 2 keeps a record when pass 1 did not come so
 * far, or when it is the newest of its key; a tombstone only until its batch's delete horizon.
 * What Kafka's cleaner leaves of a batch stays here too: offsets, producer and sequences, an empty
 * header where one is needed; a batch that loses nothing is copied byte for byte.
 *
 * Different on purpose, for nobody here knows how a foreign log's transactions ended: control
 * batches are copied; records of transactional batches never enter the map, so they take no other
 * record's place, and their tombstones stay.  They give way to newer ones like any other.
 *
 * Both passes hash a group of keys before they look up the first, so that the cache misses of a
 * group pass together.  Each checks the CRC of every batch that it looks into.  Of records that
 * pass 1 took in pass 2 need not even hash the keys: the offsets that the map holds are those that
 * stay.  So it must be given the same batches as pass 1 was, and after them what is behind.
 *
 * Knows: batches, records, the map.  Must not know: files, segments, codecs.  Allocates nothing,
 * takes no lock.
 * Source: Kafka Cleaner.scala, MemoryRecords.filterTo; KIP-534 (horizon).
 */
#ifndef PLOG_COMPACT_H
#define PLOG_COMPACT_H

#include "key_map.h"
#include "record.h"

/* Keys that are looked up together: more than a core's outstanding misses, few enough for the first
 * cache.  8 take 20 % longer, 64 no less (measured, Xeon of 2023). */
enum { PLOG_KEY_GROUP = 32 };

/* ---- both passes */

/* The whole batch at `data`, which lies in [minimum_offset, end_offset). */
static inline plog_status plog_compact_parse(const uint8_t *data, size_t len,
                                             int64_t minimum_offset, int64_t end_offset,
                                             plog_batch_header *header, size_t *needed)
{
    plog_status status = plog_batch_parse(data, len, header);
    if (status == PLOG_INCOMPLETE) {
        *needed = header->size;
    }
    /* The base offset is not under the CRC: one that is wrong could take another record's place. */
    if (status == PLOG_OK &&
        (header->base_offset < minimum_offset || plog_batch_next_offset(header) > end_offset)) {
        return PLOG_BAD_OFFSET;
    }
    return status;
}

/* ---- pass 1 */

typedef struct {
    plog_key_hash hash;
    int64_t offset;
} plog_pending_key;

typedef struct {
    plog_key_map map;
    int64_t next_offset; /* everything below it is in the map, from where the first call began */
    plog_pending_key pending[PLOG_KEY_GROUP]; /* hashed, not yet in the map */
    size_t pending_count;
} plog_collector;

/* Take whole batches in from `data`, records below `first_offset` left out.
 * END; INCOMPLETE: *needed bytes are the next batch; NO_ROOM: give the map more slots and go on at
 * *consumed, or plog_collector_stop; LIMIT: the batch at *consumed is compressed, so its records
 * must go through plog_collect_records; BAD_OFFSET also for a batch that does not lie behind the
 * one before and below end_offset; any other: damage. */
plog_status plog_collect_batches(plog_collector *collector, const uint8_t *data, size_t len,
                                 int64_t first_offset, int64_t end_offset, size_t *consumed,
                                 size_t *needed);

/* Take in a batch whose uncompressed records are `records`; its CRC has been checked, by
 * plog_collect_batches.  OK, NO_ROOM: again with more slots; BAD_COUNT, BAD_RECORD. */
plog_status plog_collect_records(plog_collector *collector, const plog_batch_header *header,
                                 const uint8_t *records, size_t len, int64_t first_offset);

/* After NO_ROOM: leave it at what there is; next_offset says how far the map reaches. */
void plog_collector_stop(plog_collector *collector);

/* ---- pass 2 */

typedef struct {
    const plog_key_map *map; /* borrowed */
    int64_t map_end;         /* records at or above it are kept */
    const uint8_t *marks;    /* borrowed: a bit for each offset in [marks_start, map_end), set for
                                  * the newest of a key; NULL: the map is asked for each record */
    int64_t marks_start;
    int64_t now;                 /* ms; -1: unknown, so no horizon is set or passed */
    int64_t horizon;             /* the one to set, when now is known */
    int64_t round_end;           /* the batch that ends here is kept, if need be without records */
    const int64_t *kept_offsets; /* borrowed, ascending: so are batches with these last offsets */
    size_t kept_count;
    bool knows_kept;     /* else the first batch of a producer with an id asks for them */
    int64_t next_offset; /* behind the last batch that was looked at */
    /* ---- counted */
    int64_t records_read, records_kept, emptied_batches, horizons_set;
    int64_t dropped_tombstones_end; /* behind the last one whose horizon was past; 0: none */
} plog_filter;

/* Filter whole batches of `data` into `out`.
 * END; INCOMPLETE: *needed bytes are the next batch; NO_ROOM: the next batch needs *needed bytes of
 * output, of which what was not written of `capacity` is not enough; LIMIT: the batch at *consumed
 * is compressed, so plog_filter_records has to decide; STALE: the batch at *consumed is a
 * producer's, and the kept offsets are not known; BAD_*: damage, also a batch that does not
 * lie behind the one before and below end_offset. */
plog_status plog_filter_batches(plog_filter *filter, const uint8_t *data, size_t len,
                                int64_t end_offset, uint8_t *out, size_t capacity, size_t *consumed,
                                size_t *written, size_t *needed);

typedef enum {
    PLOG_BATCH_COPIED,    /* as it is */
    PLOG_BATCH_REMOVED,   /* nothing is left of it */
    PLOG_BATCH_REWRITTEN, /* header and payload are new */
} plog_verdict;

/* What becomes of a batch. */
typedef struct {
    plog_verdict verdict;
    plog_batch_header header; /* of what is written; the size goes by uncompressed records */
} plog_outcome;

/* Output that the records of a batch may need while they are filtered.  BAD_COUNT: the count is
 * more than `len` bytes can hold. */
plog_status plog_filter_bound(const plog_batch_header *header, size_t len, size_t *size);

/* Filter the uncompressed records of one batch; its CRC has been checked, by plog_filter_batches.
 * REWRITTEN: `out` begins with the new payload, not compressed, of outcome->header.size less a
 * header's bytes.  `capacity` is at least plog_filter_bound.  OK, BAD_COUNT, BAD_RECORD. */
plog_status plog_filter_records(plog_filter *filter, const plog_batch_header *header,
                                const uint8_t *records, size_t len, uint8_t *out, size_t capacity,
                                plog_outcome *outcome);

#endif
