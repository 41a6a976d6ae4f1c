/* Walks over batches: see scan.h. */
#include "scan.h"

/* ---- reading */

static bool is_in_order(int64_t expected, int64_t base_offset, bool is_strict)
{
    return is_strict ? base_offset == expected : base_offset >= expected;
}

/* Decide about the batch at result->end.  OK: it belongs to the walk, and is skipped or taken. */
static plog_status check_next(const uint8_t *data, size_t len, const plog_check_request *request,
                              const plog_check_result *result, plog_batch_header *header)
{
    bool is_first = result->end == request->start;
    plog_status status = plog_batch_parse(data + result->end, len - result->end, header);
    if (status != PLOG_OK) {
        return status;
    }
    if (is_first && request->entry_offset >= 0 &&
        plog_batch_next_offset(header) - 1 != request->entry_offset) {
        return PLOG_BAD_OFFSET;
    }
    if (result->next_offset >= 0 &&
        !is_in_order(result->next_offset, header->base_offset, request->is_strict)) {
        return PLOG_BAD_OFFSET;
    }
    return header->base_offset >= request->limit_offset ? PLOG_LIMIT : PLOG_OK;
}

plog_status plog_check_batches(const uint8_t *data, size_t len, const plog_check_request *request,
                               plog_check_result *out)
{
    assert(request->start <= len);
    *out = (plog_check_result){request->start, request->start, request->next_offset, 0};
    while (out->end < len) {
        plog_batch_header header;
        plog_status status = check_next(data, len, request, out, &header);
        if (status != PLOG_OK) {
            out->needed = status == PLOG_INCOMPLETE ? header.size : 0;
            return status;
        }
        int64_t next_offset = plog_batch_next_offset(&header);
        if (next_offset <= request->target_offset) {
            out->first = out->end + header.size;
        } else if (plog_batch_check_crc(data + out->end, &header) != PLOG_OK) {
            return PLOG_BAD_CRC;
        }
        out->end += header.size;
        out->next_offset = next_offset;
        if (out->end > out->first && out->end - out->first >= request->max_bytes) {
            return PLOG_LIMIT;
        }
    }
    return PLOG_END;
}

/* ---- recovery */

void plog_scanner_begin(plog_scanner *scanner, int64_t base_offset, int64_t next_offset,
                        size_t position, int64_t index_interval_bytes, bool is_strict)
{
    *scanner = (plog_scanner){
        .base_offset = base_offset,
        .next_offset = next_offset,
        .index_interval_bytes = index_interval_bytes,
        .position = position,
        .is_strict = is_strict,
        .first_timestamp = -1,
        .leader_epoch = -1,
        .progress = {0, -1, -1, -1},
    };
}

static bool has_room(const plog_entry_buffer *buffer, size_t entry_bytes)
{
    return buffer->capacity - buffer->size >= entry_bytes;
}

static plog_status add_time_entry(plog_scanner *scanner)
{
    plog_index_progress *progress = &scanner->progress;
    if (!plog_time_index_is_due(progress)) {
        return PLOG_OK;
    }
    if (!has_room(&scanner->timeindex, PLOG_TIME_ENTRY_BYTES)) {
        return PLOG_NO_ROOM;
    }
    plog_time_entry_write(scanner->timeindex.entries + scanner->timeindex.size,
                          progress->max_timestamp,
                          (int32_t)(progress->max_timestamp_offset - scanner->base_offset));
    scanner->timeindex.size += PLOG_TIME_ENTRY_BYTES;
    progress->last_time_entry = progress->max_timestamp;
    return PLOG_OK;
}

plog_status plog_scanner_seal(plog_scanner *scanner)
{
    return add_time_entry(scanner);
}

/* Room for an entry of each kind was checked before. */
static void add_index_entries(plog_scanner *scanner, const plog_batch_header *header)
{
    int64_t last_offset = plog_batch_next_offset(header) - 1;
    plog_index_progress *progress = &scanner->progress;
    plog_index_see_batch(progress, header->max_timestamp, last_offset);
    if (plog_index_is_due(progress, scanner->index_interval_bytes)) {
        plog_offset_entry_write(scanner->index.entries + scanner->index.size,
                                (int32_t)(last_offset - scanner->base_offset),
                                (int32_t)scanner->position);
        scanner->index.size += PLOG_OFFSET_ENTRY_BYTES;
        (void)add_time_entry(scanner);
        progress->bytes_since_entry = 0;
    }
    progress->bytes_since_entry += (int64_t)header->size;
}

static void add_epoch(plog_scanner *scanner, const plog_batch_header *header)
{
    if (header->leader_epoch < 0 || header->leader_epoch == scanner->leader_epoch) {
        return;
    }
    plog_epoch_entry entry = {header->base_offset, header->leader_epoch};
    memcpy(scanner->epochs.entries + scanner->epochs.size, &entry, sizeof entry);
    scanner->epochs.size += sizeof entry;
    scanner->leader_epoch = header->leader_epoch;
}

