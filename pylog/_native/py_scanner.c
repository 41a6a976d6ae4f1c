/* Scanner: recovery's walk over a segment.
 *
 * Knows: how to give the core room for the entries it emits.  While one thread feeds with the GIL
 * released, every other use raises.
 */
#include "py_common.h"
#include <structmember.h> /* needs Python.h before it */
#include <stdlib.h>       /* realloc needs no GIL; PyMem_RawRealloc is not in the limited API */

#include "scan.h"

typedef struct {
    PyObject_HEAD plog_scanner scanner; /* owns the memory of its three entry buffers */
    bool is_busy;
} scanner;

static plog_scanner *borrow(PyObject *object)
{
    scanner *self = (scanner *)object;
    if (self->is_busy) {
        PyErr_SetString(PyExc_RuntimeError, "another thread is feeding this Scanner");
        return NULL;
    }
    return &self->scanner;
}

static PyObject *scanner_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"base_offset",          "next_offset", "position",
                            "index_interval_bytes", "strict",      NULL};
    long long base_offset = -1, next_offset = -1, interval = 4096;
    Py_ssize_t position = 0;
    int is_strict = 1;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|$LLnLp:Scanner", names, &base_offset,
                                     &next_offset, &position, &interval, &is_strict)) {
        return NULL;
    }
    if (base_offset < 0 || next_offset < base_offset || position < 0) {
        PyErr_SetString(PyExc_ValueError,
                        "needs 0 <= base_offset <= next_offset and 0 <= position");
        return NULL;
    }
    scanner *self = PyObject_New(scanner, type);
    if (self != NULL) {
        self->is_busy = false;
        plog_scanner_begin(&self->scanner, base_offset, next_offset, (size_t)position, interval,
                           is_strict != 0);
    }
    return (PyObject *)self;
}

static void scanner_dealloc(PyObject *object)
{
    plog_scanner *core = &((scanner *)object)->scanner;
    free(core->index.entries);
    free(core->timeindex.entries);
    free(core->epochs.entries);
    plog_free_object(object);
}

/* Double a buffer that has no room for one entry more.  Needs no GIL. */
static bool grow(plog_entry_buffer *buffer)
{
    const size_t largest_entry = 16, first_capacity = 1024;
    if (buffer->capacity - buffer->size >= largest_entry) {
        return true;
    }
    size_t capacity = buffer->capacity == 0 ? first_capacity : 2 * buffer->capacity;
    uint8_t *entries = realloc(buffer->entries, capacity);
    if (entries == NULL) {
        return false;
    }
    buffer->entries = entries;
    buffer->capacity = capacity;
    return true;
}

/* Needs no GIL.  NO_ROOM: out of memory. */
static plog_status feed_all(plog_scanner *core, const uint8_t *data, size_t len)
{
    for (;;) {
        size_t consumed;
        plog_status status = plog_scanner_feed(core, data, len, &consumed);
        data += consumed;
        len -= consumed;
        if (status != PLOG_NO_ROOM) {
            return status;
        }
        if (!grow(&core->index) || !grow(&core->timeindex) || !grow(&core->epochs)) {
            return PLOG_NO_ROOM;
        }
    }
}

static PyObject *scanner_feed(PyObject *object, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"data", "start", "end", NULL};
    scanner *self = (scanner *)object;
    Py_buffer data;
    PyObject *start_object = NULL, *end_object = NULL, *result = NULL;
    size_t start, end;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "y*|OO:feed", names, &data, &start_object,
                                     &end_object)) {
        return NULL;
    }
    plog_scanner *core = borrow(object);
    if (core != NULL &&
        plog_range_from_objects(start_object, end_object, data.len, &start, &end) == 0) {
        const uint8_t *bytes = (const uint8_t *)data.buf + start;
        plog_status status;
        if (end - start > PLOG_GIL_BYTES) {
            self->is_busy = true;
            Py_BEGIN_ALLOW_THREADS status = feed_all(core, bytes, end - start);
            Py_END_ALLOW_THREADS self->is_busy = false;
        } else {
            status = feed_all(core, bytes, end - start);
        }
        result = status == PLOG_NO_ROOM ? PyErr_NoMemory() : PyLong_FromLong(status);
    }
    PyBuffer_Release(&data);
    return result;
}

static PyObject *scanner_skip_to(PyObject *object, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"position", "next_offset", NULL};
    Py_ssize_t position;
    long long next_offset;
    plog_scanner *core = borrow(object);
    if (core == NULL ||
        !PyArg_ParseTupleAndKeywords(args, kwargs, "nL:skip_to", names, &position, &next_offset)) {
        return NULL;
    }
    if (position < 0 || (size_t)position < core->position || next_offset < core->next_offset) {
        PyErr_SetString(PyExc_ValueError, "a scanner only goes forward");
        return NULL;
    }
    core->position = (size_t)position;
    core->next_offset = next_offset;
    Py_RETURN_NONE;
}

