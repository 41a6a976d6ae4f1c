/* Reading records out of bytes that may come from an enemy: every length is compared with what
 * remains before it is used, every sum that could leave its type is checked.
 */
#include "record.h"

static plog_status read_field(const uint8_t **p, const uint8_t *limit, plog_bytes *out)
{
    int32_t len;
    if (plog_varint_read(p, limit, &len) != PLOG_OK || len < -1 || len > limit - *p) {
        return PLOG_BAD_RECORD;
    }
    out->data = *p;
    out->len = len;
    *p += len > 0 ? len : 0;
    return PLOG_OK;
}

plog_status plog_record_header_parse(const uint8_t **p, const uint8_t *limit, plog_bytes *name,
                                     plog_bytes *value)
{
    if (read_field(p, limit, name) != PLOG_OK || name->len < 0) {
        return PLOG_BAD_RECORD;
    }
    return read_field(p, limit, value);
}

static plog_status check_headers(const plog_record_view *view)
{
    const uint8_t *p = view->headers;
    plog_bytes name, value;
    for (int32_t i = 0; i < view->header_count; i++) {
        if (plog_record_header_parse(&p, view->end, &name, &value) != PLOG_OK) {
            return PLOG_BAD_RECORD;
        }
    }
    return p == view->end ? PLOG_OK : PLOG_BAD_RECORD;
}

void plog_record_cursor_begin(plog_record_cursor *cursor, const plog_batch_header *header,
                              const uint8_t *records, size_t len)
{
    *cursor = (plog_record_cursor){
        .p = records,
        .limit = records + len,
        .base_offset = header->base_offset,
        .base_timestamp = header->base_timestamp,
        .append_time = header->max_timestamp,
        .remaining = header->count,
        .last_delta = -1,
        .last_offset_delta = header->last_offset_delta,
        .is_log_append_time = (header->attributes & PLOG_ATTRIBUTE_LOG_APPEND_TIME) != 0,
    };
}

static inline plog_status place(plog_record_cursor *cursor, int32_t offset_delta,
                                int64_t timestamp_delta, plog_record_view *out)
{
    if (offset_delta <= cursor->last_delta || offset_delta > cursor->last_offset_delta) {
        return PLOG_BAD_RECORD;
    }
    /* No overflow: plog_batch_parse has checked the offset of the last record. */
    out->offset = cursor->base_offset + offset_delta;
    if (cursor->is_log_append_time) {
        out->timestamp = cursor->append_time;
    } else if (__builtin_add_overflow(cursor->base_timestamp, timestamp_delta, &out->timestamp)) {
        return PLOG_BAD_RECORD;
    }
    cursor->last_delta = offset_delta;
    return PLOG_OK;
}

static inline plog_status next_record(plog_record_cursor *cursor, plog_record_view *out)
{
    const uint8_t *p = cursor->p;
    int32_t body_size, offset_delta;
    int64_t timestamp_delta;
    if (cursor->remaining == 0) {
        return p == cursor->limit ? PLOG_END : PLOG_BAD_RECORD;
    }
    if (plog_varint_read(&p, cursor->limit, &body_size) != PLOG_OK || body_size < 1 ||
        body_size > cursor->limit - p) {
        return PLOG_BAD_RECORD;
    }
    out->end = p + body_size;
    out->size = (int32_t)(out->end - cursor->p);
    p++; /* attributes of a record: none are defined, and Kafka ignores them */
    if (plog_varlong_read(&p, out->end, &timestamp_delta) != PLOG_OK ||
        plog_varint_read(&p, out->end, &offset_delta) != PLOG_OK ||
        read_field(&p, out->end, &out->key) != PLOG_OK ||
        read_field(&p, out->end, &out->value) != PLOG_OK ||
        plog_varint_read(&p, out->end, &out->header_count) != PLOG_OK || out->header_count < 0) {
        return PLOG_BAD_RECORD;
    }
    out->headers = p;
    if (check_headers(out) != PLOG_OK) {
        return PLOG_BAD_RECORD;
    }
    cursor->p = out->end;
    cursor->remaining--;
    return place(cursor, offset_delta, timestamp_delta, out);
}

