/* The tail: staging batches against a copy of the marks, and the three ways to make them count. */
#include "tail.h"

#include "mapping.h"
#include "sparse_index.h"

/* Lines of memory behind a record that are asked for at once: the next one of the same size finds
 * them at hand (9 ns of an append of 170 bytes, measured). */
enum { AHEAD_LINES = 4, LINE_BYTES = 64 };

/* What the wait for a lock may make of the order of two looks at the clock.  Guessed. */
enum { CLOCK_TOLERANCE_MS = 60000 };

/* Whether entry number `entry` of an index lies in its memory and in its file.  The marks come from
 * shared memory and may say anything. */
static bool has_entry(plog_memory index, int64_t entry, int64_t allocated, size_t entry_bytes)
{
    return entry >= 0 && entry < allocated && (uint64_t)entry < index.len / entry_bytes;
}

/* Unsigned, for marks that are nonsense must not be undefined behaviour. */
static int32_t relative_offset(const plog_marks *marks, int64_t offset)
{
    return (int32_t)(uint32_t)((uint64_t)offset - (uint64_t)marks->base_offset);
}

static plog_index_progress progress_of(const plog_marks *marks)
{
    return (plog_index_progress){.bytes_since_entry = marks->bytes_since_index_entry,
                                 .max_timestamp = marks->max_timestamp,
                                 .max_timestamp_offset = marks->max_timestamp_offset,
                                 .last_time_entry = marks->last_time_entry};
}

static void keep_progress(plog_marks *marks, const plog_index_progress *progress)
{
    marks->bytes_since_index_entry = progress->bytes_since_entry;
    marks->max_timestamp = progress->max_timestamp;
    marks->max_timestamp_offset = progress->max_timestamp_offset;
    marks->last_time_entry = progress->last_time_entry;
}

/* Add the index entries of a batch that ends at `last` and begins at marks->position.
 * NO_ROOM leaves at most entries that were never published, which do not exist. */
static plog_status add_entries(const plog_tail *tail, plog_marks *marks,
                               plog_index_progress *progress, int64_t last)
{
    if (marks->position > INT32_MAX ||
        !has_entry(tail->index, marks->index_entries, marks->index_allocated,
                   PLOG_OFFSET_ENTRY_BYTES)) {
        return PLOG_NO_ROOM;
    }
    plog_offset_entry_write(tail->index.data + marks->index_entries * PLOG_OFFSET_ENTRY_BYTES,
                            relative_offset(marks, last), (int32_t)marks->position);
    marks->index_entries++;
    progress->bytes_since_entry = 0;
    if (!plog_time_index_is_due(progress)) {
        return PLOG_OK;
    }
    if (!has_entry(tail->timeindex, marks->time_entries, marks->time_allocated,
                   PLOG_TIME_ENTRY_BYTES)) {
        return PLOG_NO_ROOM;
    }
    plog_time_entry_write(tail->timeindex.data + marks->time_entries * PLOG_TIME_ENTRY_BYTES,
                          progress->max_timestamp,
                          relative_offset(marks, progress->max_timestamp_offset));
    marks->time_entries++;
    progress->last_time_entry = progress->max_timestamp;
    return PLOG_OK;
}

/* The last offset of a batch that takes the next offset; false when indexes cannot express it. */
static bool last_offset_fits(const plog_marks *marks, int32_t last_offset_delta, int64_t *last)
{
    int64_t relative;
    return !__builtin_add_overflow(marks->log_end_offset, last_offset_delta, last) &&
           *last < INT64_MAX && !__builtin_sub_overflow(*last, marks->base_offset, &relative) &&
           relative >= 0 && relative <= INT32_MAX;
}

/* Move `marks` past one batch, which takes the next offset.  The rules for index entries are those
 * of sparse_index.h, so that an index which recovery rebuilds equals this one. */
static plog_status stage_batch(const plog_tail *tail, plog_marks *marks,
                               const plog_batch_header *header)
{
    int64_t last;
    if (!last_offset_fits(marks, header->last_offset_delta, &last)) {
        return PLOG_NO_ROOM;
    }
    if (marks->position == 0) {
        marks->first_timestamp = header->max_timestamp;
    }
    plog_index_progress progress = progress_of(marks);
    plog_index_see_batch(&progress, header->max_timestamp, last);
    if (plog_index_is_due(&progress, tail->rules.index_interval_bytes)) {
        plog_status status = add_entries(tail, marks, &progress, last);
        if (status != PLOG_OK) {
            return status;
        }
    }
    const int64_t size = (int64_t)header->size;
    if (__builtin_add_overflow(marks->position, size, &marks->position) ||
        __builtin_add_overflow(progress.bytes_since_entry, size, &progress.bytes_since_entry)) {
        return PLOG_NO_ROOM;
    }
    marks->log_end_offset = last + 1;
    keep_progress(marks, &progress);
    return PLOG_OK;
}