static PyObject *scanner_seal(PyObject *object, PyObject *unused)
{
    (void)unused;
    plog_scanner *core = borrow(object);
    if (core == NULL) {
        return NULL;
    }
    if (!grow(&core->timeindex)) {
        return PyErr_NoMemory();
    }
    (void)plog_scanner_seal(core);
    Py_RETURN_NONE;
}

/* ---- properties: the closure is the position of an int64_t in the object. */

static PyObject *get_integer(PyObject *object, void *closure)
{
    int64_t value;
    if (borrow(object) == NULL) {
        return NULL;
    }
    memcpy(&value, (const char *)object + (uintptr_t)closure, sizeof value);
    return PyLong_FromLongLong(value);
}

static PyObject *get_is_strict(PyObject *object, void *closure)
{
    (void)closure;
    const plog_scanner *core = borrow(object);
    return core == NULL ? NULL : PyBool_FromLong(core->is_strict);
}

static PyObject *entries_as_bytes(PyObject *object, void *closure)
{
    if (borrow(object) == NULL) {
        return NULL;
    }
    const plog_entry_buffer *buffer =
        (const plog_entry_buffer *)(const void *)((const char *)object + (uintptr_t)closure);
    return PyBytes_FromStringAndSize((const char *)buffer->entries, (Py_ssize_t)buffer->size);
}

static PyObject *get_epochs(PyObject *object, void *closure)
{
    (void)closure;
    const plog_scanner *core = borrow(object);
    PyObject *list = core == NULL ? NULL : PyList_New(0);
    plog_epoch_entry entry;
    for (size_t i = 0; list != NULL && i < core->epochs.size; i += sizeof entry) {
        memcpy(&entry, core->epochs.entries + i, sizeof entry);
        PyObject *pair =
            Py_BuildValue("(iL)", (int)entry.leader_epoch, (long long)entry.first_offset);
        if (pair == NULL || PyList_Append(list, pair) < 0) {
            Py_CLEAR(list);
        }
        Py_XDECREF(pair);
    }
    return list;
}

#define FIELD(name) (void *)offsetof(scanner, scanner.name)

static PyGetSetDef scanner_getters[] = {
    {"position", get_integer, NULL, "In the file: behind the last good batch.", FIELD(position)},
    {"next_offset", get_integer, NULL, "After the last good batch.", FIELD(next_offset)},
    {"batches", get_integer, NULL, NULL, FIELD(batches)},
    {"records", get_integer, NULL, NULL, FIELD(records)},
    {"first_timestamp", get_integer, NULL, "Max timestamp of the first batch, -1: none.",
     FIELD(first_timestamp)},
    {"max_timestamp", get_integer, NULL, "-1: none.", FIELD(progress.max_timestamp)},
    {"max_timestamp_offset", get_integer, NULL,
     "Last offset of the batch that first reached max_timestamp, -1: none.",
     FIELD(progress.max_timestamp_offset)},
    {"bytes_since_index_entry", get_integer, NULL, NULL, FIELD(progress.bytes_since_entry)},
    {"is_strict", get_is_strict, NULL, "Offsets are dense; else they only ascend.", NULL},
    {"index", entries_as_bytes, NULL, "Entries of the .index file.", FIELD(index)},
    {"timeindex", entries_as_bytes, NULL, "Entries of the .timeindex file.", FIELD(timeindex)},
    {"epochs", get_epochs, NULL, "(leader epoch, first base offset) at each change.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMethodDef scanner_methods[] = {
    {"feed", PLOG_METHOD(scanner_feed), METH_VARARGS | METH_KEYWORDS,
     "Consume whole batches from data[start:end]; return what stopped it."},
    {"skip_to", PLOG_METHOD(scanner_skip_to), METH_VARARGS | METH_KEYWORDS,
     "Go on behind a damaged range."},
    {"seal", scanner_seal, METH_NOARGS, "Add the final time entry."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot scanner_slots[] = {
    {Py_tp_doc, "Walks whole batches and derives what a segment's indexes must hold."},
    {Py_tp_new, (void *)scanner_new},
    {Py_tp_dealloc, (void *)scanner_dealloc},
    {Py_tp_getset, scanner_getters},
    {Py_tp_methods, scanner_methods},
    {0, NULL},
};

static PyType_Spec scanner_spec = {
    .name = "pylog._native.Scanner",
    .basicsize = sizeof(scanner),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = scanner_slots,
};

int plog_add_scanner_type(PyObject *module)
{
    static_assert(sizeof(size_t) == sizeof(int64_t), "get_integer reads position as an int64_t");
    return plog_add_type(module, &scanner_spec, PLOG_SCANNER_TYPE, true);
}
