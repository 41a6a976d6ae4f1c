/* Kafka's record batch, version 2: parse, check, stamp, measure and encode in the caller's memory.
 *
 *   position  size  field
 *          0     8  base offset             } stamped when the batch is placed,
 *          8     4  length after this field } outside the CRC
 *         12     4  leader epoch            }
 *         16     1  magic, 2                }
 *         17     4  CRC-32C of everything that follows
 *         21     2  attributes: codec 0-2, timestamp type 3, transactional 4, control 5, horizon 6
 *         23     4  last offset delta
 *         27     8  base timestamp
 *         35     8  max timestamp
 *         43     8  producer id
 *         51     2  producer epoch
 *         53     4  base sequence
 *         57     4  count of records
 *         61        the records, or one compressed blob that holds them
 *
 * Knows: these bytes.  Must not know: segments, indexes, codecs.  Takes no lock, allocates nothing;
 * every function may run on many threads at once over memory that nobody writes.
 */
#ifndef PLOG_BATCH_H
#define PLOG_BATCH_H

#include "base.h"

enum {
    PLOG_BATCH_LENGTH_POSITION = 8,
    PLOG_BATCH_EPOCH_POSITION = PLOG_BATCH_LENGTH_POSITION + 4,
    PLOG_BATCH_MAGIC_POSITION = PLOG_BATCH_EPOCH_POSITION + 4,
    PLOG_BATCH_CRC_POSITION = PLOG_BATCH_MAGIC_POSITION + 1,
    PLOG_BATCH_ATTRIBUTES_POSITION = PLOG_BATCH_CRC_POSITION + 4,
    PLOG_BATCH_LAST_DELTA_POSITION = PLOG_BATCH_ATTRIBUTES_POSITION + 2,
    PLOG_BATCH_BASE_TIMESTAMP_POSITION = PLOG_BATCH_LAST_DELTA_POSITION + 4,
    PLOG_BATCH_MAX_TIMESTAMP_POSITION = PLOG_BATCH_BASE_TIMESTAMP_POSITION + 8,
    PLOG_BATCH_PRODUCER_ID_POSITION = PLOG_BATCH_MAX_TIMESTAMP_POSITION + 8,
    PLOG_BATCH_PRODUCER_EPOCH_POSITION = PLOG_BATCH_PRODUCER_ID_POSITION + 8,
    PLOG_BATCH_SEQUENCE_POSITION = PLOG_BATCH_PRODUCER_EPOCH_POSITION + 2,
    PLOG_BATCH_COUNT_POSITION = PLOG_BATCH_SEQUENCE_POSITION + 4,
    PLOG_BATCH_HEADER_BYTES = PLOG_BATCH_COUNT_POSITION + 4,
    PLOG_BATCH_LENGTH_END = PLOG_BATCH_LENGTH_POSITION + 4,
};
static_assert(PLOG_BATCH_HEADER_BYTES == 61, "Kafka's header of a v2 batch has 61 bytes");

enum {
    PLOG_ATTRIBUTE_CODEC = 0x07,
    PLOG_ATTRIBUTE_LOG_APPEND_TIME = 0x08,
    PLOG_ATTRIBUTE_TRANSACTIONAL = 0x10,
    PLOG_ATTRIBUTE_CONTROL = 0x20,
    PLOG_ATTRIBUTE_HORIZON = 0x40,
};

typedef struct {
    int64_t base_offset;
    size_t size; /* of the whole batch, header included */
    int32_t leader_epoch;
    uint8_t magic;
    uint32_t crc;
    int16_t attributes;
    int32_t last_offset_delta;
    int64_t base_timestamp, max_timestamp, producer_id;
    int16_t producer_epoch;
    int32_t base_sequence, count;
} plog_batch_header;

/* The timestamps that a topic takes of its callers, both ends included; never below 0. */
typedef struct {
    int64_t earliest, latest;
} plog_time_range;

#define PLOG_ANY_TIME ((plog_time_range){0, INT64_MAX})

/* Those at most so many ms before and after `now`, all of which are >= 0. */
static inline plog_time_range plog_time_range_around(int64_t now, int64_t before_ms,
                                                     int64_t after_ms)
{
    return (plog_time_range){.earliest = before_ms < now ? now - before_ms : 0,
                             .latest = after_ms < INT64_MAX - now ? now + after_ms : INT64_MAX};
}

static inline bool plog_time_is_in(plog_time_range range, int64_t timestamp)
{
    return timestamp >= range.earliest && timestamp <= range.latest;
}

