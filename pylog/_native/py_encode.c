/* encode() and make_batch(): Python's records into batches.
 *
 * Two passes: the first takes the records out of their sequences and measures them, the second
 * writes into memory of exactly that size.  All objects that the records point into are kept until
 * the end, so the sequences may change and the GIL may be released meanwhile.
 */
#include "py_common.h"
#include "record.h"

/* One record's objects. */
typedef struct {
    PyObject *key, *value;      /* strong or NULL: exact bytes */
    plog_held_headers *headers; /* owned or NULL */
} row;

typedef struct {
    size_t count, size; /* records and bytes of one batch */
} planned_batch;

typedef struct {
    const plog_module_state *state;
    PyObject *values, *keys, *headers, *timestamps; /* borrowed; NULL when None */
    int64_t timestamp;                              /* of all, when timestamps is NULL */
    size_t max_batch_bytes, max_bytes;
    Py_ssize_t start, end;
    plog_record_in *records; /* owned, as are the next two */
    row *rows;
    planned_batch *batches;
    size_t count, capacity, batch_count, batch_capacity;
    size_t planned_records, planned_bytes;
} encoder;

static void free_encoder(encoder *self)
{
    for (size_t i = 0; i < self->count; i++) {
        Py_XDECREF(self->rows[i].key);
        Py_XDECREF(self->rows[i].value);
        if (self->rows[i].headers != NULL) {
            plog_headers_release(self->rows[i].headers);
            PyMem_Free(self->rows[i].headers);
        }
    }
    PyMem_Free(self->records);
    PyMem_Free(self->rows);
    PyMem_Free(self->batches);
}

/* ---- taking records out of the sequences */

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
static int take_bytes(const encoder *self, PyObject *sequence, const char *name, Py_ssize_t index,
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
        plog_raise_too_large(self->state, (size_t)len, self->max_batch_bytes);
        return -1;
    }
    *out = (plog_bytes){(const uint8_t *)data, (int32_t)len};
    return 0;
}

static int take_headers(const encoder *self, Py_ssize_t index, plog_held_headers **kept,
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

static int take_timestamp(const encoder *self, Py_ssize_t index, int64_t *out)
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
    if (*out < 0) {
        PyErr_Format(self->state->errors[PLOG_INVALID_RECORD_ERROR],
                     "timestamp %lld of record %zd is negative", (long long)*out, index);
        return -1;
    }
    return 0;
}

