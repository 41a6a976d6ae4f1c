/* Tail.append: one record from Python objects to its place.  The GIL is kept up to the lock. */

#include "py_held_record.h"
#include "py_tail.h"

/* Records of up to this many bytes as a batch are encoded without an allocation.  Guessed. */
enum { SCRATCH_BYTES = 4096 };

typedef enum { VALUE, KEY, HEADERS, TIMESTAMP, EXPECTED_OFFSET, APPEND_ARGUMENTS } append_argument;

static const char *const append_names[APPEND_ARGUMENTS] = {"value", "key", "headers", "timestamp",
                                                           "expected_offset"};
static const plog_signature append_signature = {"append", append_names, APPEND_ARGUMENTS, 1,
                                                APPEND_ARGUMENTS};

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
        plog_raise_timestamp(self->state, *now, 0, INT64_MAX);
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
        plog_raise_timestamp(self->state, timestamp, allowed.earliest, allowed.latest);
        return -1;
    }
    return 0;
}

/* The timestamp of a record, and the time by the clock. */
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

/* Encode a record as a batch in `memory`, and place it.  A new RecordMetadata, a status as an int,
 * or NULL with an error. */
static PyObject *encode_and_place(plog_tail_object *self, const plog_record_in *record,
                                  const plog_single *single, PyObject *given_timestamp,
                                  int64_t expected_offset, uint8_t *memory)
{
    const uint32_t settings_seen = self->core.settings_seen;
    int64_t timestamp, now;
    plog_placed placed;
    plog_single_write(single, record, memory);
    if (read_timestamp(self, given_timestamp, &timestamp, &now) < 0) {
        return NULL;
    }
    if (settings_seen != self->core.settings_seen) { /* a clock of Python's let others in */
        return plog_tail_not_placed(self, PLOG_NOT_OPEN);
    }
    const int16_t attributes =
        self->core.rules.is_log_append_time ? PLOG_ATTRIBUTE_LOG_APPEND_TIME : 0;
    plog_single_seal(single, timestamp, attributes, memory);
    const plog_status status = plog_tail_place_object(self, (plog_memory){memory, single->size},
                                                      expected_offset, now, &placed);
    return status == PLOG_OK ? plog_record_metadata_new(self->state, self->topic, self->partition,
                                                        placed.first_offset, timestamp)
                             : plog_tail_not_placed(self, status);
}

static PyObject *append_record(plog_tail_object *self, const plog_record_in *record,
                               PyObject *timestamp, int64_t expected_offset)
{
    const plog_tail_rules *rules = &self->core.rules;
    /* What old rules refuse may be fine by the new ones; whoever gets it then says what is not. */
    if (rules->is_compressed || (rules->needs_key && record->key.len < 0) ||
        !plog_tail_is_current(&self->core)) {
        return plog_tail_not_placed(self, PLOG_NOT_OPEN);
    }
    const plog_single single = plog_single_measure(record);
    const int64_t limit = self->is_configured ? rules->max_message_bytes : INT32_MAX;
    if (single.size > (uint64_t)limit || single.size > INT32_MAX) {
        return plog_raise_too_large(self->state, single.size,
                                    limit < INT32_MAX ? (size_t)limit : INT32_MAX);
    }
    if (single.size <= SCRATCH_BYTES) {
        uint8_t scratch[SCRATCH_BYTES];
        return encode_and_place(self, record, &single, timestamp, expected_offset, scratch);
    }
    uint8_t *memory = PyMem_Malloc(single.size);
    if (memory == NULL) {
        return PyErr_NoMemory();
    }
    PyObject *result = encode_and_place(self, record, &single, timestamp, expected_offset, memory);
    PyMem_Free(memory);
    return result;
}

PyObject *plog_tail_append(PyObject *object, PyObject *const *args, Py_ssize_t count,
                           PyObject *keyword_names)
{
    plog_tail_object *self = (plog_tail_object *)object;
    PyObject *given[APPEND_ARGUMENTS] = {NULL}; /* borrowed */
    int64_t expected_offset = -1;
    plog_held_record held;
    if (plog_parse_arguments(&append_signature, args, count, keyword_names, given) < 0) {
        return NULL;
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
    if (plog_record_hold(self->state, given[VALUE], given[KEY], given[HEADERS], &held) < 0) {
        return NULL;
    }
    PyObject *result = append_record(self, &held.record, given[TIMESTAMP], expected_offset);
    plog_record_let_go(&held);
    return result;
}
