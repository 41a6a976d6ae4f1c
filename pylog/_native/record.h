/* One record of a v2 batch: measure, write, parse; walk a batch; turn it into columns.
 *
 *   varint length | int8 attributes | varlong timestamp delta | varint offset delta
 *   varint key length, key | varint value length, value            (-1: null)
 *   varint count of headers, each: varint length, name | varint length, value
 *
 * Knows: these bytes, uncompressed.  Must not know: how a batch was compressed or where it is kept.
 * Takes no lock, allocates nothing.
 */
#ifndef PLOG_RECORD_H
#define PLOG_RECORD_H

#include "batch.h"
#include "varint.h"

/* Seven fields of at least one byte each: what bounds a count of records that a header claims. */
enum { PLOG_RECORD_MIN_BYTES = 7 };

/* ---- writing; inline, because one append and one record of a thousand both feel a call. */

static inline size_t plog_field_size(const plog_bytes *field)
{
    return plog_varint_size(field->len) + (field->len > 0 ? (size_t)field->len : 0);
}

static inline uint8_t *plog_field_write(uint8_t *p, const plog_bytes *field)
{
    p = plog_varint_write(p, field->len);
    if (field->len > 0) {
        memcpy(p, field->data, (size_t)field->len);
        p += field->len;
    }
    return p;
}

/* Bytes behind the length field; size_t, because three fields of 2 GiB each can be asked for. */
static inline size_t plog_record_body_size(const plog_record_in *record, int64_t timestamp_delta,
                                           int32_t offset_delta)
{
    size_t size = 1 + plog_varint_size(timestamp_delta) + plog_varint_size(offset_delta) +
                  plog_field_size(&record->key) + plog_field_size(&record->value) +
                  plog_varint_size(record->header_count);
    for (int32_t i = 0; i < 2 * record->header_count; i++) {
        size += plog_field_size(&record->headers[i]);
    }
    return size;
}

static inline size_t plog_record_size(size_t body_size)
{
    return plog_varint_size((int64_t)body_size) + body_size;
}

/* Write and return the position behind; the caller has measured. */
static inline uint8_t *plog_record_write(uint8_t *p, const plog_record_in *record,
                                         int64_t timestamp_delta, int32_t offset_delta,
                                         size_t body_size)
{
    p = plog_varint_write(p, (int64_t)body_size);
    *p++ = 0;
    p = plog_varint_write(p, timestamp_delta);
    p = plog_varint_write(p, offset_delta);
    p = plog_field_write(p, &record->key);
    p = plog_field_write(p, &record->value);
    p = plog_varint_write(p, record->header_count);
    for (int32_t i = 0; i < 2 * record->header_count; i++) {
        p = plog_field_write(p, &record->headers[i]);
    }
    return p;
}

/* ---- reading */

typedef struct {
    int64_t offset, timestamp;
    plog_bytes key, value;
    const uint8_t *headers, *end; /* borrowed; headers lie in [headers, end) */
    int32_t header_count;
    int32_t size; /* bytes of the record as encoded, length field included */
} plog_record_view;

/* The records of one batch that are still to come. */
typedef struct {
    const uint8_t *p, *limit; /* borrowed */
    int64_t base_offset, base_timestamp, append_time;
    int32_t remaining, last_delta, last_offset_delta;
    bool is_log_append_time;
} plog_record_cursor;

/* `records` are the uncompressed bytes behind the header, which plog_batch_parse found sane. */
void plog_record_cursor_begin(plog_record_cursor *cursor, const plog_batch_header *header,
                              const uint8_t *records, size_t len);

/* OK; END after the last one; BAD_RECORD when a record breaks the format, leaves its batch, does
 * not ascend, or when bytes are left over behind the last one. */
plog_status plog_record_next(plog_record_cursor *cursor, plog_record_view *out);

/* Take one header off [*p, limit) of a record's headers.  A name is never null, a value may be. */
plog_status plog_record_header_parse(const uint8_t **p, const uint8_t *limit, plog_bytes *name,
                                     plog_bytes *value);

/* Columns in the caller's memory; `count` rows are filled of `capacity`. */
typedef struct {
    int64_t *offsets, *timestamps, *key_positions, *value_positions;
    int32_t *key_lengths, *value_lengths; /* -1: null, then the position means nothing */
    size_t count, capacity;
} plog_columns;

/* Append the rows of one batch whose offset lies in [first_offset, end_offset).  Positions count
 * from `origin`, which stands at or before the cursor.  OK, NO_ROOM or BAD_RECORD. */
plog_status plog_columns_append(plog_columns *columns, plog_record_cursor *cursor,
                                const uint8_t *origin, int64_t first_offset, int64_t end_offset);

#endif
