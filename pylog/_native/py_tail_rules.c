/* Tail.configure: the rules of a topic, as Python has them.  It needs the GIL. */

#include "py_tail.h"

typedef enum {
    MAX_MESSAGE_BYTES,
    SEGMENT_BYTES,
    SEGMENT_MS,
    INDEX_INTERVAL_BYTES,
    TIMESTAMP_BEFORE_MS,
    TIMESTAMP_AFTER_MS,
    SETTINGS_SEEN,
    CONFIGURE_NUMBERS,
    VISIBLE_ON_APPEND = CONFIGURE_NUMBERS,
    IS_COMPRESSED,
    IS_LOG_APPEND_TIME,
    NEEDS_KEY,
    IS_HELD,
    CONFIGURE_ARGUMENTS
} configure_argument;

static const char *const configure_names[CONFIGURE_ARGUMENTS] = {
    "max_message_bytes",   "segment_bytes",      "segment_ms",    "index_interval_bytes",
    "timestamp_before_ms", "timestamp_after_ms", "settings_seen", "visible_on_append",
    "is_compressed",       "is_log_append_time", "needs_key",     "is_held"};
static const plog_signature configure_signature = {"configure", configure_names,
                                                   CONFIGURE_ARGUMENTS, CONFIGURE_ARGUMENTS, 0};

static int configure_numbers(PyObject *const *given, int64_t *numbers)
{
    for (int i = 0; i < CONFIGURE_NUMBERS; i++) {
        if (plog_int64_from_object(given[i], configure_names[i], &numbers[i]) < 0) {
            return -1;
        }
        if (numbers[i] < 0) {
            PyErr_Format(PyExc_ValueError, "%s is negative", configure_names[i]);
            return -1;
        }
    }
    return 0;
}

PyObject *plog_tail_configure(PyObject *object, PyObject *const *args, Py_ssize_t count,
                              PyObject *keyword_names)
{
    plog_tail_object *self = (plog_tail_object *)object;
    PyObject *given[CONFIGURE_ARGUMENTS] = {NULL}; /* borrowed */
    int64_t numbers[CONFIGURE_NUMBERS];
    if (plog_parse_arguments(&configure_signature, args, count, keyword_names, given) < 0 ||
        configure_numbers(given, numbers) < 0) {
        return NULL;
    }
    const int visible_on_append = PyObject_IsTrue(given[VISIBLE_ON_APPEND]);
    const int is_compressed = PyObject_IsTrue(given[IS_COMPRESSED]);
    const int is_log_append_time = PyObject_IsTrue(given[IS_LOG_APPEND_TIME]);
    const int needs_key = PyObject_IsTrue(given[NEEDS_KEY]);
    const int is_held = PyObject_IsTrue(given[IS_HELD]);
    if (visible_on_append < 0 || is_compressed < 0 || is_log_append_time < 0 || needs_key < 0 ||
        is_held < 0) {
        return NULL;
    }
    self->core.rules = (plog_tail_rules){.max_message_bytes = numbers[MAX_MESSAGE_BYTES],
                                         .segment_bytes = numbers[SEGMENT_BYTES],
                                         .segment_ms = numbers[SEGMENT_MS],
                                         .index_interval_bytes = numbers[INDEX_INTERVAL_BYTES],
                                         .timestamp_before_ms = numbers[TIMESTAMP_BEFORE_MS],
                                         .timestamp_after_ms = numbers[TIMESTAMP_AFTER_MS],
                                         .visible_on_append = visible_on_append != 0,
                                         .is_compressed = is_compressed != 0,
                                         .is_log_append_time = is_log_append_time != 0,
                                         .needs_key = needs_key != 0,
                                         .is_held = is_held != 0};
    self->core.settings_seen = (uint32_t)numbers[SETTINGS_SEEN];
    self->is_configured = true;
    Py_RETURN_NONE;
}
