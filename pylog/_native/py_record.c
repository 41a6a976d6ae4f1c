/* Record, RecordMetadata and the source that records point into.
 *
 * A Record is lazy: it holds positions, and makes bytes objects when it is asked for them.
 */
#include "py_record.h"

#include <structmember.h> /* needs Python.h before it */

/* ---- Source */

plog_source *plog_source_new(const plog_module_state *state, PyObject *data, PyObject *topic,
                             int32_t partition)
{
    PyTypeObject *type = state->types[PLOG_SOURCE_TYPE];
    plog_source *self = PyObject_New(plog_source, type);
    if (self == NULL) {
        return NULL;
    }
    self->view.obj = NULL;
    self->topic = Py_NewRef(topic);
    self->partition = partition;
    if (PyObject_GetBuffer(data, &self->view, PyBUF_SIMPLE) < 0) {
        plog_source_release(self);
        return NULL;
    }
    return self;
}

static void source_dealloc(PyObject *object)
{
    plog_source *self = (plog_source *)object;
    if (self->view.obj != NULL) {
        PyBuffer_Release(&self->view);
    }
    Py_DECREF(self->topic);
    plog_free_object(object);
}

static PyType_Slot source_slots[] = {
    {Py_tp_dealloc, (void *)source_dealloc},
    {0, NULL},
};

static PyType_Spec source_spec = {
    .name = "pylog._native._Source",
    .basicsize = sizeof(plog_source),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = source_slots,
};

/* ---- Record */

typedef struct {
    PyObject_HEAD plog_source *source; /* strong */
    plog_record_view view;
    int32_t leader_epoch;
    int32_t timestamp_type;
} record;

PyObject *plog_record_new(const plog_module_state *state, plog_source *source,
                          const plog_batch_header *header, const plog_record_view *view)
{
    record *self = PyObject_New(record, state->types[PLOG_RECORD_TYPE]);
    if (self == NULL) {
        return NULL;
    }
    self->source = plog_source_share(source);
    self->view = *view;
    self->leader_epoch = header->leader_epoch;
    self->timestamp_type = (header->attributes & PLOG_ATTRIBUTE_LOG_APPEND_TIME) != 0;
    return (PyObject *)self;
}

static void record_dealloc(PyObject *self)
{
    plog_source_release(((record *)self)->source);
    plog_free_object(self);
}

static PyObject *bytes_or_none(const plog_bytes *bytes)
{
    if (bytes->len < 0) {
        return Py_NewRef(Py_None);
    }
    return PyBytes_FromStringAndSize((const char *)bytes->data, bytes->len);
}

static PyObject *record_topic(PyObject *self, void *closure)
{
    (void)closure;
    return Py_NewRef(((record *)self)->source->topic);
}

static PyObject *record_partition(PyObject *self, void *closure)
{
    (void)closure;
    return PyLong_FromLong(((record *)self)->source->partition);
}

static PyObject *record_offset(PyObject *self, void *closure)
{
    (void)closure;
    return PyLong_FromLongLong(((record *)self)->view.offset);
}

static PyObject *record_timestamp(PyObject *self, void *closure)
{
    (void)closure;
    return PyLong_FromLongLong(((record *)self)->view.timestamp);
}

static PyObject *record_key(PyObject *self, void *closure)
{
    (void)closure;
    return bytes_or_none(&((record *)self)->view.key);
}

static PyObject *record_value(PyObject *self, void *closure)
{
    (void)closure;
    return bytes_or_none(&((record *)self)->view.value);
}

static PyObject *make_header(const plog_bytes *name, const plog_bytes *value)
{
    /* A name that is not UTF-8 must not hide the record: its odd bytes become lone surrogates. */
    PyObject *text = PyUnicode_DecodeUTF8((const char *)name->data, name->len, "surrogateescape");
    PyObject *bytes = text == NULL ? NULL : bytes_or_none(value);
    PyObject *pair = bytes == NULL ? NULL : PyTuple_Pack(2, text, bytes);
    Py_XDECREF(text);
    Py_XDECREF(bytes);
    return pair;
}

