/* Which records compaction's second pass keeps: see compact.h. */
#include "compact_plan.h"

static bool is_past_horizon(const plog_filter *filter, const plog_batch_header *header)
{
    return (header->attributes & PLOG_ATTRIBUTE_HORIZON) != 0 &&
           !plog_batch_is_transactional(header) && filter->now >= 0 &&
           filter->now >= header->base_timestamp;
}

/* Whether a record that is the newest of its key is dropped nevertheless. */
static bool is_over(plog_filter *filter, const plog_batch_plan *plan, int64_t offset,
                    bool is_tombstone)
{
    if (!is_tombstone || !is_past_horizon(filter, &plan->header)) {
        return false;
    }
    filter->dropped_tombstones_end = offset + 1;
    return true;
}

/* Note in the plan that a record is kept. */
static void keep(const plog_filter *filter, plog_batch_plan *plan, int64_t offset,
                 int64_t timestamp, bool is_tombstone)
{
    if (plan->kept_count == 0) {
        plan->first_timestamp = timestamp;
    }
    if (timestamp > plan->max_timestamp) {
        plan->max_timestamp = timestamp;
    }
    plan->kept_count++;
    if (is_tombstone) {
        const bool is_mapped = offset < filter->map_end;
        plan->keeps_tombstone |= is_mapped;
        plan->keeps_unmapped_tombstone |= !is_mapped;
    }
}

/* ---- by the map */

static bool is_kept(plog_filter *filter, const plog_candidate *record)
{
    if (record->offset >= filter->map_end) {
        return true;
    }
    return record->has_key && record->offset >= plog_key_map_find(filter->map, &record->hash) &&
           !is_over(filter, record->plan, record->offset, record->is_tombstone);
}

void plog_judge_group(plog_filter *filter, plog_candidate_group *group)
{
    for (size_t i = 0; i < group->count; i++) {
        const plog_candidate *record = &group->items[i];
        *record->kept = is_kept(filter, record);
        if (*record->kept) {
            keep(filter, record->plan, record->offset, record->timestamp, record->is_tombstone);
        }
    }
    group->count = 0;
}

static plog_status judge_by_map(plog_filter *filter, plog_batch_plan *plan,
                                plog_candidate_group *group)
{
    plog_record_cursor cursor;
    plog_record_view view;
    plog_status status;
    uint8_t *kept = plan->kept;
    plog_record_cursor_begin(&cursor, &plan->header, plan->records, plan->len);
    while ((status = plog_record_next(&cursor, &view)) == PLOG_OK) {
        if (group->count == PLOG_KEY_GROUP) {
            plog_judge_group(filter, group);
        }
        plog_candidate *record = &group->items[group->count++];
        record->offset = view.offset;
        record->timestamp = view.timestamp;
        record->plan = plan;
        record->kept = kept++;
        record->has_key = view.key.len >= 0;
        record->is_tombstone = view.value.len < 0;
        if (record->has_key && view.offset < filter->map_end) {
            record->hash = plog_key_map_hash(filter->map, &view.key);
            plog_key_map_prefetch(filter->map, &record->hash);
        }
    }
    return status == PLOG_END ? PLOG_OK : status;
}

/* ---- by the marks: of most records only the length is read */

/* In the range of the map a record is the newest of its key if it is the one that the map names. */
static bool is_marked(const plog_filter *filter, int64_t offset)
{
    const uint64_t place = (uint64_t)(offset - filter->marks_start);
    return (filter->marks[place / 8] >> (place % 8) & 1) != 0;
}

static bool has_marks(const plog_filter *filter, int64_t offset, int64_t end_offset)
{
    while (offset < end_offset) {
        const bool is_whole = (offset - filter->marks_start) % 8 == 0 && end_offset - offset >= 8;
        if (is_whole ? filter->marks[(offset - filter->marks_start) / 8] != 0
                     : is_marked(filter, offset)) {
            return true;
        }
        offset += is_whole ? 8 : 1;
    }
    return false;
}

/* Take the next record of a batch whose records have all offsets of it, unseen if it goes. */
static plog_status pass_or_read(const plog_filter *filter, plog_record_cursor *cursor,
                                plog_record_view *view, bool *is_newest)
{
    const uint8_t *p = cursor->p;
    const int64_t offset = cursor->base_offset + cursor->last_delta + 1;
    int32_t size;
    if (cursor->remaining > 0 && cursor->last_delta >= cursor->last_offset_delta) {
        return PLOG_BAD_RECORD; /* pass 1 saw other bytes; there are no marks behind the batch */
    }
    *is_newest = cursor->remaining > 0 && is_marked(filter, offset);
    if (cursor->remaining == 0 || *is_newest) {
        return plog_record_next(cursor, view);
    }
    if (plog_varint_read(&p, cursor->limit, &size) != PLOG_OK || size < 1 ||
        size > cursor->limit - p) {
        return PLOG_BAD_RECORD;
    }
    cursor->p = p + size;
    cursor->remaining--;
    cursor->last_delta++;
    return PLOG_OK;
}

static plog_status judge_by_marks(plog_filter *filter, plog_batch_plan *plan)
{
    const plog_batch_header *header = &plan->header;
    const bool is_dense = header->count == header->last_offset_delta + 1;
    plog_record_cursor cursor;
    plog_record_view view;
    plog_status status = PLOG_OK;
    uint8_t *kept = plan->kept;
    if (!has_marks(filter, header->base_offset, plog_batch_next_offset(header))) {
        return PLOG_OK;
    }
    plog_record_cursor_begin(&cursor, header, plan->records, plan->len);
    for (;;) {
        bool is_newest;
        if (is_dense) {
            status = pass_or_read(filter, &cursor, &view, &is_newest);
        } else {
            status = plog_record_next(&cursor, &view);
            is_newest = status == PLOG_OK && is_marked(filter, view.offset);
        }
        if (status != PLOG_OK) {
            return status == PLOG_END ? PLOG_OK : status;
        }
        const bool is_tombstone = is_newest && view.value.len < 0;
        *kept = is_newest && !is_over(filter, plan, view.offset, is_tombstone);
        if (*kept++) {
            keep(filter, plan, view.offset, view.timestamp, is_tombstone);
        }
    }
}

plog_status plog_judge_batch(plog_filter *filter, plog_batch_plan *plan,
                             plog_candidate_group *group)
{
    const plog_batch_header *header = &plan->header;
    const bool has_marks_of_all = filter->marks != NULL && !plog_batch_is_transactional(header) &&
                                  header->base_offset >= filter->marks_start &&
                                  plog_batch_next_offset(header) <= filter->map_end;
    return has_marks_of_all ? judge_by_marks(filter, plan) : judge_by_map(filter, plan, group);
}
