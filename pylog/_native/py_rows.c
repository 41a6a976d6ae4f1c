/* Taking records out of Python's sequences: see py_rows.h. */
#include "py_rows.h"

/* Rows ahead of the one that is taken or released, whose objects are fetched.  Measured. */
enum { ROWS_AHEAD = 8 };

void plog_rows_release(plog_rows *self)
{
    for (size_t i = 0; i < self->count; i++) {
        if (i + ROWS_AHEAD < self->count) {
            __builtin_prefetch(self->kept[i + ROWS_AHEAD].key, 1);
            __builtin_prefetch(self->kept[i + ROWS_AHEAD].value, 1);
        }
        Py_XDECREF(self->kept[i].key);
        Py_XDECREF(self->kept[i].value);
        if (self->kept[i].headers != NULL) {
            plog_headers_release(self->kept[i].headers);
            PyMem_Free(self->kept[i].headers);
        }
    }
    PyMem_Free(self->records);
    PyMem_Free(self->kept);
}

static int raise_element_type(PyObject *object, const char *sequence, Py_ssize_t index,
                              const char *wanted)
{
    PyObject *name = PyType_GetName(Py_TYPE(object));
    if (name != NULL) {
        PyErr_Format(PyExc_TypeError, "%s[%zd] must be %s, not %U", sequence, index, wanted, name);
        Py_DECREF(name);
    }
    return -1;
}

static PyObject *element(PyObject *sequence, Py_ssize_t index)
{
    if (PyList_CheckExact(sequence)) {
        return Py_XNewRef(PyList_GetItem(sequence, index));
    }
    return PySequence_GetItem(sequence, index);
}

/* Element `index` as bytes that nobody can change: *kept owns them, NULL for None. */
static int take_bytes(const plog_rows *self, PyObject *sequence, const char *name, Py_ssize_t index,
                      PyObject **kept, plog_bytes *out)
{
    PyObject *object = element(sequence, index); /* strong */
    *kept = NULL;
    *out = (plog_bytes){NULL, -1};
    if (object == NULL || object == Py_None) {
        Py_XDECREF(object);
        return object == NULL ? -1 : 0;
    }
    if (!PyBytes_CheckExact(object)) {
        bool is_buffer = PyObject_CheckBuffer(object);
        PyObject *copy = is_buffer ? PyBytes_FromObject(object) : NULL;
        if (!is_buffer) {
            raise_element_type(object, name, index, "bytes-like or None");
        }
        Py_DECREF(object);
        if (copy == NULL) {
            return -1;
        }
        object = copy;
    }
    char *data;
    Py_ssize_t len;
    *kept = object;
    (void)PyBytes_AsStringAndSize(object, &data, &len);
    if (len > INT32_MAX) {
        plog_raise_too_large(self->state, (size_t)len, self->limit);
        return -1;
    }
    *out = (plog_bytes){(const uint8_t *)data, (int32_t)len};
    return 0;
}

static int take_headers(const plog_rows *self, Py_ssize_t index, plog_held_headers **kept,
                        plog_record_in *record)
{
    PyObject *headers = element(self->headers, index); /* strong */
    int result = headers == NULL ? -1 : 0;
    if (headers != NULL && headers != Py_None) {
        *kept = PyMem_Malloc(sizeof **kept);
        if (*kept == NULL) {
            PyErr_NoMemory();
            result = -1;
        } else {
            result = plog_headers_from_object(self->state, headers, *kept);
            record->headers = (*kept)->pairs;
            record->header_count = (*kept)->count;
        }
    }
    Py_XDECREF(headers);
    return result;
}

static int take_timestamp(const plog_rows *self, Py_ssize_t index, int64_t *out)
{
    *out = self->timestamp;
    if (self->timestamps != NULL) {
        PyObject *object = element(self->timestamps, index); /* strong */
        int result = object == NULL ? -1 : plog_int64_from_object(object, "a timestamp", out);
        Py_XDECREF(object);
        if (result < 0) {
            return -1;
        }
    }
    if (!plog_time_is_in(self->allowed, *out)) {
        plog_raise_timestamp(self->state, *out, self->allowed.earliest, self->allowed.latest);
        return -1;
    }
    return 0;
}