static PyObject *record_headers(PyObject *object, void *closure)
{
    (void)closure;
    record *self = (record *)object;
    const uint8_t *p = self->view.headers;
    PyObject *headers = PyTuple_New(self->view.header_count);
    for (int32_t i = 0; headers != NULL && i < self->view.header_count; i++) {
        plog_bytes name, value;
        PyObject *pair = NULL;
        /* Parsed once before, but the memory may be a bytearray that somebody wrote to since. */
        plog_status status = plog_record_header_parse(&p, self->view.end, &name, &value);
        if (status == PLOG_OK) {
            pair = make_header(&name, &value);
        } else {
            plog_raise(plog_state_of(object), status);
        }
        if (pair == NULL || PyTuple_SetItem(headers, i, pair) < 0) {
            Py_CLEAR(headers);
        }
    }
    return headers;
}

static PyObject *record_repr(PyObject *object)
{
    const record *self = (const record *)object;
    return PyUnicode_FromFormat(
        "Record(topic=%R, partition=%d, offset=%lld, timestamp=%lld, %d bytes)",
        self->source->topic, (int)self->source->partition, (long long)self->view.offset,
        (long long)self->view.timestamp, (int)self->view.size);
}

static PyMemberDef record_members[] = {
    {"leader_epoch", T_INT, offsetof(record, leader_epoch), READONLY,
     "Epoch of the leader that appended it, -1: none."},
    {"timestamp_type", T_INT, offsetof(record, timestamp_type), READONLY,
     "0: set by the producer, 1: set when the log appended it."},
    {"size", T_INT, offsetof(record, view) + offsetof(plog_record_view, size), READONLY,
     "Bytes of the record as encoded, before compression."},
    {NULL, 0, 0, 0, NULL},
};

static PyGetSetDef record_getters[] = {
    {"topic", record_topic, NULL, "Name of the topic it is in.", NULL},
    {"partition", record_partition, NULL, "Number of its partition, from 0.", NULL},
    {"offset", record_offset, NULL, "Its number in the partition; never moved, never used twice.",
     NULL},
    {"timestamp", record_timestamp, NULL, "Milliseconds since the epoch.", NULL},
    {"key", record_key, NULL, "A new bytes object, or None.", NULL},
    {"value", record_value, NULL, "A new bytes object, or None: a tombstone.", NULL},
    {"headers", record_headers, NULL, "A new tuple of (name, value or None).", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot record_slots[] = {
    {Py_tp_doc, "One record as it stands in a log.  Keeps the bytes it was read from alive."},
    {Py_tp_dealloc, (void *)record_dealloc},
    {Py_tp_repr, (void *)record_repr},
    {Py_tp_members, record_members},
    {Py_tp_getset, record_getters},
    {0, NULL},
};

static PyType_Spec record_spec = {
    .name = "pylog._native.Record",
    .basicsize = sizeof(record),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = record_slots,
};

/* ---- RecordMetadata */

typedef struct {
    PyObject_HEAD PyObject *topic; /* strong: an exact str, so no cycle can pass through here */
    long long offset, timestamp;
    int partition;
} metadata;

PyObject *plog_record_metadata_new(const plog_module_state *state, PyObject *topic,
                                   int32_t partition, int64_t offset, int64_t timestamp)
{
    metadata *self = PyObject_New(metadata, state->types[PLOG_RECORD_METADATA_TYPE]);
    if (self == NULL) {
        return NULL;
    }
    self->topic = Py_NewRef(topic);
    self->partition = partition;
    self->offset = offset;
    self->timestamp = timestamp;
    return (PyObject *)self;
}

static PyObject *metadata_call(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"topic", "partition", "offset", "timestamp", NULL};
    PyObject *topic;
    int partition;
    long long offset, timestamp;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "UiLL:RecordMetadata", names, &topic, &partition,
                                     &offset, &timestamp)) {
        return NULL;
    }
    const plog_module_state *state = (plog_module_state *)PyType_GetModuleState(type);
    PyObject *exact = PyUnicode_FromObject(topic); /* strong */
    PyObject *self = NULL;
    if (exact != NULL) {
        self = plog_record_metadata_new(state, exact, partition, offset, timestamp);
        Py_DECREF(exact);
    }
    return self;
}

