/* BatchBuilder and Sent: a producer's records, from Python's arguments into a batch that grows.
 *
 * A send is one call here, so the GIL makes it atomic: it adds its record to the batch, or finds
 * the batch full or sealed and leaves it alone.  Nothing here waits or releases the GIL.
 */
#include "builder.h"
#include "py_held_record.h"
#include "record.h"
#include "shared_page.h"

#include <structmember.h>

/* ---- Sent: one record of a batch, which knows what became of it */

typedef struct {
    PyObject_HEAD PyObject *batch; /* strong: what the builder was given; NULL once cleared */
    long long timestamp;
    int index;
} sent_object;

static int sent_traverse(PyObject *object, visitproc visit, void *arg)
{
    sent_object *self = (sent_object *)object;
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(self->batch);
    return 0;
}

static int sent_clear(PyObject *object)
{
    sent_object *self = (sent_object *)object;
    Py_CLEAR(self->batch);
    return 0;
}

/* Subclasses come here too, after their own part. */
static void sent_dealloc(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    sent_clear(object);
    PyObject_GC_Del(object);
    Py_DECREF((PyObject *)type);
}

static PyMemberDef sent_members[] = {
    {"_batch", T_OBJECT_EX, offsetof(sent_object, batch), READONLY, NULL},
    {"_timestamp", T_LONGLONG, offsetof(sent_object, timestamp), READONLY, NULL},
    {"_index", T_INT, offsetof(sent_object, index), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

/* ---- BatchBuilder */

typedef struct {
    PyObject_HEAD PyTypeObject *sent; /* strong: Sent or a subclass */
    PyObject *batch;                  /* strong: handed to every Sent */
    PyObject *clock;                  /* strong; not called when it is system_clock */
    PyObject *memory;                 /* strong: a bytearray */
    bool is_system_clock, is_sealed, needs_key;
    plog_builder core; /* borrows from memory */
} builder_object;

static int read_clock(builder_object *self, int64_t *timestamp)
{
    if (self->is_system_clock) {
        *timestamp = plog_wall_clock_ns() / 1000000;
        return 0;
    }
    PyObject *now = PyObject_CallNoArgs(self->clock); /* strong */
    const int result =
        now == NULL ? -1 : plog_int64_from_object(now, "the clock's time", timestamp);
    Py_XDECREF(now);
    return result;
}

static int read_timestamp(builder_object *self, PyObject *given, int64_t *timestamp)
{
    if ((given == Py_None ? read_clock(self, timestamp)
                          : plog_int64_from_object(given, "timestamp", timestamp)) < 0) {
        return -1;
    }
    if (*timestamp < 0) {
        PyErr_Format(plog_state_of((PyObject *)self)->errors[PLOG_INVALID_RECORD_ERROR],
                     "timestamp %lld is negative", (long long)*timestamp);
        return -1;
    }
    return 0;
}

static PyObject *sent_new(builder_object *self, int64_t timestamp, int32_t index)
{
    sent_object *sent = (sent_object *)PyType_GenericAlloc(self->sent, 0);
    if (sent != NULL) {
        sent->batch = Py_NewRef(self->batch);
        sent->timestamp = timestamp;
        sent->index = index;
    }
    return (PyObject *)sent;
}

enum { VALUE, KEY, HEADERS, TIMESTAMP, APPEND_ARGUMENTS };

static PyObject *builder_append(PyObject *object, PyObject *const *args, Py_ssize_t count)
{
    builder_object *self = (builder_object *)object;
    plog_held_record held;
    int64_t timestamp;
    if (count != APPEND_ARGUMENTS) {
        PyErr_SetString(PyExc_TypeError, "append takes value, key, headers and timestamp");
        return NULL;
    }
    if (read_timestamp(self, args[TIMESTAMP], &timestamp) < 0 ||
        plog_record_hold(plog_state_of(object), args[VALUE], args[KEY], args[HEADERS], &held) < 0) {
        return NULL;
    }
    held.record.timestamp = timestamp;
    if (self->needs_key && held.record.key.len < 0) {
        plog_record_let_go(&held);
        return plog_raise_no_key(plog_state_of(object));
    }
    /* After all that may run Python code, which may seal the batch. */
    PyObject *sent = NULL;
    const int32_t index = self->core.count;
    if (self->is_sealed || plog_builder_add(&self->core, &held.record) != PLOG_OK) {
        sent = Py_NewRef(Py_None);
    }
    plog_record_let_go(&held);
    return sent != NULL ? sent : sent_new(self, timestamp, index);
}

static int parse_producer(PyObject *const *args, Py_ssize_t count, plog_producer *out)
{
    int64_t fields[3] = {-1, -1, -1};
    static const char *const names[] = {"producer_id", "producer_epoch", "base_sequence"};
    static const int64_t maxima[] = {INT64_MAX, INT16_MAX, INT32_MAX};
    if (count != 0 && count != 3) {
        PyErr_SetString(PyExc_TypeError, "seal takes a producer's id, epoch and sequence, or none");
        return -1;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        if (plog_int64_from_object(args[i], names[i], &fields[i]) < 0) {
            return -1;
        }
        if (fields[i] < -1 || fields[i] > maxima[i]) {
            PyErr_Format(PyExc_ValueError, "%s is out of range", names[i]);
            return -1;
        }
    }
    *out = (plog_producer){fields[0], (int16_t)fields[1], (int32_t)fields[2]};
    return 0;
}

static PyObject *builder_seal(PyObject *object, PyObject *const *args, Py_ssize_t count)
{
    builder_object *self = (builder_object *)object;
    plog_producer producer;
    if (parse_producer(args, count, &producer) < 0) {
        return NULL;
    }
    if (self->core.count == 0) {
        PyErr_SetString(PyExc_ValueError, "a batch without records cannot be sealed");
        return NULL;
    }
    self->is_sealed = true;
    if (self->core.size < self->core.capacity &&
        PyByteArray_Resize(self->memory, (Py_ssize_t)self->core.size) < 0) {
        return NULL;
    }
    self->core.data = (uint8_t *)PyByteArray_AsString(self->memory);
    self->core.capacity = self->core.size;
    plog_builder_seal(&self->core, producer);
    return Py_NewRef(self->memory);
}

static PyObject *builder_close(PyObject *object, PyObject *Py_UNUSED(unused))
{
    ((builder_object *)object)->is_sealed = true;
    Py_RETURN_NONE;
}

static PyObject *builder_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"sent", "batch", "capacity", "clock", "needs_key", NULL};
    const plog_module_state *state = PyType_GetModuleState(type);
    PyObject *sent, *batch, *clock; /* borrowed */
    Py_ssize_t capacity;
    int needs_key = 0;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "OOnO|p:BatchBuilder", names, &sent, &batch,
                                     &capacity, &clock, &needs_key)) {
        return NULL;
    }
    if (!PyType_Check(sent) ||
        !PyType_IsSubtype((PyTypeObject *)sent, state->types[PLOG_SENT_TYPE])) {
        PyErr_SetString(PyExc_TypeError, "sent must be a subclass of Sent");
        return NULL;
    }
    if (capacity < PLOG_BATCH_HEADER_BYTES) {
        PyErr_SetString(PyExc_ValueError, "capacity is smaller than a header");
        return NULL;
    }
    builder_object *self = (builder_object *)PyType_GenericAlloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    self->sent = (PyTypeObject *)Py_NewRef(sent);
    self->batch = Py_NewRef(batch);
    self->clock = Py_NewRef(clock);
    self->is_system_clock = plog_is_system_clock(type, clock);
    self->needs_key = needs_key != 0;
    self->memory = PyByteArray_FromStringAndSize(NULL, capacity);
    if (self->memory == NULL) {
        Py_DECREF((PyObject *)self);
        return NULL;
    }
    plog_builder_begin(&self->core, (uint8_t *)PyByteArray_AsString(self->memory),
                       (size_t)capacity);
    return (PyObject *)self;
}

