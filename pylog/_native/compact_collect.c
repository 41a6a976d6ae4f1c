/* Pass 1 of compaction: see compact.h. */
#include "compact.h"

static plog_status flush(plog_collector *collector)
{
    plog_status status = PLOG_OK;
    size_t done = 0;
    while (done < collector->pending_count) {
        const plog_pending_key *pending = &collector->pending[done];
        status = plog_key_map_put(&collector->map, &pending->hash, pending->offset);
        if (status != PLOG_OK) {
            break;
        }
        done++;
    }
    collector->pending_count -= done;
    memmove(collector->pending, collector->pending + done,
            collector->pending_count * sizeof *collector->pending);
    return status;
}

/* To do so again with the same records changes nothing. */
static plog_status collect(plog_collector *collector, const plog_batch_header *header,
                           const uint8_t *records, size_t len, int64_t first_offset)
{
    plog_record_cursor cursor;
    plog_record_view view;
    plog_status status;
    plog_record_cursor_begin(&cursor, header, records, len);
    while ((status = plog_record_next(&cursor, &view)) == PLOG_OK) {
        if (view.key.len < 0 || view.offset < first_offset) {
            continue;
        }
        if (collector->pending_count == PLOG_KEY_GROUP) {
            status = flush(collector);
            if (status != PLOG_OK) {
                return status;
            }
        }
        plog_pending_key *pending = &collector->pending[collector->pending_count++];
        pending->hash = plog_key_map_hash(&collector->map, &view.key);
        pending->offset = view.offset;
        plog_key_map_prefetch(&collector->map, &pending->hash);
    }
    return status == PLOG_END ? PLOG_OK : status;
}

static plog_status collect_batch(plog_collector *collector, const uint8_t *data,
                                 const plog_batch_header *header, int64_t first_offset)
{
    if (plog_batch_next_offset(header) <= first_offset) {
        return PLOG_OK;
    }
    if (plog_batch_check_crc(data, header) != PLOG_OK) {
        return PLOG_BAD_CRC;
    }
    if (plog_batch_is_control(header) || plog_batch_is_transactional(header)) {
        return PLOG_OK;
    }
    return plog_batch_is_compressed(header)
               ? PLOG_LIMIT
               : collect(collector, header, data + PLOG_BATCH_HEADER_BYTES,
                         header->size - PLOG_BATCH_HEADER_BYTES, first_offset);
}

plog_status plog_collect_batches(plog_collector *collector, const uint8_t *data, size_t len,
                                 int64_t first_offset, int64_t end_offset, size_t *consumed,
                                 size_t *needed)
{
    plog_status status = flush(collector);
    *consumed = *needed = 0;
    while (status == PLOG_OK && *consumed < len) {
        plog_batch_header header;
        const uint8_t *batch = data + *consumed;
        status = plog_compact_parse(batch, len - *consumed, collector->next_offset, end_offset,
                                    &header, needed);
        if (status == PLOG_OK) {
            status = collect_batch(collector, batch, &header, first_offset);
        }
        if (status == PLOG_OK) {
            collector->next_offset = plog_batch_next_offset(&header);
            *consumed += header.size;
        }
    }
    const plog_status flushed = flush(collector);
    if (flushed != PLOG_OK) {
        return flushed;
    }
    return status == PLOG_OK ? PLOG_END : status;
}

plog_status plog_collect_records(plog_collector *collector, const plog_batch_header *header,
                                 const uint8_t *records, size_t len, int64_t first_offset)
{
    plog_status status = flush(collector);
    if (status == PLOG_OK) {
        status = collect(collector, header, records, len, first_offset);
    }
    if (status == PLOG_OK) {
        collector->next_offset = plog_batch_next_offset(header);
        status = flush(collector);
    }
    return status;
}

void plog_collector_stop(plog_collector *collector)
{
    if (collector->pending_count > 0) {
        collector->next_offset = collector->pending[0].offset;
        collector->pending_count = 0;
    }
}