/* Whether a segment that is not empty may not take what was staged: too large, or too old. */
static bool must_roll(const plog_tail_rules *rules, int64_t position, const plog_marks *staged,
                      int64_t max_timestamp)
{
    int64_t age;
    if (position == 0) {
        return false;
    }
    return staged->position > rules->segment_bytes ||
           (staged->first_timestamp >= 0 &&
            !__builtin_sub_overflow(max_timestamp, staged->first_timestamp, &age) &&
            age > rules->segment_ms);
}

/* Let a batch of a leader have the next place, as its offset and its epoch demand. */
static plog_status go_to_batch(const plog_batch_header *header, plog_marks *staged)
{
    if (header->base_offset < staged->log_end_offset ||
        (header->leader_epoch >= 0 && header->leader_epoch < staged->leader_epoch)) {
        return PLOG_BAD_OFFSET;
    }
    staged->log_end_offset = header->base_offset;
    if (header->leader_epoch >= 0) {
        staged->leader_epoch = header->leader_epoch;
    }
    return PLOG_OK;
}

/* Stamp the batches in `data` and move `staged`, the published marks so far, past them.  Each
 * header is read once, so a caller who changes `data` meanwhile spoils data, not memory. */
static plog_status stage(const plog_tail *tail, plog_memory data, plog_numbering numbering,
                         plog_marks *staged)
{
    const int64_t position = staged->position;
    int64_t max_timestamp = INT64_MIN;
    plog_status status = data.len == 0 ? PLOG_INCOMPLETE : PLOG_OK;
    for (size_t at = 0; status == PLOG_OK && at < data.len;) {
        plog_batch_header header;
        status = plog_batch_parse(data.data + at, data.len - at, &header);
        if (status == PLOG_OK && numbering == PLOG_KEEPS_OFFSETS) {
            status = go_to_batch(&header, staged);
        }
        if (status == PLOG_OK) {
            plog_batch_stamp(data.data + at, staged->log_end_offset, (int32_t)staged->leader_epoch);
            status = stage_batch(tail, staged, &header);
            max_timestamp =
                header.max_timestamp > max_timestamp ? header.max_timestamp : max_timestamp;
            at += header.size;
        }
    }
    if (status == PLOG_OK && must_roll(&tail->rules, position, staged, max_timestamp)) {
        return PLOG_NO_ROOM;
    }
    return status;
}

/* Whether the bytes [start, end) of the log lie in the window and in the file. */
static bool is_writable(const plog_tail *tail, const plog_marks *marks, int64_t start, int64_t end)
{
    return start >= tail->window_position && end >= start && end <= marks->allocated &&
           (uint64_t)(end - tail->window_position) <= tail->window.len;
}

/* Zero what a holder who died had begun to fill.  What lies below the position was published. */
static plog_status undo_intent(const plog_tail *tail, const plog_marks *marks)
{
    int64_t start, end;
    plog_page_intent(tail->page, &start, &end);
    start = start > marks->position ? start : marks->position;
    if (end > start) {
        if (!is_writable(tail, marks, start, end)) {
            return PLOG_NO_ROOM;
        }
        memset(tail->window.data + (start - tail->window_position), 0, (size_t)(end - start));
    }
    plog_page_clear_intent_locked(tail->page);
    return PLOG_OK;
}

bool plog_tail_is_current(const plog_tail *tail)
{
    return tail->settings == NULL || plog_events_value(tail->settings) == tail->settings_seen;
}

static plog_status check_open(const plog_tail *tail, const plog_marks *marks)
{
    return tail->is_attached && marks->state != PLOG_STATE_FAILED &&
                   marks->segment_serial == tail->segment_serial
               ? PLOG_OK
               : PLOG_NOT_OPEN;
}

/* Everything that place and stamp have in common: the checks, then the staged marks. */
static plog_status begin(const plog_tail *tail, plog_memory data, int64_t expected_offset,
                         plog_numbering numbering, plog_marks *staged, plog_placed *placed)
{
    plog_page_marks_locked(tail->page, staged);
    const bool is_current = numbering == PLOG_KEEPS_OFFSETS || plog_tail_is_current(tail);
    plog_status status = is_current ? check_open(tail, staged) : PLOG_NOT_OPEN;
    if (status == PLOG_OK) {
        status = undo_intent(tail, staged);
    }
    if (status == PLOG_OK && expected_offset >= 0 && expected_offset != staged->log_end_offset) {
        status = PLOG_STALE;
    }
    if (status == PLOG_OK) {
        placed->position = staged->position;
        placed->first_offset = staged->log_end_offset;
        status = stage(tail, data, numbering, staged);
        placed->end_offset = staged->log_end_offset;
    }
    return status;
}

/* Publish; true when somebody may wait for it: the high watermark moved, or replicas follow. */
static bool finish(const plog_tail *tail, plog_marks *staged, int64_t now)
{
    const int64_t high_watermark = staged->high_watermark;
    /* A clock that was set back must not make records look older than they are: when they came is
     * not known then.  Threads may come here in another order than they asked the clock. */
    if (now > staged->append_time) {
        staged->append_time = now;
    } else if (now < staged->append_time - CLOCK_TOLERANCE_MS) {
        staged->append_time = PLOG_UNKNOWN_TIME;
    }
    if (tail->rules.visible_on_append) {
        staged->high_watermark = staged->log_end_offset;
    }
    plog_page_publish_locked(tail->page, staged);
    plog_page_clear_intent_locked(tail->page);
    return staged->high_watermark != high_watermark || tail->rules.is_held;
}