static int builder_traverse(PyObject *object, visitproc visit, void *arg)
{
    builder_object *self = (builder_object *)object;
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(self->sent);
    Py_VISIT(self->batch);
    Py_VISIT(self->clock);
    return 0;
}

/* Sealed, so that nothing that is left is asked for any more. */
static int builder_clear(PyObject *object)
{
    builder_object *self = (builder_object *)object;
    self->is_sealed = true;
    self->is_system_clock = true;
    Py_CLEAR(self->sent);
    Py_CLEAR(self->batch);
    Py_CLEAR(self->clock);
    return 0;
}

static void builder_dealloc(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    builder_clear(object);
    Py_XDECREF(((builder_object *)object)->memory);
    PyObject_GC_Del(object);
    Py_DECREF((PyObject *)type);
}

static PyObject *builder_count(PyObject *object, void *Py_UNUSED(unused))
{
    return PyLong_FromLong(((builder_object *)object)->core.count);
}

static PyObject *builder_max_timestamp(PyObject *object, void *Py_UNUSED(unused))
{
    return PyLong_FromLongLong(((builder_object *)object)->core.max_timestamp);
}

/* ---- how large a batch has to be */

static PyObject *batch_size(PyObject *module, PyObject *args)
{
    PyObject *value, *key, *headers; /* borrowed */
    plog_held_record held;
    if (!PyArg_ParseTuple(args, "OOO:batch_size", &value, &key, &headers) ||
        plog_record_hold(PyModule_GetState(module), value, key, headers, &held) < 0) {
        return NULL;
    }
    const size_t size = plog_record_batch_bound(&held.record);
    plog_record_let_go(&held);
    return PyLong_FromSize_t(size);
}

