/* What compaction's second pass writes: see compact.h. */
#include "compact_plan.h"

/* ---- what is written */

/* A reader has until the horizon to come from a value to its tombstone, so the time must not begin
 * while the value is still there to be read.  (Kafka's begins here for tombstones behind the map
 * too.) */
static bool sets_horizon(const plog_filter *filter, const plog_batch_plan *plan)
{
    return plan->keeps_tombstone && !plan->keeps_unmapped_tombstone && filter->now >= 0 &&
           !plog_batch_is_transactional(&plan->header) &&
           (plan->header.attributes & PLOG_ATTRIBUTE_HORIZON) == 0;
}

static bool contains(const int64_t *ascending, size_t count, int64_t value)
{
    size_t low = 0;
    while (low < count) {
        const size_t middle = low + (count - low) / 2;
        if (ascending[middle] == value) {
            return true;
        }
        if (ascending[middle] < value) {
            low = middle + 1;
        } else {
            count = middle;
        }
    }
    return false;
}

static bool needs_header(const plog_filter *filter, const plog_batch_header *header)
{
    const int64_t next_offset = plog_batch_next_offset(header);
    return next_offset == filter->round_end ||
           contains(filter->kept_offsets, filter->kept_count, next_offset - 1);
}

static void make_empty(plog_batch_header *header)
{
    header->size = PLOG_BATCH_HEADER_BYTES;
    header->attributes =
        (int16_t)(header->attributes & ~(PLOG_ATTRIBUTE_CODEC | PLOG_ATTRIBUTE_HORIZON));
    header->base_timestamp = -1;
    header->count = 0;
}

/* What the header says of the records that are kept. */
static plog_batch_header header_of_kept(const plog_filter *filter, const plog_batch_plan *plan)
{
    plog_batch_header header = plan->header;
    header.count = plan->kept_count;
    if (sets_horizon(filter, plan)) {
        header.attributes |= PLOG_ATTRIBUTE_HORIZON;
        header.base_timestamp = filter->horizon;
    } else if ((header.attributes & PLOG_ATTRIBUTE_HORIZON) == 0) {
        header.base_timestamp = plan->first_timestamp;
    }
    if ((header.attributes & PLOG_ATTRIBUTE_LOG_APPEND_TIME) == 0) {
        header.max_timestamp = plan->max_timestamp;
    }
    return header;
}

/* Copy what is kept, run by run, as it is.  The records were walked once and are sane. */
static uint8_t *copy_kept(const plog_batch_plan *plan, uint8_t *out)
{
    const uint8_t *p = plan->records, *run = p, *limit = p + plan->len;
    for (int32_t i = 0; i < plan->header.count; i++) {
        const uint8_t *record = p;
        int32_t size;
        if (plog_varint_read(&p, limit, &size) != PLOG_OK || size < 0 || size > limit - p) {
            return NULL;
        }
        p += size;
        if (!plan->kept[i]) {
            memcpy(out, run, (size_t)(record - run));
            out += record - run;
            run = p;
        }
    }
    memcpy(out, run, (size_t)(p - run));
    return out + (p - run);
}

/* Write what is kept with timestamps from another base.  NULL: one is too far from it. */
static uint8_t *encode_kept(const plog_batch_plan *plan, int64_t base_timestamp, uint8_t *out)
{
    const plog_batch_header *header = &plan->header;
    const bool is_append_time = (header->attributes & PLOG_ATTRIBUTE_LOG_APPEND_TIME) != 0;
    const uint8_t *p = plan->records, *limit = p + plan->len;
    for (int32_t i = 0; i < header->count; i++) {
        int32_t size;
        int64_t delta, timestamp = header->max_timestamp;
        if (plog_varint_read(&p, limit, &size) != PLOG_OK || size < 1 || size > limit - p) {
            return NULL;
        }
        const uint8_t *end = p + size, *rest = p + 1;
        p = end;
        if (!plan->kept[i]) {
            continue;
        }
        if (plog_varlong_read(&rest, end, &delta) != PLOG_OK ||
            (!is_append_time &&
             __builtin_add_overflow(header->base_timestamp, delta, &timestamp)) ||
            __builtin_sub_overflow(timestamp, base_timestamp, &delta)) {
            return NULL;
        }
        out = plog_varint_write(out, (int64_t)(1 + plog_varint_size(delta) + (size_t)(end - rest)));
        *out++ = 0;
        out = plog_varint_write(out, delta);
        memcpy(out, rest, (size_t)(end - rest));
        out += end - rest;
    }
    return out;
}