/* Bring batches to their place.  After a sync the kernel has the page read-only, and a store to it
 * is a fault, which takes longer than a write: 6 of 20 us an append, with a disk in memory
 * (measured).  What cannot be written is stored: nobody has seen what was done of it. */
static void put(const plog_tail *tail, plog_memory data, int64_t position, bool is_after_sync)
{
    if (is_after_sync && tail->log_fd >= 0 &&
        plog_write(tail->log_fd, data.data, data.len, position)) {
        return;
    }
    uint8_t *place = tail->window.data + (position - tail->window_position);
    memcpy(place, data.data, data.len);
    for (int i = 0; i < AHEAD_LINES; i++) {
        __builtin_prefetch(place + data.len + (ptrdiff_t)i * LINE_BYTES, 1);
    }
}

static plog_status place_locked(const plog_tail *tail, plog_memory data, int64_t expected_offset,
                                int64_t now, plog_placed *placed, bool *is_news)
{
    plog_marks staged;
    plog_status status = begin(tail, data, expected_offset, PLOG_TAKES_NEXT, &staged, placed);
    if (status != PLOG_OK) {
        return status;
    }
    if (!is_writable(tail, &staged, placed->position, staged.position)) {
        return PLOG_NO_ROOM;
    }
    plog_page_set_intent_locked(tail->page, placed->position, staged.position);
    put(tail, data, placed->position, staged.durable_offset == placed->first_offset);
    *is_news = finish(tail, &staged, now) || *is_news;
    return PLOG_OK;
}

plog_status plog_tail_place(const plog_tail *tail, plog_memory data, int64_t expected_offset,
                            int64_t now, int64_t deadline_ns, plog_placed *placed)
{
    const plog_status locked = plog_page_lock(tail->page, deadline_ns);
    if (locked != PLOG_OK && locked != PLOG_OWNER_DIED) {
        return locked;
    }
    /* A holder who died may have published and told nobody. */
    bool is_news = locked == PLOG_OWNER_DIED;
    const plog_status status = place_locked(tail, data, expected_offset, now, placed, &is_news);
    /* Counted under the lock, so that whoever dies before counting leaves a dead owner to notice;
     * woken after it, so that nobody waits for the lock during a system call. */
    plog_events *events = plog_page_events(tail->page);
    const bool wake_page = is_news && plog_events_advance(events);
    const bool wake_log =
        is_news && tail->log_events != NULL && plog_events_advance(tail->log_events);
    plog_page_unlock(tail->page);
    if (wake_page) {
        plog_events_wake(events);
    }
    if (wake_log) {
        plog_events_wake(tail->log_events);
    }
    return status;
}

plog_status plog_tail_stamp_locked(const plog_tail *tail, plog_memory data, int64_t expected_offset,
                                   plog_numbering numbering, plog_placed *placed)
{
    plog_marks staged;
    plog_status status = begin(tail, data, expected_offset, numbering, &staged, placed);
    if (status == PLOG_OK && staged.state == PLOG_STATE_FULL) {
        status = PLOG_NO_ROOM;
    }
    if (status == PLOG_OK) {
        plog_page_set_intent_locked(tail->page, placed->position, staged.position);
    }
    return status;
}

/* Whether `data` is what stamp prepared: the intent is for its bytes, its first offset is next. */
static bool is_stamped(const plog_tail *tail, plog_memory data, plog_numbering numbering,
                       const plog_marks *marks)
{
    int64_t start, end;
    plog_page_intent(tail->page, &start, &end);
    return data.len >= PLOG_BATCH_HEADER_BYTES && start == marks->position && end > start &&
           (uint64_t)(end - start) == data.len &&
           (numbering == PLOG_KEEPS_OFFSETS || plog_load_i64(data.data) == marks->log_end_offset);
}

plog_status plog_tail_publish_locked(const plog_tail *tail, plog_memory data, int64_t now,
                                     plog_numbering numbering)
{
    plog_marks staged;
    plog_page_marks_locked(tail->page, &staged);
    plog_status status = check_open(tail, &staged);
    if (status == PLOG_OK) {
        status = is_stamped(tail, data, numbering, &staged) ? stage(tail, data, numbering, &staged)
                                                            : PLOG_BAD_OFFSET;
    }
    if (status != PLOG_OK) {
        return status;
    }
    staged.allocated = staged.allocated > staged.position ? staged.allocated : staged.position;
    if (finish(tail, &staged, now)) {
        plog_events_notify(plog_page_events(tail->page));
        if (tail->log_events != NULL) {
            plog_events_notify(tail->log_events);
        }
    }
    return PLOG_OK;
}