/* ---- types */

static PyMethodDef builder_methods[] = {
    {"append", PLOG_METHOD(builder_append), METH_FASTCALL,
     "Add a record (value, key, headers, timestamp); return its Sent.\n\n"
     "None when it does not fit or the batch was closed.  timestamp: None asks the clock."},
    {"close", builder_close, METH_NOARGS, "Take no more records."},
    {"seal", PLOG_METHOD(builder_seal), METH_FASTCALL,
     "Close, and return the batch: the same bytearray each time.\n\n"
     "Takes a producer's id, epoch and base sequence, or nothing for nobody's."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef builder_getters[] = {
    {"count", builder_count, NULL, "Records so far.", NULL},
    {"max_timestamp", builder_max_timestamp, NULL, "The greatest of them.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMethodDef functions[] = {
    {"batch_size", batch_size, METH_VARARGS,
     "Return the bytes of a batch with just this record: (value, key, headers)."},
    {NULL, NULL, 0, NULL},
};

int plog_add_builder_types(PyObject *module)
{
    static PyType_Slot sent_slots[] = {
        {Py_tp_doc, "One record of a batch that is being built; made by BatchBuilder.append."},
        {Py_tp_dealloc, (void *)sent_dealloc},
        {Py_tp_traverse, (void *)sent_traverse},
        {Py_tp_clear, (void *)sent_clear},
        {Py_tp_members, sent_members},
        {0, NULL},
    };
    static PyType_Spec sent_spec = {
        .name = "pylog._native.Sent",
        .basicsize = sizeof(sent_object),
        .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE,
        .slots = sent_slots,
    };
    static PyType_Slot builder_slots[] = {
        {Py_tp_doc, "A batch that grows record by record."},
        {Py_tp_new, (void *)builder_new},
        {Py_tp_dealloc, (void *)builder_dealloc},
        {Py_tp_traverse, (void *)builder_traverse},
        {Py_tp_clear, (void *)builder_clear},
        {Py_tp_methods, builder_methods},
        {Py_tp_getset, builder_getters},
        {0, NULL},
    };
    static PyType_Spec builder_spec = {
        .name = "pylog._native.BatchBuilder",
        .basicsize = sizeof(builder_object),
        .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
        .slots = builder_slots,
    };
    if (PyModule_AddFunctions(module, functions) < 0 ||
        plog_add_type(module, &sent_spec, PLOG_SENT_TYPE, true) < 0) {
        return -1;
    }
    return plog_add_type(module, &builder_spec, PLOG_BATCH_BUILDER_TYPE, true);
}
