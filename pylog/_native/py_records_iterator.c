/* Iteration over Records, record by record.
 *
 * Knows: how far it is.  The records inside of batches were not checked before.  Holds no lock: one
 * thread at a time iterates.
 */
#include "py_records.h"

typedef struct {
    PyObject_HEAD plog_records *records; /* strong */
    plog_source *source;                 /* strong: of the current batch; NULL between batches */
    plog_batch_walk walk;
    plog_record_cursor cursor;
    int32_t leader_epoch; /* of the batch of the last record that was given; -1 before */
    int64_t next_offset;  /* behind the last record that was given; behind all of them at the end */
    bool has_failed;      /* a batch was passed over: next_offset stays before it */
    bool has_ended;
} records_iterator;

PyObject *plog_records_iter(PyObject *object)
{
    const plog_module_state *state = plog_state_of(object);
    records_iterator *self =
        PyObject_GC_New(records_iterator, state->types[PLOG_RECORDS_ITERATOR_TYPE]);
    if (self == NULL) {
        return NULL;
    }
    self->records = (plog_records *)Py_NewRef(object);
    self->source = NULL;
    self->leader_epoch = -1;
    self->next_offset = self->records->first_offset;
    self->has_failed = false;
    self->has_ended = false;
    plog_batch_walk_begin(&self->walk, self->records);
    PyObject_GC_Track(self);
    return (PyObject *)self;
}

static int iterator_traverse(PyObject *object, visitproc visit, void *arg)
{
    records_iterator *self = (records_iterator *)object;
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(self->records);
    Py_VISIT(self->source);
    return 0;
}

static int iterator_clear(PyObject *object)
{
    records_iterator *self = (records_iterator *)object;
    Py_CLEAR(self->records);
    Py_CLEAR(self->source);
    return 0;
}

static void iterator_dealloc(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    iterator_clear(object);
    PyObject_GC_Del(object);
    Py_DECREF(type);
}

static int enter_next_batch(records_iterator *self)
{
    if (self->records == NULL) {
        return 0; /* cleared by the garbage collector */
    }
    int step = plog_batch_walk_next(&self->walk, self->records);
    if (step <= 0) {
        return step;
    }
    const uint8_t *bytes;
    size_t len;
    const plog_batch_walk walk = self->walk;
    plog_source *source = plog_batch_records(self->records, &walk, &bytes, &len);
    if (source == NULL) {
        return -1;
    }
    /* The decompressor is Python code and may itself have stopped or advanced this iterator. */
    if (self->has_ended) {
        plog_source_release(source);
        return 0;
    }
    plog_source_release(self->source);
    self->source = source;
    self->walk = walk;
    plog_record_cursor_begin(&self->cursor, &self->walk.header, bytes, len);
    return 1;
}

static void note_end(records_iterator *self)
{
    if (PyErr_Occurred()) {
        self->has_failed = true;
        return;
    }
    if (!self->has_ended && !self->has_failed && self->records != NULL) {
        self->next_offset = self->records->next_offset;
    }
    self->has_ended = true;
}

/* After an error the iteration goes on behind the batch that caused it. */
PyObject *plog_records_iterator_next(PyObject *object)
{
    records_iterator *self = (records_iterator *)object;
    const plog_records *records = self->records;
    plog_record_view view;
    while (!self->has_ended && (self->source != NULL || enter_next_batch(self) > 0)) {
        plog_status status = plog_record_next(&self->cursor, &view);
        if (status != PLOG_OK) {
            Py_CLEAR(self->source);
            if (status != PLOG_END) {
                plog_raise_bad_batch(records, &self->walk, status);
                break;
            }
        } else if (view.offset >= records->end_offset) {
            Py_CLEAR(self->source);
        } else if (view.offset >= records->first_offset) {
            PyObject *record = /* strong */
                plog_record_new(plog_state_of(object), self->source, &self->walk.header, &view);
            if (record == NULL) {
                break;
            }
            if (!self->has_failed) {
                self->next_offset = view.offset + 1;
                self->leader_epoch = self->walk.header.leader_epoch;
            }
            return record;
        }
    }
    note_end(self);
    return NULL;
}

static PyObject *iterator_stop(PyObject *object, PyObject *Py_UNUSED(unused))
{
    records_iterator *self = (records_iterator *)object;
    self->has_ended = true;
    Py_CLEAR(self->source);
    Py_RETURN_NONE;
}

static PyObject *iterator_next_offset(PyObject *object, void *Py_UNUSED(closure))
{
    return PyLong_FromLongLong(((records_iterator *)object)->next_offset);
}

static PyObject *iterator_leader_epoch(PyObject *object, void *Py_UNUSED(closure))
{
    return PyLong_FromLong(((records_iterator *)object)->leader_epoch);
}

static PyObject *iterator_has_failed(PyObject *object, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(((records_iterator *)object)->has_failed);
}

static PyObject *iterator_has_ended(PyObject *object, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(((records_iterator *)object)->has_ended);
}

static PyGetSetDef iterator_getters[] = {
    {"leader_epoch", iterator_leader_epoch, NULL,
     "Of the last record that was given, -1 before the first and when no leader stamped it.", NULL},
    {"next_offset", iterator_next_offset, NULL,
     "Behind the last record that was given; at the end that of the Records.", NULL},
    {"has_failed", iterator_has_failed, NULL,
     "Whether a record could not be given; next_offset stays where it was then.", NULL},
    {"has_ended", iterator_has_ended, NULL, "Whether no record will be given any more.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMethodDef iterator_methods[] = {
    {"stop", iterator_stop, METH_NOARGS, "Give no more records; next_offset stays."},
    {"piece", plog_records_piece_new, METH_O,
     "Return an iterator over the records that are asked for in so many seconds, at least one."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot iterator_slots[] = {
    {Py_tp_doc, "Gives records one by one, and knows how far it is."},
    {Py_tp_dealloc, (void *)iterator_dealloc},
    {Py_tp_traverse, (void *)iterator_traverse},
    {Py_tp_clear, (void *)iterator_clear},
    {Py_tp_iter, (void *)PyObject_SelfIter},
    {Py_tp_iternext, (void *)plog_records_iterator_next},
    {Py_tp_getset, iterator_getters},
    {Py_tp_methods, iterator_methods},
    {0, NULL},
};

static PyType_Spec iterator_spec = {
    .name = "pylog._native.RecordsIterator",
    .basicsize = sizeof(records_iterator),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = iterator_slots,
};

int plog_add_records_iterator_type(PyObject *module)
{
    if (plog_add_type(module, &iterator_spec, PLOG_RECORDS_ITERATOR_TYPE, true) < 0) {
        return -1;
    }
    return plog_add_records_piece_type(module);
}