/* Write the payload of the records that are kept.  A batch whose timestamps reach too far for a new
 * base, which no clock shows, or that grows too large, is copied: nothing is lost by that. */
static plog_outcome rewrite(const plog_filter *filter, const plog_batch_plan *plan, uint8_t *out)
{
    plog_outcome outcome = {PLOG_BATCH_REWRITTEN, header_of_kept(filter, plan)};
    const bool is_same_base = outcome.header.base_timestamp == plan->header.base_timestamp &&
                              (plan->header.attributes & PLOG_ATTRIBUTE_LOG_APPEND_TIME) == 0;
    const uint8_t *end =
        is_same_base ? copy_kept(plan, out) : encode_kept(plan, outcome.header.base_timestamp, out);
    if (end == NULL || end - out > INT32_MAX - PLOG_BATCH_HEADER_BYTES) {
        return (plog_outcome){PLOG_BATCH_COPIED, plan->header};
    }
    outcome.header.size = PLOG_BATCH_HEADER_BYTES + (size_t)(end - out);
    return outcome;
}

static plog_outcome execute(plog_filter *filter, const plog_batch_plan *plan, uint8_t *out)
{
    plog_outcome outcome = {PLOG_BATCH_COPIED, plan->header};
    if (plan->records != NULL && plan->kept_count == 0) {
        outcome.verdict = PLOG_BATCH_REMOVED;
        if (needs_header(filter, &plan->header)) {
            outcome.verdict = PLOG_BATCH_REWRITTEN;
            make_empty(&outcome.header);
            filter->emptied_batches += plan->header.count > 0;
        }
    } else if (plan->records != NULL &&
               (plan->kept_count < plan->header.count || sets_horizon(filter, plan))) {
        outcome = rewrite(filter, plan, out);
        filter->horizons_set +=
            outcome.verdict == PLOG_BATCH_REWRITTEN && sets_horizon(filter, plan);
    }
    filter->records_read += plan->header.count;
    filter->records_kept += outcome.verdict == PLOG_BATCH_REMOVED ? 0 : outcome.header.count;
    return outcome;
}

/* ---- over a buffer */

/* Batches that are judged together, so that small ones share a group of keys too (guessed). */
enum { WINDOW_BATCHES = 32 };

/* What a record may grow by: a longer timestamp delta, and a longer length for it. */
enum { GROWTH_BYTES = PLOG_VARLONG_MAX_BYTES - 1 + PLOG_VARINT_MAX_BYTES - 1 };

typedef struct {
    plog_batch_plan plans[WINDOW_BATCHES];
    const uint8_t *batches[WINDOW_BATCHES]; /* borrowed */
    plog_candidate_group group;
    size_t count, consumed;
    size_t reserved; /* output that the planned batches may need */
    uint8_t *kept;   /* the marks of their records, down from the end of the output */
} window;

plog_status plog_filter_bound(const plog_batch_header *header, size_t len, size_t *size)
{
    const size_t count = (size_t)header->count;
    if (count > len / PLOG_RECORD_MIN_BYTES) {
        return PLOG_BAD_COUNT;
    }
    *size = len + count * (GROWTH_BYTES + sizeof(uint8_t));
    return PLOG_OK;
}

static plog_batch_plan new_plan(const plog_batch_header *header, const uint8_t *records, size_t len,
                                uint8_t *kept)
{
    return (plog_batch_plan){
        .header = *header, .records = records, .len = len, .kept = kept, .max_timestamp = -1};
}

static bool is_copied_unseen(const plog_filter *filter, const plog_batch_header *header)
{
    return plog_batch_is_control(header) ||
           (header->base_offset >= filter->map_end && header->count > 0);
}

