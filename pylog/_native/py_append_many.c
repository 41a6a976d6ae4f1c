/* Router.append_many: many records to the partitions of their keys, one batch for each.
 *
 * With the GIL: records are taken out of their sequences and their partitions picked, and what is
 * needed of these partitions is held.  Without it, if the work is worth the release: each
 * partition's records are gathered, encoded and placed by one call.  With it again: what could not
 * be placed so is encoded for Python to place, which can wait, open files and make room.
 *
 * Everything here needs the GIL but what says that it does not.
 */
#include "murmur2.h"
#include "py_appender.h"
#include "py_many.h"

/* Take the table of shares from the router, or make one: a topic may have many more partitions than
 * a call has records. */
static int take_share_of(plog_many *self)
{
    plog_router_object *router = self->router;
    if (router->share_of != NULL && router->share_count == self->partitions_count) {
        self->share_of = router->share_of;
        router->share_of = NULL;
        return 0;
    }
    const size_t bytes = (size_t)self->partitions_count * sizeof *self->share_of;
    self->share_of = PyMem_Malloc(bytes);
    if (self->share_of == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    memset(self->share_of, 0xff, bytes);
    return 0;
}

/* Give it back for the next call, with -1 everywhere. */
static void give_share_of(plog_many *self)
{
    plog_router_object *router = self->router;
    int32_t *unused = self->share_of;
    if (unused != NULL) {
        for (size_t i = 0; i < self->share_count; i++) {
            unused[self->shares[i].number] = -1;
        }
        self->share_of = router->share_of;
        router->share_of = unused;
        router->share_count = self->partitions_count;
        PyMem_Free(self->share_of); /* of another call, or for fewer partitions */
    }
}

static void free_many(plog_many *self)
{
    for (size_t i = 0; i < self->share_count; i++) {
        if (self->shares[i].is_held) {
            plog_tail_let_go(&self->shares[i].held);
        }
    }
    plog_rows_release(&self->rows);
    give_share_of(self);
    PyMem_Free(self->shares);
    PyMem_Free(self->lanes);
    PyMem_Free(self->staging);
    Py_XDECREF(self->partitions);
    Py_XDECREF(self->offsets_array);
}

/* ---- taking and picking */

static PyObject *new_array(size_t count, size_t element_bytes, void **memory)
{
    PyObject *array = PyByteArray_FromStringAndSize(NULL, (Py_ssize_t)(count * element_bytes));
    if (array != NULL) {
        *memory = PyByteArray_AsString(array);
    }
    return array;
}

static int make_arrays(plog_many *self)
{
    const size_t count = (size_t)self->rows.len;
    void *numbers = NULL, *offsets = NULL;
    self->partitions = new_array(count, sizeof *self->numbers, &numbers);
    self->offsets_array = new_array(count, sizeof *self->offsets, &offsets);
    if (self->partitions == NULL || self->offsets_array == NULL) {
        return -1;
    }
    self->numbers = numbers;
    self->offsets = offsets;
    memset(offsets, 0xff, count * sizeof *self->offsets); /* -1 until it is placed */
    if (plog_rows_reserve(&self->rows, count) < 0) {
        PyErr_NoMemory();
        return -1;
    }
    return take_share_of(self);
}

/* A place for one more share. */
static int make_share_room(plog_many *self)
{
    if (self->share_count < self->share_capacity) {
        return 0;
    }
    const size_t capacity = self->share_capacity == 0 ? 64 : 2 * self->share_capacity;
    plog_share *shares = PyMem_Realloc(self->shares, capacity * sizeof *shares);
    if (shares != NULL) {
        self->shares = shares;
    }
    plog_lane *lanes = shares == NULL ? NULL : PyMem_Realloc(self->lanes, capacity * sizeof *lanes);
    if (lanes == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    self->lanes = lanes;
    self->share_capacity = capacity;
    return 0;
}

/* The share of a partition, made with its first record; NULL with an error. */
static plog_lane *lane_of(plog_many *self, int32_t number, int64_t timestamp)
{
    int32_t at = self->share_of[number];
    if (at < 0) {
        if (make_share_room(self) < 0) {
            return NULL;
        }
        at = self->share_of[number] = (int32_t)self->share_count++;
        self->shares[at] = (plog_share){.number = number, .size = PLOG_BATCH_HEADER_BYTES};
        self->lanes[at] = (plog_lane){.base_timestamp = timestamp, .max_timestamp = timestamp};
    }
    return &self->lanes[at];
}

/* Add a record to the share of its partition. */
static int count_record(plog_many *self, plog_record_in *record, int32_t number)
{
    plog_lane *some = lane_of(self, number, record->timestamp);
    if (some == NULL) {
        return -1;
    }
    const int64_t timestamp_delta = record->timestamp - some->base_timestamp;
    const size_t body_size = plog_record_body_size(record, timestamp_delta, (int32_t)some->count);
    const size_t size = plog_record_size(body_size);
    if (size > self->max_batch_bytes - PLOG_BATCH_HEADER_BYTES) {
        const size_t alone = plog_record_batch_bound(record); /* less, with smaller deltas */
        if (alone > self->max_batch_bytes) {
            plog_raise_too_large(self->rows.state, alone, self->max_batch_bytes);
            return -1;
        }
    }
    record->body_size = (int32_t)body_size;
    self->shares[some - self->lanes].size += size;
    some->count++;
    return 0;
}

/* Take the records, and pick their partitions while their keys are at hand. */
static int take_all(plog_many *self)
{
    const int32_t sticky = (int32_t)self->router->sticky;
    int64_t sticky_bytes = 0;
    for (Py_ssize_t row = 0; row < self->rows.len; row++) {
        if (plog_rows_take(&self->rows, row) < 0) {
            return -1;
        }
        plog_record_in *record = &self->rows.records[row];
        int32_t number = sticky;
        if (record->key.len >= 0) {
            number = plog_partition_for_key(record->key.data, (size_t)record->key.len,
                                            self->partitions_count);
        } else {
            sticky_bytes += (record->value.len > 0 ? record->value.len : 0) + 1;
        }
        self->numbers[row] = number;
        if (count_record(self, record, number) < 0) {
            return -1;
        }
    }
    (void)plog_router_stick(self->router, sticky_bytes);
    return 0;
}

/* Hold the tails of all partitions that have one; the others are left to Python. */
static int hold_tails(plog_many *self)
{
    int64_t now = -1;
    for (size_t i = 0; i < self->share_count; i++) {
        plog_share *some = &self->shares[i];
        PyObject *appender = plog_router_appender(self->router, some->number); /* borrowed */
        if (appender == NULL) {
            return -1;
        }
        PyObject *tail = plog_appender_tail(appender); /* borrowed */
        some->is_held = tail != NULL && plog_tail_hold((plog_tail_object *)tail, &some->held);
        PyErr_Clear(); /* a page that was released: Python says what that means */
        if (some->is_held && now < 0 && plog_tail_read_clock(some->held.tail, &now) < 0) {
            return -1;
        }
        some->now = now;
    }
    return 0;
}

/* Give each share that can be placed here its part of the staging memory. */
static int stage_shares(plog_many *self)
{
    for (size_t i = 0; i < self->share_count; i++) {
        plog_share *some = &self->shares[i];
        some->count = self->lanes[i].count;
        self->lanes[i].count = 0;
        if (some->is_held && some->size < self->large_bytes &&
            some->size <= self->max_batch_bytes) {
            self->staging_bytes += some->size;
        }
    }
    self->staging = PyMem_Malloc(self->staging_bytes);
    if (self->staging == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    uint8_t *end = self->staging;
    for (size_t i = 0; i < self->share_count; i++) {
        plog_share *some = &self->shares[i];
        if (some->is_held && some->size < self->large_bytes &&
            some->size <= self->max_batch_bytes) {
            some->batch = end;
            self->lanes[i].end = end + PLOG_BATCH_HEADER_BYTES;
            end += some->size;
        }
    }
    return 0;
}

/* ---- placing, without the GIL */

/* Rows ahead of the one that is written, whose bytes are asked for.  Measured. */
enum { PREFETCH_ROWS = 8 };

/* Shares ahead of the one that is placed, whose page is asked for: 1,400 pages are in no cache.
 * Measured, as is what plog_rows_release asks for: together 5 % of an event. */
enum { SHARES_AHEAD = 2 };

/* Write every record behind the earlier ones of its share.  The records are read in the order in
 * which they were given, and so mostly in that of their memory. */
static void write_records(const plog_many *self)
{
    const size_t count = self->rows.count;
    for (size_t row = 0; row < count; row++) {
        const plog_record_in *record = &self->rows.records[row];
        if (row + PREFETCH_ROWS < count) {
            __builtin_prefetch(record[PREFETCH_ROWS].key.data);
            __builtin_prefetch(record[PREFETCH_ROWS].value.data);
        }
        plog_lane *some = &self->lanes[self->share_of[self->numbers[row]]];
        if (some->end != NULL) {
            const int64_t timestamp_delta = record->timestamp - some->base_timestamp;
            const int32_t offset_delta = (int32_t)some->count++;
            some->end = plog_record_write(some->end, record, timestamp_delta, offset_delta,
                                          (size_t)record->body_size);
            if (record->timestamp > some->max_timestamp) {
                some->max_timestamp = record->timestamp;
            }
        }
    }
}

static void seal_share(const plog_many *self, size_t i)
{
    const plog_batch_header header = {
        .size = self->shares[i].size,
        .leader_epoch = -1,
        .attributes = self->attributes,
        .last_offset_delta = (int32_t)(self->shares[i].count - 1),
        .base_timestamp = self->lanes[i].base_timestamp,
        .max_timestamp = self->lanes[i].max_timestamp,
        .producer_id = -1,
        .producer_epoch = -1,
        .base_sequence = -1,
        .count = (int32_t)self->shares[i].count,
    };
    assert(self->lanes[i].end == self->shares[i].batch + header.size);
    plog_batch_seal(self->shares[i].batch, &header);
}

static void place_share(plog_share *some, int64_t deadline_ns)
{
    const plog_status status =
        plog_tail_place(&some->held.core, (plog_memory){some->batch, some->size}, -1, some->now,
                        deadline_ns, &some->placed);
    some->is_placed = status == PLOG_OK;
    some->is_busy = status == PLOG_TIMED_OUT;
}

/* The offset of each row that was placed: the next one of its share. */
static void write_offsets(const plog_many *self)
{
    for (size_t i = 0; i < self->share_count; i++) {
        self->lanes[i].count = 0;
    }
    for (size_t row = 0; row < self->rows.count; row++) {
        const int32_t at = self->share_of[self->numbers[row]];
        if (self->shares[at].is_placed) {
            self->offsets[row] = self->shares[at].placed.first_offset + self->lanes[at].count++;
        }
    }
}

/* Place all that can be.  Who holds a partition's lock is waited for only if `may_wait`, and only
 * when all others have got their records. */
static void place_all(const plog_many *self, bool may_wait)
{
    write_records(self);
    for (size_t i = 0; i < self->share_count; i++) {
        if (i + SHARES_AHEAD < self->share_count && self->shares[i + SHARES_AHEAD].batch != NULL) {
            plog_page_prefetch(self->shares[i + SHARES_AHEAD].held.core.page);
        }
        if (self->shares[i].batch != NULL) {
            seal_share(self, i);
            place_share(&self->shares[i], 0);
        }
    }
    for (size_t i = 0; i < self->share_count && may_wait; i++) {
        if (self->shares[i].is_busy) {
            place_share(&self->shares[i], plog_slice_end(INT64_MAX, PLOG_LOCK_SLICE_MS));
        }
    }
    write_offsets(self);
}

static void place_records(const plog_many *self)
{
    if (self->staging_bytes > PLOG_GIL_BYTES) {
        Py_BEGIN_ALLOW_THREADS place_all(self, true);
        Py_END_ALLOW_THREADS
    } else {
        place_all(self, false);
    }
}

/* ---- the result */

/* Fill `spans` with (partition, first offset, end offset) of what was placed, and count it. */
static int tell_placed(const plog_many *self, PyObject *spans)
{
    int result = 0;
    for (size_t i = 0; i < self->share_count && result == 0; i++) {
        const plog_share *some = &self->shares[i];
        if (some->is_placed) {
            plog_count_appended(some->held.tail->counters, some->count, some->size);
            result = plog_append_item(spans, Py_BuildValue("(iLL)", (int)some->number,
                                                           (long long)some->placed.first_offset,
                                                           (long long)some->placed.end_offset));
        }
    }
    return result;
}

/* The timestamps of all rows: one int, or an array. */
static PyObject *timestamps_of(const plog_many *self)
{
    void *memory = NULL;
    if (self->rows.timestamps == NULL) {
        return PyLong_FromLongLong(self->rows.timestamp);
    }
    PyObject *array = new_array(self->rows.count, sizeof(int64_t), &memory);
    for (size_t row = 0; array != NULL && row < self->rows.count; row++) {
        ((int64_t *)memory)[row] = self->rows.records[row].timestamp;
    }
    return array;
}

static PyObject *append_taken(plog_many *self)
{
    PyObject *result = NULL;
    /* Made before anything is placed, so that a lack of memory comes early. */
    PyObject *left = PyList_New(0); /* strong, as are the next ones */
    PyObject *spans = PyList_New(0);
    PyObject *timestamps = timestamps_of(self);
    if (left != NULL && spans != NULL && timestamps != NULL) {
        place_records(self);
        if (tell_placed(self, spans) == 0 && plog_many_leave(self, left) == 0) {
            result =
                PyTuple_Pack(5, self->partitions, self->offsets_array, timestamps, spans, left);
        }
    }
    Py_XDECREF(left);
    Py_XDECREF(spans);
    Py_XDECREF(timestamps);
    return result;
}

static int check_limits(plog_many *self, const Py_ssize_t *limits)
{
    const Py_ssize_t max_batch_bytes = limits[0], max_chunk_bytes = limits[1];
    if (max_batch_bytes < PLOG_BATCH_HEADER_BYTES || max_chunk_bytes < max_batch_bytes ||
        limits[2] < PLOG_BATCH_HEADER_BYTES || self->rows.allowed.earliest < 0) {
        PyErr_SetString(
            PyExc_ValueError,
            "max_batch_bytes, max_chunk_bytes, large_bytes or earliest is out of range");
        return -1;
    }
    if (self->rows.len > INT32_MAX) {
        PyErr_SetString(PyExc_ValueError, "more than 2**31 - 1 records in one call");
        return -1;
    }
    self->max_batch_bytes =
        (size_t)max_batch_bytes < INT32_MAX ? (size_t)max_batch_bytes : INT32_MAX;
    self->rows.limit = self->max_batch_bytes;
    self->max_chunk_bytes = (size_t)max_chunk_bytes;
    self->large_bytes = (size_t)limits[2];
    return 0;
}

PyObject *plog_router_append_many(PyObject *object, PyObject *args, PyObject *keywords)
{
    static char *names[] = {
        "values",      "keys",       "headers",  "timestamps", "max_batch_bytes", "max_chunk_bytes",
        "large_bytes", "attributes", "earliest", "latest",     "needs_key",       NULL};
    plog_many self = {.router = (plog_router_object *)object, .rows.state = plog_state_of(object)};
    PyObject *values, *keys, *headers, *timestamps; /* borrowed */
    Py_ssize_t limits[3] = {0};
    long long earliest = 0, latest = INT64_MAX;
    int needs_key = 0;
    PyObject *result = NULL;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "OOOO|$nnnhLLp:append_many", names, &values,
                                     &keys, &headers, &timestamps, &limits[0], &limits[1],
                                     &limits[2], &self.attributes, &earliest, &latest,
                                     &needs_key) ||
        plog_router_see_added(self.router) < 0) {
        return NULL;
    }
    self.partitions_count = (int32_t)self.router->count; /* more may be added meanwhile */
    self.rows.needs_key = needs_key != 0;
    const plog_time_range allowed = {earliest, latest};
    if (plog_rows_begin(&self.rows, values, keys, headers, timestamps, allowed) == 0 &&
        check_limits(&self, limits) == 0 && make_arrays(&self) == 0 && take_all(&self) == 0 &&
        hold_tails(&self) == 0 && stage_shares(&self) == 0) {
        result = append_taken(&self);
    }
    free_many(&self);
    return result;
}