/* One record to be encoded.  Timestamps are >= 0; the caller has checked. */
typedef struct {
    plog_bytes key, value;
    const plog_bytes *headers; /* borrowed: key, value, key, value ... */
    int32_t header_count;      /* of pairs */
    int32_t body_size;         /* as plog_batch_measure found it, for plog_batch_encode */
    int64_t timestamp;
} plog_record_in;

/* Parse the header at `data`; the CRC is not looked at.
 * OK: the header is sane and the whole batch lies inside `len`.  INCOMPLETE: what is there is
 * plausible; out->size is the size of the whole batch, or the header's when even that is cut.
 * ZEROS, BAD_LENGTH, BAD_MAGIC, BAD_COUNT, BAD_OFFSET: no batch begins here.  `out` holds
 * the fields when the whole header was there. */
plog_status plog_batch_parse(const uint8_t *data, size_t len, plog_batch_header *out);

/* OK or BAD_CRC.  `header` came out of plog_batch_parse(data) with OK. */
plog_status plog_batch_check_crc(const uint8_t *data, const plog_batch_header *header);

/* Write where the batch stands; these two fields lie outside Kafka's CRC. */
void plog_batch_stamp(uint8_t *batch, int64_t base_offset, int32_t leader_epoch);

/* Write a whole header of header->size; the length and magic 2 are written, the CRC is computed
 * over the payload that already stands behind the header. */
void plog_batch_seal(uint8_t *batch, const plog_batch_header *header);

static inline bool plog_batch_is_control(const plog_batch_header *header)
{
    return (header->attributes & PLOG_ATTRIBUTE_CONTROL) != 0;
}

static inline bool plog_batch_is_transactional(const plog_batch_header *header)
{
    return (header->attributes & PLOG_ATTRIBUTE_TRANSACTIONAL) != 0;
}

/* A batch that compaction emptied has no payload, whatever its codec. */
static inline bool plog_batch_is_compressed(const plog_batch_header *header)
{
    return (header->attributes & PLOG_ATTRIBUTE_CODEC) != 0 &&
           header->size > PLOG_BATCH_HEADER_BYTES;
}

/* The offset after the batch.  plog_batch_parse has checked that it does not overflow. */
static inline int64_t plog_batch_next_offset(const plog_batch_header *header)
{
    return header->base_offset + header->last_offset_delta + 1;
}

/* The exact size of a batch with this one record; may be larger than any batch can be. */
size_t plog_record_batch_bound(const plog_record_in *record);

/* A batch of one record is made in three steps.  Its timestamp stands in the header only, so the
 * clock is best asked between the second and the third: the bytes that the CRC then reads have
 * settled, which a processor waits for otherwise (12 ns of 150, measured). */
typedef struct {
    size_t body_size; /* of the record */
    size_t size;      /* of the batch; may be larger than any batch can be */
} plog_single;

plog_single plog_single_measure(const plog_record_in *record);
/* Write the record behind the place of the header. */
void plog_single_write(const plog_single *single, const plog_record_in *record, uint8_t *out);
/* Write the header: base offset 0, leader epoch -1, no producer, CRC filled in. */
void plog_single_seal(const plog_single *single, int64_t timestamp, int16_t attributes,
                      uint8_t *out);

/* Find how many of the first `count` (>= 1) records fit into one batch of at most `max_size` bytes.
 * OK with fit >= 1 and the exact size; TOO_LARGE, with its size, when the first does not fit.
 * Sets the `body_size` of those that fit, and of the first. */
plog_status plog_batch_measure(plog_record_in *records, size_t count, size_t max_size, size_t *fit,
                               size_t *size);

/* Encode all `count` records as one batch at base offset `base_offset`, which plog_batch_measure
 * found to need `size` bytes.  NO_ROOM when it does not come out at exactly that size. */
plog_status plog_batch_encode(const plog_record_in *records, size_t count, int64_t base_offset,
                              int16_t attributes, uint8_t *out, size_t size);

/* What fits at once of the first `count` (>= 1) records, each of which fits into a batch alone: as
 * few batches of at most `max_size` bytes as possible, together at most `max_total`, which is not
 * less than max_size.  Returns the records, at least one, and the exact size of their batches. */
size_t plog_batches_measure(plog_record_in *records, size_t count, size_t max_size,
                            size_t max_total, size_t *size);

/* Encode as whole batches the `count` records that plog_batches_measure found to fit into `size`
 * bytes with the same limits.  Their base offsets count from 0.  NO_ROOM as plog_batch_encode. */
plog_status plog_batches_encode(plog_record_in *records, size_t count, size_t max_size,
                                size_t max_total, int16_t attributes, uint8_t *out, size_t size);

#endif