/* Whether the batch can stand in this segment: in order, and its last offset and its position fit
 * into the 32 bits that an index entry has for them. */
static plog_status check_place(const plog_scanner *scanner, const plog_batch_header *header)
{
    int64_t last_offset = plog_batch_next_offset(header) - 1;
    /* scanner->next_offset starts at or above base_offset, so being in order is being above it. */
    if (!is_in_order(scanner->next_offset, header->base_offset, scanner->is_strict) ||
        last_offset - scanner->base_offset > INT32_MAX) {
        return PLOG_BAD_OFFSET;
    }
    return scanner->position > INT32_MAX ? PLOG_BAD_LENGTH : PLOG_OK;
}

static void accept(plog_scanner *scanner, const plog_batch_header *header)
{
    add_index_entries(scanner, header);
    add_epoch(scanner, header);
    if (scanner->batches == 0) {
        scanner->first_timestamp = header->max_timestamp;
    }
    scanner->batches++;
    scanner->records += header->count;
    scanner->position += header->size;
    scanner->next_offset = plog_batch_next_offset(header);
}

plog_status plog_scanner_feed(plog_scanner *scanner, const uint8_t *data, size_t len,
                              size_t *consumed)
{
    *consumed = 0;
    while (*consumed < len) {
        plog_batch_header header;
        const uint8_t *batch = data + *consumed;
        if (!has_room(&scanner->index, PLOG_OFFSET_ENTRY_BYTES) ||
            !has_room(&scanner->timeindex, PLOG_TIME_ENTRY_BYTES) ||
            !has_room(&scanner->epochs, sizeof(plog_epoch_entry))) {
            return PLOG_NO_ROOM;
        }
        plog_status status = plog_batch_parse(batch, len - *consumed, &header);
        if (status == PLOG_OK) {
            status = check_place(scanner, &header);
        }
        if (status == PLOG_OK) {
            status = plog_batch_check_crc(batch, &header);
        }
        if (status != PLOG_OK) {
            return status;
        }
        accept(scanner, &header);
        *consumed += header.size;
    }
    return PLOG_END;
}

/* ---- behind damage */

/* What a disk writes atomically at the least. */
enum { SECTOR_BYTES = 512 };

/* Whether a sector could have been lost that ends between the base offset of a batch at `position`
 * and its magic byte: the first byte behind it that is never zero and that was checked. */
static bool may_have_torn_offset(size_t position)
{
    return position % SECTOR_BYTES >= SECTOR_BYTES - PLOG_BATCH_MAGIC_POSITION;
}

/* Whether the base offset of the batch at `position` can be believed, which its CRC leaves out: it
 * leads to where it should, or nothing is behind it and a tear would have shown. */
static bool is_offset_credible(const plog_find_request *request, const uint8_t *data, size_t len,
                               size_t position, const plog_batch_header *batch)
{
    const size_t end = position + batch->size;
    const int64_t next_offset = plog_batch_next_offset(batch);
    plog_batch_header header;
    if (request->known_position == (int64_t)(request->position + end)) {
        return is_in_order(next_offset, request->known_offset, request->is_strict);
    }
    plog_status status = end == len ? PLOG_END : plog_batch_parse(data + end, len - end, &header);
    if (status == PLOG_END || status == PLOG_ZEROS ||
        (status == PLOG_INCOMPLETE && len - end < PLOG_BATCH_HEADER_BYTES)) {
        return !may_have_torn_offset(request->position + position);
    }
    return (status == PLOG_OK || status == PLOG_INCOMPLETE) &&
           is_in_order(next_offset, header.base_offset, request->is_strict) &&
           header.base_offset < request->maximum_offset;
}

plog_status plog_find_batch(const uint8_t *data, size_t len, const plog_find_request *request,
                            size_t *out)
{
    /* Overlapping headers, each with a huge length, would make the CRCs quadratic. */
    size_t allowance = len <= SIZE_MAX / 64 ? 64 * len : SIZE_MAX;
    for (size_t position = request->start; len - position >= PLOG_BATCH_HEADER_BYTES; position++) {
        const uint8_t *magic = data + position + PLOG_BATCH_MAGIC_POSITION;
        const uint8_t *found = memchr(magic, 2, (size_t)(data + len - magic));
        if (found == NULL) {
            return PLOG_END;
        }
        position += (size_t)(found - magic);
        plog_batch_header header;
        if (plog_batch_parse(data + position, len - position, &header) != PLOG_OK ||
            header.base_offset < request->minimum_offset ||
            header.base_offset >= request->maximum_offset ||
            !is_offset_credible(request, data, len, position, &header)) {
            continue;
        }
        if (header.size > allowance) {
            return PLOG_END;
        }
        allowance -= header.size;
        if (plog_batch_check_crc(data + position, &header) == PLOG_OK) {
            *out = position;
            return PLOG_OK;
        }
    }
    return PLOG_END;
}