int plog_rows_reserve(plog_rows *self, size_t count)
{
    plog_record_in *records = PyMem_Realloc(self->records, count * sizeof *records);
    if (records == NULL) {
        return -1;
    }
    self->records = records;
    plog_kept_row *kept = PyMem_Realloc(self->kept, count * sizeof *kept);
    if (kept == NULL) {
        return -1;
    }
    self->kept = kept;
    self->capacity = count;
    return 0;
}

static int make_room(plog_rows *self)
{
    if (self->count == self->capacity &&
        plog_rows_reserve(self, self->capacity == 0 ? 256 : 2 * self->capacity) < 0) {
        PyErr_NoMemory();
        return -1;
    }
    return 0;
}

/* Values lie scattered over memory: what is taken soon is fetched now. */
static void prefetch_value(const plog_rows *self, Py_ssize_t index)
{
    enum { LINES = 3, LINE_BYTES = 64 };
    if (index + ROWS_AHEAD >= self->len || !PyList_CheckExact(self->values)) {
        return;
    }
    const char *object =
        (const char *)PyList_GetItem(self->values, index + ROWS_AHEAD); /* borrowed */
    if (object == NULL) {
        PyErr_Clear(); /* the list shrank meanwhile: noticed where the element is taken */
        return;
    }
    for (int i = 0; i < LINES; i++) {
        __builtin_prefetch(object + (ptrdiff_t)i * LINE_BYTES);
    }
}

int plog_rows_take(plog_rows *self, Py_ssize_t index)
{
    if (make_room(self) < 0) {
        return -1;
    }
    prefetch_value(self, index);
    plog_record_in *record = &self->records[self->count];
    plog_kept_row *kept = &self->kept[self->count];
    *record = (plog_record_in){.key = {NULL, -1}};
    *kept = (plog_kept_row){NULL, NULL, NULL};
    self->count++; /* from here on plog_rows_release frees what the row holds */
    if (take_bytes(self, self->values, "values", index, &kept->value, &record->value) < 0 ||
        take_timestamp(self, index, &record->timestamp) < 0) {
        return -1;
    }
    if (self->keys != NULL &&
        take_bytes(self, self->keys, "keys", index, &kept->key, &record->key) < 0) {
        return -1;
    }
    if (self->needs_key && record->key.len < 0) {
        plog_raise_no_key(self->state);
        return -1;
    }
    return self->headers == NULL ? 0 : take_headers(self, index, &kept->headers, record);
}

/* The length of an optional sequence must be that of values. */
static int check_parallel(const plog_rows *self, PyObject *sequence, const char *name)
{
    if (sequence == NULL) {
        return 0;
    }
    Py_ssize_t len = PySequence_Size(sequence);
    if (len < 0) {
        return -1;
    }
    if (len != self->len) {
        PyErr_Format(PyExc_ValueError, "%s has %zd elements, values has %zd", name, len, self->len);
        return -1;
    }
    return 0;
}

int plog_rows_begin(plog_rows *self, PyObject *values, PyObject *keys, PyObject *headers,
                    PyObject *timestamps, plog_time_range allowed)
{
    self->allowed = allowed;
    self->values = values;
    self->keys = keys == Py_None ? NULL : keys;
    self->headers = headers == Py_None ? NULL : headers;
    self->timestamps = timestamps;
    if (PyLong_Check(timestamps)) {
        self->timestamps = NULL;
        if (plog_int64_from_object(timestamps, "timestamps", &self->timestamp) < 0) {
            return -1;
        }
    }
    self->len = PySequence_Size(values);
    if (self->len < 0 || check_parallel(self, self->keys, "keys") < 0 ||
        check_parallel(self, self->headers, "headers") < 0 ||
        check_parallel(self, self->timestamps, "timestamps") < 0) {
        return -1;
    }
    return 0;
}
