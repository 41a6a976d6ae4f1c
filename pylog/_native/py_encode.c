/* encode() and make_batch(): Python's records into batches.
 *
 * Two passes: the first takes the records out of their sequences and measures them, the second
 * writes into memory of exactly that size.  All objects that the records point into are kept until
 * the end, so the sequences may change and the GIL may be released meanwhile.
 */
#include "py_rows.h"

typedef struct {
    size_t count, size; /* records and bytes of one batch */
} planned_batch;

typedef struct {
    plog_rows rows;
    size_t max_batch_bytes, max_bytes;
    Py_ssize_t start;
    int16_t attributes;
    planned_batch *batches; /* owned */
    size_t batch_count, batch_capacity;
    size_t planned_records, planned_bytes;
} encoder;

/* Take records until all are there or they certainly fill max_bytes: a record is larger than its
 * key and value. */
static int take_records(encoder *self)
{
    size_t bytes = 0;
    for (Py_ssize_t index = self->start; index < self->rows.len && bytes <= self->max_bytes;
         index++) {
        if (plog_rows_take(&self->rows, index) < 0) {
            return -1;
        }
        const plog_record_in *record = &self->rows.records[self->rows.count - 1];
        bytes += PLOG_RECORD_MIN_BYTES + (size_t)(record->key.len > 0 ? record->key.len : 0) +
                 (size_t)(record->value.len > 0 ? record->value.len : 0);
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
    while (self->planned_records < self->rows.count) {
        size_t rest = self->max_bytes - self->planned_bytes;
        size_t limit = rest < self->max_batch_bytes ? rest : self->max_batch_bytes;
        size_t fit, size;
        plog_status status =
            plog_batch_measure(self->rows.records + self->planned_records,
                               self->rows.count - self->planned_records, limit, &fit, &size);
        if (status == PLOG_TOO_LARGE) {
            size_t allowed = self->max_batch_bytes < INT32_MAX ? self->max_batch_bytes : INT32_MAX;
            if (size > allowed) {
                plog_raise_too_large(self->rows.state, size, allowed);
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
        plog_status status = plog_batch_encode(self->rows.records + first, batch->count,
                                               (int64_t)first, self->attributes, out, batch->size);
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
        return plog_raise(self->rows.state, status);
    }
    return Py_BuildValue("(Nn)", data, self->start + (Py_ssize_t)self->planned_records);
}

/* ---- encode() */

static int check_sizes(encoder *self, Py_ssize_t max_batch_bytes, Py_ssize_t max_bytes)
{
    if (self->start < 0 || self->start > self->rows.len || max_batch_bytes < 0 || max_bytes < 0 ||
        self->rows.allowed.earliest < 0) {
        PyErr_SetString(PyExc_ValueError,
                        "start, max_batch_bytes, max_bytes or earliest is out of range");
        return -1;
    }
    self->max_batch_bytes = self->rows.limit = (size_t)max_batch_bytes;
    self->max_bytes = (size_t)max_bytes;
    return 0;
}

static PyObject *encode(PyObject *module, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"values",          "keys",   "headers",   "timestamps",
                            "max_batch_bytes", "start",  "max_bytes", "attributes",
                            "earliest",        "latest", "needs_key", NULL};
    encoder self = {.rows.state = (plog_module_state *)PyModule_GetState(module)};
    PyObject *values, *keys, *headers, *timestamps; /* borrowed */
    Py_ssize_t max_batch_bytes, max_bytes = PY_SSIZE_T_MAX;
    long long earliest = 0, latest = INT64_MAX;
    int needs_key = 0;
    PyObject *result = NULL;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OOOOn|nnhLLp:encode", names, &values, &keys,
                                     &headers, &timestamps, &max_batch_bytes, &self.start,
                                     &max_bytes, &self.attributes, &earliest, &latest,
                                     &needs_key)) {
        return NULL;
    }
    self.rows.needs_key = needs_key != 0;
    const plog_time_range allowed = {earliest, latest};
    if (plog_rows_begin(&self.rows, values, keys, headers, timestamps, allowed) == 0 &&
        check_sizes(&self, max_batch_bytes, max_bytes) == 0 && take_records(&self) == 0 &&
        plan_batches(&self) == 0) {
        result = write_result(&self);
    }
    plog_rows_release(&self.rows);
    PyMem_Free(self.batches);
    return result;
}

static PyMethodDef functions[] = {
    {"encode", PLOG_METHOD(encode), METH_VARARGS | METH_KEYWORDS,
     "Encode records from `start` on as whole batches; return them and the index behind the last."},
    {NULL, NULL, 0, NULL},
};

int plog_add_encode_functions(PyObject *module)
{
    return PyModule_AddFunctions(module, functions);
}