static void metadata_dealloc(PyObject *self)
{
    Py_DECREF(((metadata *)self)->topic);
    plog_free_object(self);
}

static PyObject *metadata_tuple(PyObject *object)
{
    const metadata *self = (const metadata *)object;
    return Py_BuildValue("(OiLL)", self->topic, self->partition, self->offset, self->timestamp);
}

static PyObject *metadata_reduce(PyObject *self, PyObject *unused)
{
    (void)unused;
    return Py_BuildValue("(ON)", Py_TYPE(self), metadata_tuple(self));
}

static PyObject *metadata_repr(PyObject *object)
{
    const metadata *self = (const metadata *)object;
    return PyUnicode_FromFormat(
        "RecordMetadata(topic=%R, partition=%d, offset=%lld, timestamp=%lld)", self->topic,
        self->partition, self->offset, self->timestamp);
}

static PyObject *metadata_compare(PyObject *self, PyObject *other, int operation)
{
    if (Py_TYPE(self) != Py_TYPE(other) || (operation != Py_EQ && operation != Py_NE)) {
        return Py_NewRef(Py_NotImplemented);
    }
    PyObject *left = metadata_tuple(self), *right = metadata_tuple(other); /* strong */
    PyObject *result = NULL;
    if (left != NULL && right != NULL) {
        result = PyObject_RichCompare(left, right, operation);
    }
    Py_XDECREF(left);
    Py_XDECREF(right);
    return result;
}

static Py_hash_t metadata_hash(PyObject *self)
{
    PyObject *tuple = metadata_tuple(self); /* strong */
    Py_hash_t hash = tuple == NULL ? -1 : PyObject_Hash(tuple);
    Py_XDECREF(tuple);
    return hash;
}

static PyMemberDef metadata_members[] = {
    {"topic", T_OBJECT_EX, offsetof(metadata, topic), READONLY, "Name of the topic."},
    {"partition", T_INT, offsetof(metadata, partition), READONLY, "Number of the partition."},
    {"offset", T_LONGLONG, offsetof(metadata, offset), READONLY, "Its number in the partition."},
    {"timestamp", T_LONGLONG, offsetof(metadata, timestamp), READONLY,
     "Milliseconds since the epoch."},
    {NULL, 0, 0, 0, NULL},
};

static PyMethodDef metadata_methods[] = {
    {"__reduce__", metadata_reduce, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot metadata_slots[] = {
    {Py_tp_doc, "Where a record was appended.  A value: compares, hashes and pickles as one."},
    {Py_tp_new, (void *)metadata_call},
    {Py_tp_dealloc, (void *)metadata_dealloc},
    {Py_tp_repr, (void *)metadata_repr},
    {Py_tp_richcompare, (void *)metadata_compare},
    {Py_tp_hash, (void *)metadata_hash},
    {Py_tp_members, metadata_members},
    {Py_tp_methods, metadata_methods},
    {0, NULL},
};

static PyType_Spec metadata_spec = {
    .name = "pylog._native.RecordMetadata",
    .basicsize = sizeof(metadata),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = metadata_slots,
};

int plog_add_record_types(PyObject *module)
{
    if (plog_add_type(module, &source_spec, PLOG_SOURCE_TYPE, false) < 0 ||
        plog_add_type(module, &record_spec, PLOG_RECORD_TYPE, true) < 0) {
        return -1;
    }
    return plog_add_type(module, &metadata_spec, PLOG_RECORD_METADATA_TYPE, true);
}