static int make_room(encoder *self)
{
    if (self->count < self->capacity) {
        return 0;
    }
    size_t capacity = self->capacity == 0 ? 256 : 2 * self->capacity;
    plog_record_in *records = PyMem_Realloc(self->records, capacity * sizeof *records);
    if (records != NULL) {
        self->records = records;
    }
    row *rows = records == NULL ? NULL : PyMem_Realloc(self->rows, capacity * sizeof *rows);
    if (rows == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    self->rows = rows;
    self->capacity = capacity;
    return 0;
}

static int take_record(encoder *self, Py_ssize_t index)
{
    if (make_room(self) < 0) {
        return -1;
    }
    plog_record_in *record = &self->records[self->count];
    row *kept = &self->rows[self->count];
    *record = (plog_record_in){.key = {NULL, -1}};
    *kept = (row){NULL, NULL, NULL};
    self->count++; /* from here on free_encoder releases what the row holds */
    if (take_bytes(self, self->values, "values", index, &kept->value, &record->value) < 0 ||
        take_timestamp(self, index, &record->timestamp) < 0) {
        return -1;
    }
    if (self->keys != NULL &&
        take_bytes(self, self->keys, "keys", index, &kept->key, &record->key) < 0) {
        return -1;
    }
    return self->headers == NULL ? 0 : take_headers(self, index, &kept->headers, record);
}

/* Take records until all are there or they certainly fill max_bytes. */
static int take_records(encoder *self)
{
    size_t bytes = 0;
    for (Py_ssize_t index = self->start; index < self->end && bytes <= self->max_bytes; index++) {
        if (take_record(self, index) < 0) {
            return -1;
        }
        const plog_record_in *record = &self->records[self->count - 1];
        bytes += plog_record_size(plog_record_body_size(record, 0, 0));
    }
    return 0;
}

/* ---- planning and writing */

static int plan_batch(encoder *self, size_t count, size_t size)
{
    if (self->batch_count == self->batch_capacity) {
        size_t capacity = self->batch_capacity == 0 ? 16 : 2 * self->batch_capacity;
        planned_batch *batches = PyMem_Realloc(self->batches, capacity * sizeof *batches);
        if (batches == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        self->batches = batches;
        self->batch_capacity = capacity;
    }
    self->batches[self->batch_count++] = (planned_batch){count, size};
    self->planned_records += count;
    self->planned_bytes += size;
    return 0;
}

static int plan_batches(encoder *self)
{
    while (self->planned_records < self->count) {
        size_t rest = self->max_bytes - self->planned_bytes;
        size_t limit = rest < self->max_batch_bytes ? rest : self->max_batch_bytes;
        size_t fit, size;
        plog_status status =
            plog_batch_measure(self->records + self->planned_records,
                               self->count - self->planned_records, limit, &fit, &size);
        if (status == PLOG_TOO_LARGE) {
            size_t allowed = self->max_batch_bytes < INT32_MAX ? self->max_batch_bytes : INT32_MAX;
            if (size > allowed) {
                plog_raise_too_large(self->state, size, allowed);
                return -1;
            }
            if (self->planned_records > 0) {
                return 0;
            }
            fit = 1; /* at least one record is encoded, whatever max_bytes says */
        }
        if (plan_batch(self, fit, size) < 0) {
            return -1;
        }
        if (self->planned_bytes >= self->max_bytes) {
            return 0;
        }
    }
    return 0;
}

/* Needs no GIL. */
static plog_status write_batches(const encoder *self, uint8_t *out)
{
    size_t first = 0;
    for (size_t i = 0; i < self->batch_count; i++) {
        const planned_batch *batch = &self->batches[i];
        plog_status status = plog_batch_encode(self->records + first, batch->count, (int64_t)first,
                                               out, batch->size);
        if (status != PLOG_OK) {
            return status;
        }
        first += batch->count;
        out += batch->size;
    }
    return PLOG_OK;
}

static PyObject *write_result(const encoder *self)
{
    PyObject *data = PyByteArray_FromStringAndSize(NULL, (Py_ssize_t)self->planned_bytes);
    if (data == NULL) {
        return NULL;
    }
    uint8_t *out = (uint8_t *)PyByteArray_AsString(data);
    plog_status status;
    if (self->planned_bytes > PLOG_GIL_BYTES) {
        Py_BEGIN_ALLOW_THREADS status = write_batches(self, out);
        Py_END_ALLOW_THREADS
    } else {
        status = write_batches(self, out);
    }
    if (status != PLOG_OK) {
        Py_DECREF(data);
        return plog_raise(self->state, status);
    }
    return Py_BuildValue("(Nn)", data, self->start + (Py_ssize_t)self->planned_records);
}

/* ---- encode() */

/* The length of an optional sequence must be that of values. */
static int check_parallel(const encoder *self, PyObject *sequence, const char *name)
{
    if (sequence == NULL) {
        return 0;
    }
    Py_ssize_t len = PySequence_Size(sequence);
    if (len < 0) {
        return -1;
    }
    if (len != self->end) {
        PyErr_Format(PyExc_ValueError, "%s has %zd elements, values has %zd", name, len, self->end);
        return -1;
    }
    return 0;
}

static int check_sizes(encoder *self, Py_ssize_t max_batch_bytes, Py_ssize_t max_bytes)
{
    self->end = PySequence_Size(self->values);
    if (self->end < 0 || check_parallel(self, self->keys, "keys") < 0 ||
        check_parallel(self, self->headers, "headers") < 0 ||
        check_parallel(self, self->timestamps, "timestamps") < 0) {
        return -1;
    }
    if (self->start < 0 || self->start > self->end || max_batch_bytes < 0 || max_bytes < 0) {
        PyErr_SetString(PyExc_ValueError, "start, max_batch_bytes or max_bytes is out of range");
        return -1;
    }
    self->max_batch_bytes = (size_t)max_batch_bytes;
    self->max_bytes = (size_t)max_bytes;
    return 0;
}

static PyObject *encode(PyObject *module, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"values",          "keys",  "headers",   "timestamps",
                            "max_batch_bytes", "start", "max_bytes", NULL};
    encoder self = {.state = (plog_module_state *)PyModule_GetState(module)};
    Py_ssize_t max_batch_bytes, max_bytes = PY_SSIZE_T_MAX;
    PyObject *result = NULL;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OOOOn|nn:encode", names, &self.values,
                                     &self.keys, &self.headers, &self.timestamps, &max_batch_bytes,
                                     &self.start, &max_bytes)) {
        return NULL;
    }
    self.keys = self.keys == Py_None ? NULL : self.keys;
    self.headers = self.headers == Py_None ? NULL : self.headers;
    if (PyLong_Check(self.timestamps)) {
        if (plog_int64_from_object(self.timestamps, "timestamps", &self.timestamp) < 0) {
            return NULL;
        }
        self.timestamps = NULL;
    }
    if (check_sizes(&self, max_batch_bytes, max_bytes) == 0 && take_records(&self) == 0 &&
        plan_batches(&self) == 0) {
        result = write_result(&self);
    }
    free_encoder(&self);
    return result;
}

static PyMethodDef functions[] = {
    {"encode", (PyCFunction)(void (*)(void))encode, METH_VARARGS | METH_KEYWORDS,
     "Encode records from `start` on as whole batches; return them and the index behind the last."},
    {NULL, NULL, 0, NULL},
};

int plog_add_encode_functions(PyObject *module)
{
    return PyModule_AddFunctions(module, functions);
}