/* Bytes that the numbers of a usual record may take up to its key: four of two bytes, and the
 * attributes; a batch that has fewer left is read with a check for every byte. */
enum { USUAL_PREFIX_BYTES = 9 };

/* A varint of one or two bytes, which the caller knows to be there; false when it is longer. */
static inline bool read_short_varint(const uint8_t **p, int32_t *out)
{
    const uint8_t *at = *p;
    uint32_t zigzag = at[0];
    *p = at + 1;
    if (zigzag >= 0x80) {
        if (at[1] >= 0x80) {
            return false;
        }
        zigzag = (zigzag & 0x7f) | (uint32_t)at[1] << 7;
        *p = at + 2;
    }
    *out = (int32_t)(zigzag >> 1) ^ -(int32_t)(zigzag & 1);
    return true;
}

/* Read the usual record, short numbers and no headers, with one check of bounds for several bytes.
 * False, with the cursor where it was, for any other: next_record decides what that is. */
static inline bool next_usual_record(plog_record_cursor *cursor, plog_record_view *out)
{
    const uint8_t *p = cursor->p;
    int32_t body_size, timestamp_delta, offset_delta;
    if (cursor->remaining == 0 || cursor->limit - p < USUAL_PREFIX_BYTES ||
        !read_short_varint(&p, &body_size) || body_size < USUAL_PREFIX_BYTES ||
        body_size > cursor->limit - p) {
        return false;
    }
    const uint8_t *end = p + body_size;
    p++;
    if (!read_short_varint(&p, &timestamp_delta) || !read_short_varint(&p, &offset_delta) ||
        !read_short_varint(&p, &out->key.len) || out->key.len < -1 ||
        out->key.len > end - p - 3 /* a length of two bytes and the count of headers */) {
        return false;
    }
    out->key.data = p;
    p += out->key.len > 0 ? out->key.len : 0;
    if (!read_short_varint(&p, &out->value.len) || out->value.len < 0 ||
        out->value.len != end - p - 1 || end[-1] != 0) {
        return false;
    }
    out->value.data = p;
    out->size = (int32_t)(end - cursor->p);
    out->headers = end;
    out->header_count = 0;
    out->end = end;
    if (place(cursor, offset_delta, timestamp_delta, out) != PLOG_OK) {
        return false;
    }
    cursor->p = end;
    cursor->remaining--;
    return true;
}

static inline plog_status usual_or_next(plog_record_cursor *cursor, plog_record_view *out)
{
    return next_usual_record(cursor, out) ? PLOG_OK : next_record(cursor, out);
}

plog_status plog_record_next(plog_record_cursor *cursor, plog_record_view *out)
{
    return usual_or_next(cursor, out);
}

plog_status plog_columns_append(plog_columns *columns, plog_record_cursor *cursor,
                                const uint8_t *origin, int64_t first_offset, int64_t end_offset)
{
    plog_record_view view;
    plog_status status;
    while ((status = usual_or_next(cursor, &view)) == PLOG_OK) {
        if (view.offset < first_offset || view.offset >= end_offset) {
            continue;
        }
        size_t row = columns->count;
        if (row >= columns->capacity) {
            return PLOG_NO_ROOM;
        }
        columns->offsets[row] = view.offset;
        columns->timestamps[row] = view.timestamp;
        columns->key_positions[row] = view.key.data - origin;
        columns->key_lengths[row] = view.key.len;
        columns->value_positions[row] = view.value.data - origin;
        columns->value_lengths[row] = view.value.len;
        columns->count = row + 1;
    }
    return status == PLOG_END ? PLOG_OK : status;
}