/* Plan the batch at `data`.  NO_ROOM: the window is left as it was. */
static plog_status plan_batch(plog_filter *filter, window *self, const uint8_t *data,
                              const plog_batch_header *header, size_t capacity, size_t *needed)
{
    const size_t len = header->size - PLOG_BATCH_HEADER_BYTES;
    size_t size = len;
    plog_status status = PLOG_OK;
    plog_batch_plan *plan = &self->plans[self->count];
    const bool is_copied = is_copied_unseen(filter, header);
    if (header->producer_id >= 0 && !filter->knows_kept) {
        return PLOG_STALE;
    }
    if (!is_copied) {
        status =
            plog_batch_is_compressed(header) ? PLOG_LIMIT : plog_filter_bound(header, len, &size);
    }
    if (status == PLOG_OK && size + PLOG_BATCH_HEADER_BYTES > capacity - self->reserved) {
        *needed = size + PLOG_BATCH_HEADER_BYTES;
        status = PLOG_NO_ROOM;
    }
    if (status != PLOG_NO_ROOM && plog_batch_check_crc(data, header) != PLOG_OK) {
        return PLOG_BAD_CRC;
    }
    if (status != PLOG_OK) {
        return status;
    }
    self->reserved += size + PLOG_BATCH_HEADER_BYTES;
    self->batches[self->count] = data;
    if (is_copied) {
        *plan = new_plan(header, NULL, 0, NULL);
        return PLOG_OK;
    }
    self->kept -= header->count;
    *plan = new_plan(header, data + PLOG_BATCH_HEADER_BYTES, len, self->kept);
    return plog_judge_batch(filter, plan, &self->group);
}

/* OK: the window is full, or holds what the output has room for.  Else what stopped it. */
static plog_status plan_window(plog_filter *filter, window *self, const uint8_t *data, size_t len,
                               int64_t end_offset, size_t capacity, size_t *needed)
{
    plog_status status = PLOG_OK;
    while (self->count < WINDOW_BATCHES && self->consumed < len) {
        plog_batch_header header;
        const uint8_t *batch = data + self->consumed;
        status = plog_compact_parse(batch, len - self->consumed, filter->next_offset, end_offset,
                                    &header, needed);
        if (status == PLOG_OK) {
            status = plan_batch(filter, self, batch, &header, capacity, needed);
        }
        if (status != PLOG_OK) {
            break;
        }
        filter->next_offset = plog_batch_next_offset(&header);
        self->consumed += header.size;
        self->count++;
    }
    plog_judge_group(filter, &self->group);
    if (status == PLOG_NO_ROOM && self->count > 0) {
        return PLOG_OK;
    }
    return status == PLOG_OK && self->consumed == len ? PLOG_END : status;
}

static size_t write_plan(plog_filter *filter, const plog_batch_plan *plan, const uint8_t *batch,
                         uint8_t *out)
{
    const plog_outcome outcome = execute(filter, plan, out + PLOG_BATCH_HEADER_BYTES);
    switch (outcome.verdict) {
    case PLOG_BATCH_REMOVED:
        return 0;
    case PLOG_BATCH_COPIED:
        memcpy(out, batch, plan->header.size);
        return plan->header.size;
    case PLOG_BATCH_REWRITTEN:
        break;
    }
    plog_batch_seal(out, &outcome.header);
    return outcome.header.size;
}

plog_status plog_filter_batches(plog_filter *filter, const uint8_t *data, size_t len,
                                int64_t end_offset, uint8_t *out, size_t capacity, size_t *consumed,
                                size_t *written, size_t *needed)
{
    plog_status status;
    *consumed = *written = *needed = 0;
    do {
        window planned;
        planned.count = planned.consumed = planned.reserved = planned.group.count = 0;
        planned.kept = out + capacity;
        status = plan_window(filter, &planned, data + *consumed, len - *consumed, end_offset,
                             capacity - *written, needed);
        for (size_t i = 0; i < planned.count; i++) {
            *written += write_plan(filter, &planned.plans[i], planned.batches[i], out + *written);
        }
        *consumed += planned.consumed;
    } while (status == PLOG_OK);
    return status;
}

plog_status plog_filter_records(plog_filter *filter, const plog_batch_header *header,
                                const uint8_t *records, size_t len, uint8_t *out, size_t capacity,
                                plog_outcome *outcome)
{
    size_t bound;
    plog_status status = plog_filter_bound(header, len, &bound);
    if (status != PLOG_OK) {
        return status;
    }
    assert(bound <= capacity);
    plog_candidate_group group;
    plog_batch_plan plan = new_plan(header, records, len, out + capacity - header->count);
    group.count = 0;
    status = plog_judge_batch(filter, &plan, &group);
    if (status == PLOG_OK) {
        plog_judge_group(filter, &group);
        *outcome = execute(filter, &plan, out);
        filter->next_offset = plog_batch_next_offset(header);
    }
    return status;
}
