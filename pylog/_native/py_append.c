/* Tail.append: one record from Python objects to its place.  The GIL is kept up to the lock. */

#include "py_tail.h"

/* Records of up to this many bytes as a batch are encoded without an allocation.  Guessed. */
enum { SCRATCH_BYTES = 4096 };

typedef enum { VALUE, KEY, HEADERS, TIMESTAMP, EXPECTED_OFFSET, APPEND_ARGUMENTS } append_argument;

static const char *const append_names[APPEND_ARGUMENTS] = {"value", "key", "headers", "timestamp",
                                                           "expected_offset"};
static const plog_signature append_signature = {"append", append_names, APPEND_ARGUMENTS, 1,
                                                APPEND_ARGUMENTS};

/* A record whose parts are borrowed from arguments, until record_release. */
typedef struct {
    plog_held_bytes value, key;
    plog_held_headers headers;
    plog_record_in record;
    int64_t now; /* by the clock */
} held_record;

int plog_tail_read_clock(plog_tail_object *self, int64_t *now)
{
    if (self->is_system_clock) {
        *now = plog_wall_clock_ns() / 1000000;
    } else {
        PyObject *object = PyObject_CallNoArgs(self->clock); /* strong */
        if (object == NULL || plog_int64_from_object(object, "the clock's time", now) < 0) {
            Py_XDECREF(object);
            return -1;
        }
        Py_DECREF(object);
    }
    if (*now < 0) {
        plog_raise_timestamp(plog_state_of((PyObject *)self), *now, 0, INT64_MAX);
        return -1;
    }
    return 0;
}

/* Whether a caller's timestamp lies near enough to the clock's. */
static int check_timestamp(plog_tail_object *self, int64_t timestamp, int64_t now)
{
    const plog_tail_rules *rules = &self->core.rules;
    plog_time_range allowed = PLOG_ANY_TIME;
    /* Who is not configured is not attached either, and places nothing. */
    if (self->is_configured &&
        (rules->timestamp_before_ms < INT64_MAX || rules->timestamp_after_ms < INT64_MAX)) {
        allowed =
            plog_time_range_around(now, rules->timestamp_before_ms, rules->timestamp_after_ms);
    }
    if (!plog_time_is_in(allowed, timestamp)) {
        plog_raise_timestamp(plog_state_of((PyObject *)self), timestamp, allowed.earliest,
                             allowed.latest);
        return -1;
    }
    return 0;
}

static int read_timestamp(plog_tail_object *self, PyObject *given, int64_t *timestamp, int64_t *now)
{
    if (plog_tail_read_clock(self, now) < 0) {
        return -1;
    }
    if (given == NULL || given == Py_None || self->core.rules.is_log_append_time) {
        *timestamp = *now;
        return 0;
    }
    if (plog_int64_from_object(given, "timestamp", timestamp) < 0) {
        return -1;
    }
    return check_timestamp(self, *timestamp, *now);
}

static void record_release(held_record *held)
{
    plog_headers_release(&held->headers);
    plog_bytes_release(&held->key);
    plog_bytes_release(&held->value);
}

static int record_from_arguments(plog_tail_object *self, PyObject *const *given, held_record *held)
{
    const plog_module_state *state = plog_state_of((PyObject *)self);
    int64_t timestamp;
    held->value.view.obj = NULL;
    held->key.view.obj = NULL;
    held->headers.pairs = held->headers.inline_pairs; /* whose bytes are not worth clearing */
    held->headers.count = 0;
    held->headers.kept = NULL;
    if (read_timestamp(self, given[TIMESTAMP], &timestamp, &held->now) < 0 ||
        plog_bytes_from_object(state, given[VALUE], "value", &held->value) < 0 ||
        plog_bytes_from_object(state, given[KEY] == NULL ? Py_None : given[KEY], "key",
                               &held->key) < 0 ||
        plog_headers_from_object(state, given[HEADERS], &held->headers) < 0) {
        record_release(held);
        return -1;
    }
    held->record = (plog_record_in){.key = held->key.bytes,
                                    .value = held->value.bytes,
                                    .headers = held->headers.pairs,
                                    .header_count = held->headers.count,
                                    .timestamp = timestamp};
    return 0;
}

/* Encode and place a record of `size` bytes as a batch, in `memory` of that size. */
static plog_status encode_and_place(plog_tail_object *self, const held_record *held,
                                    uint8_t *memory, size_t size, int64_t expected_offset,
                                    plog_placed *placed)
{
    size_t encoded;
    const int16_t attributes =
        self->core.rules.is_log_append_time ? PLOG_ATTRIBUTE_LOG_APPEND_TIME : 0;
    plog_status status = plog_batch_encode_one(&held->record, attributes, memory, size, &encoded);
    if (status == PLOG_OK) {
        status = plog_tail_place_object(self, (plog_memory){memory, encoded}, expected_offset,
                                        held->now, placed);
    }
    return status;
}

static PyObject *append_record(plog_tail_object *self, const held_record *held,
                               int64_t expected_offset)
{
    const plog_record_in *record = &held->record;
    const plog_module_state *state = plog_state_of((PyObject *)self);
    const size_t size = plog_record_batch_bound(record);
    plog_placed placed;
    plog_status status;
    if (self->is_configured && size > (uint64_t)self->core.rules.max_message_bytes) {
        return plog_raise_too_large(state, size, (size_t)self->core.rules.max_message_bytes);
    }
    if (size <= SCRATCH_BYTES) {
        uint8_t scratch[SCRATCH_BYTES];
        status = encode_and_place(self, held, scratch, size, expected_offset, &placed);
    } else {
        uint8_t *memory = PyMem_Malloc(size);
        if (memory == NULL) {
            return PyErr_NoMemory();
        }
        status = encode_and_place(self, held, memory, size, expected_offset, &placed);
        PyMem_Free(memory);
    }
    if (status != PLOG_OK) {
        return plog_tail_not_placed(self, status);
    }
    return plog_record_metadata_new(state, self->topic, self->partition, placed.first_offset,
                                    record->timestamp);
}

PyObject *plog_tail_append(PyObject *object, PyObject *const *args, Py_ssize_t count,
                           PyObject *keyword_names)
{
    plog_tail_object *self = (plog_tail_object *)object;
    PyObject *given[APPEND_ARGUMENTS] = {NULL}; /* borrowed */
    int64_t expected_offset = -1;
    held_record held;
    if (plog_parse_arguments(&append_signature, args, count, keyword_names, given) < 0) {
        return NULL;
    }
    /* What old rules refuse may be fine by the new ones. */
    if (self->core.rules.is_compressed || !plog_tail_is_current(&self->core)) {
        return plog_tail_not_placed(self, PLOG_NOT_OPEN);
    }
    PyObject *key = given[KEY] == NULL ? Py_None : given[KEY]; /* borrowed */
    if (key == Py_None && self->core.rules.needs_key) {
        return plog_tail_not_placed(self,
                                    PLOG_NOT_OPEN); /* whoever encodes it says what is wrong */
    }
    PyObject *expected = given[EXPECTED_OFFSET];
    if (expected != NULL && expected != Py_None) {
        if (plog_int64_from_object(expected, "expected_offset", &expected_offset) < 0) {
            return NULL;
        }
        if (expected_offset < 0) {
            return PyErr_Format(PyExc_ValueError, "expected_offset=%lld: expected at least 0",
                                (long long)expected_offset);
        }
    }
    if (record_from_arguments(self, given, &held) < 0) {
        return NULL;
    }
    PyObject *result = append_record(self, &held, expected_offset);
    record_release(&held);
    return result;
}
