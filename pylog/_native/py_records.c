/* Records: whole batches in memory; py_records_iterator.c iterates them record by record.
 *
 * Knows: the range of offsets asked for.  The batches were checked before; the records inside were
 * not.  Holds no lock: all state of an iteration is the iterator's.
 */
#include "py_records.h"

/* ---- length */

/* Count the records of the walk's batch in the range by looking at each. */
static Py_ssize_t count_by_walking(const plog_records *records, const plog_batch_walk *walk)
{
    const uint8_t *bytes;
    size_t len;
    plog_source *source = plog_batch_records(records, walk, &bytes, &len); /* strong */
    if (source == NULL) {
        return -1;
    }
    plog_record_cursor cursor;
    plog_record_view view;
    plog_status status;
    Py_ssize_t count = 0;
    plog_record_cursor_begin(&cursor, &walk->header, bytes, len);
    while ((status = plog_record_next(&cursor, &view)) == PLOG_OK) {
        count += view.offset >= records->first_offset && view.offset < records->end_offset;
    }
    plog_source_release(source);
    return status == PLOG_END ? count : plog_raise_bad_batch(records, walk, status);
}

static Py_ssize_t count_in_batch(const plog_records *records, const plog_batch_walk *walk)
{
    const plog_batch_header *header = &walk->header;
    int64_t next_offset = plog_batch_next_offset(header);
    int64_t first =
        header->base_offset > records->first_offset ? header->base_offset : records->first_offset;
    int64_t end = next_offset < records->end_offset ? next_offset : records->end_offset;
    if (first == header->base_offset && end == next_offset) {
        return header->count;
    }
    if (end <= first) {
        return 0; /* who asks for offsets below an end that lies before them gets none */
    }
    bool is_dense = header->count - 1 == header->last_offset_delta;
    return is_dense ? (Py_ssize_t)(end - first) : count_by_walking(records, walk);
}

static Py_ssize_t records_length(PyObject *object)
{
    const plog_records *self = (const plog_records *)object;
    plog_batch_walk walk;
    Py_ssize_t total = 0;
    int step;
    plog_batch_walk_begin(&walk, self);
    while ((step = plog_batch_walk_next(&walk, self)) > 0) {
        Py_ssize_t count = count_in_batch(self, &walk);
        if (count < 0) {
            return -1;
        }
        total += count;
    }
    return step < 0 ? -1 : total;
}

/* Stops at the first record in the range, so that a test for emptiness costs little. */
static int records_bool(PyObject *object)
{
    const plog_records *self = (const plog_records *)object;
    plog_batch_walk walk;
    int step;
    plog_batch_walk_begin(&walk, self);
    while ((step = plog_batch_walk_next(&walk, self)) > 0) {
        Py_ssize_t count = count_in_batch(self, &walk);
        if (count != 0) {
            return count < 0 ? -1 : 1;
        }
    }
    return step;
}

/* ---- construction */

static int64_t offset_after(const plog_records *self)
{
    const uint8_t *data = self->source->view.buf;
    int64_t next_offset = self->first_offset;
    plog_batch_header header;
    for (size_t position = self->start; position < self->end; position += header.size) {
        if (plog_batch_parse(data + position, self->end - position, &header) != PLOG_OK) {
            break; /* iteration will raise */
        }
        next_offset = plog_batch_next_offset(&header);
    }
    return next_offset;
}

/* Fill in what the arguments say; the object is already valid enough to be deallocated. */
static int records_initialize(plog_records *self, const plog_module_state *state, PyObject **given)
{
    enum { DATA, START, END, FIRST, END_OFFSET, NEXT, TOPIC, PARTITION, DECOMPRESS, CONTROL };
    int64_t partition = 0;
    self->end_offset = INT64_MAX;
    if ((given[FIRST] &&
         plog_int64_from_object(given[FIRST], "first_offset", &self->first_offset)) ||
        (given[END_OFFSET] && given[END_OFFSET] != Py_None &&
         plog_int64_from_object(given[END_OFFSET], "end_offset", &self->end_offset)) ||
        (given[PARTITION] && plog_int64_from_object(given[PARTITION], "partition", &partition))) {
        return -1;
    }
    if (partition < 0 || partition > INT32_MAX) {
        PyErr_SetString(PyExc_ValueError, "partition must be in [0, 2**31)");
        return -1;
    }
    if (given[TOPIC] && !PyUnicode_Check(given[TOPIC])) {
        plog_raise_type(given[TOPIC], "topic", "a str");
        return -1;
    }
    PyObject *topic = /* strong */
        given[TOPIC] ? PyUnicode_FromObject(given[TOPIC]) : PyUnicode_FromString("");
    if (topic == NULL) {
        return -1;
    }
    self->source = plog_source_new(state, given[DATA], topic, (int32_t)partition);
    Py_DECREF(topic);
    if (self->source == NULL ||
        plog_range_from_objects(given[START], given[END], self->source->view.len, &self->start,
                                &self->end) < 0) {
        return -1;
    }
    self->data = Py_NewRef(given[DATA]);
    if (given[DECOMPRESS] && given[DECOMPRESS] != Py_None) {
        self->decompress = Py_NewRef(given[DECOMPRESS]);
    }
    int includes_control = given[CONTROL] ? PyObject_IsTrue(given[CONTROL]) : 0;
    if (includes_control < 0) {
        return -1;
    }
    self->includes_control = includes_control > 0;
    if (given[NEXT] && given[NEXT] != Py_None) {
        return plog_int64_from_object(given[NEXT], "next_offset", &self->next_offset);
    }
    self->next_offset = offset_after(self);
    return 0;
}

/* An object that is valid enough to be deallocated. */
static plog_records *records_allocate(PyTypeObject *type)
{
    plog_records *self = PyObject_GC_New(plog_records, type);
    if (self != NULL) {
        self->source = NULL;
        self->data = NULL;
        self->decompress = NULL;
        self->start = self->end = 0;
        self->first_offset = 0;
        self->end_position = -1;
        self->includes_control = false;
        PyObject_GC_Track(self);
    }
    return self;
}

PyObject *plog_records_new_checked(const plog_module_state *state, PyObject *data, PyObject *topic,
                                   int32_t partition, PyObject *decompress,
                                   const plog_check_result *found, int64_t first_offset,
                                   int64_t end_offset, int64_t end_position)
{
    plog_records *self = records_allocate(state->types[PLOG_RECORDS_TYPE]);
    if (self == NULL) {
        return NULL;
    }
    self->source = plog_source_new(state, data, topic, partition);
    if (self->source == NULL) {
        Py_DECREF((PyObject *)self);
        return NULL;
    }
    self->data = Py_NewRef(data);
    self->decompress = Py_NewRef(decompress);
    self->start = found->first;
    self->end = found->end;
    self->first_offset = first_offset;
    self->end_offset = end_offset;
    self->next_offset = found->next_offset < end_offset ? found->next_offset : end_offset;
    self->end_position = end_position;
    return (PyObject *)self;
}

static PyObject *records_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"data",       "start",           "end",   "first_offset",
                            "end_offset", "next_offset",     "topic", "partition",
                            "decompress", "include_control", NULL};
    PyObject *given[10] = {NULL}; /* borrowed */
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|$OOOOOOOOO:Records", names, &given[0],
                                     &given[1], &given[2], &given[3], &given[4], &given[5],
                                     &given[6], &given[7], &given[8], &given[9])) {
        return NULL;
    }
    plog_records *self = records_allocate(type);
    if (self == NULL) {
        return NULL;
    }
    if (records_initialize(self, (plog_module_state *)PyType_GetModuleState(type), given) < 0) {
        Py_DECREF((PyObject *)self);
        return NULL;
    }
    return (PyObject *)self;
}

static int records_traverse(PyObject *object, visitproc visit, void *arg)
{
    plog_records *self = (plog_records *)object;
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(self->source);
    Py_VISIT(self->data);
    Py_VISIT(self->decompress);
    return 0;
}

static int records_clear(PyObject *object)
{
    plog_records *self = (plog_records *)object;
    /* Only the callable can close a cycle; without the source the object would be unusable. */
    Py_CLEAR(self->decompress);
    return 0;
}

static void records_dealloc(PyObject *object)
{
    plog_records *self = (plog_records *)object;
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    Py_CLEAR(self->source);
    Py_CLEAR(self->data);
    Py_CLEAR(self->decompress);
    PyObject_GC_Del(object);
    Py_DECREF(type);
}

static PyObject *records_next_offset(PyObject *self, void *closure)
{
    (void)closure;
    return PyLong_FromLongLong(((plog_records *)self)->next_offset);
}

static PyObject *records_nbytes(PyObject *self, void *closure)
{
    (void)closure;
    return PyLong_FromSize_t(((plog_records *)self)->end - ((plog_records *)self)->start);
}

static PyObject *records_batches(PyObject *object, void *closure)
{
    (void)closure;
    plog_records *self = (plog_records *)object;
    PyObject *whole = PyMemoryView_FromObject(self->data); /* strong */
    if (whole == NULL) {
        return NULL;
    }
    PyObject *part = PySequence_GetSlice(whole, (Py_ssize_t)self->start, (Py_ssize_t)self->end);
    Py_DECREF(whole);
    return part;
}

static PyObject *records_end_position(PyObject *self, void *closure)
{
    (void)closure;
    return PyLong_FromLongLong(((plog_records *)self)->end_position);
}

static PyGetSetDef records_getters[] = {
    {"batches", records_batches, NULL, "A view of the whole batches, as stored.", NULL},
    {"end_position", records_end_position, NULL,
     "Where the next batch begins in the file it was read from, -1 when that is not known.", NULL},
    {"first_max_timestamp", plog_records_first_max_timestamp, NULL,
     "The greatest timestamp of the first batch, as its header says it; None without a batch.",
     NULL},
    {"next_offset", records_next_offset, NULL, "The offset to read from next.", NULL},
    {"nbytes", records_nbytes, NULL, "Bytes of the batches, as stored.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMethodDef records_methods[] = {
    {"columns", plog_records_columns, METH_NOARGS,
     "Return (offsets, timestamps, key_positions, key_lengths, value_positions, value_lengths, "
     "data)."},
    {"find_timestamp", plog_records_find_timestamp, METH_VARARGS,
     "Return the first record at or after an offset with at least a timestamp, or None."},
    {"fold", plog_records_fold, METH_VARARGS,
     "Fold into a dict: each record sets its key to its value, or takes it away with a null one\n"
     "(keeps_nulls: sets it to None).  Return (records, those of them without a key, which are\n"
     "skipped, the last record or None)."},
    {"producers", plog_records_producers, METH_NOARGS,
     "Return what each batch of a producer with an id says: (producer id, epoch, first sequence,\n"
     "count of sequences, first offset, timestamp, whether it is a control batch)."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot records_slots[] = {
    {Py_tp_doc, "The records of whole, checked batches, made as they are iterated."},
    {Py_tp_new, (void *)records_new},
    {Py_tp_dealloc, (void *)records_dealloc},
    {Py_tp_traverse, (void *)records_traverse},
    {Py_tp_clear, (void *)records_clear},
    {Py_tp_iter, (void *)plog_records_iter},
    {Py_sq_length, (void *)records_length},
    {Py_nb_bool, (void *)records_bool},
    {Py_tp_getset, records_getters},
    {Py_tp_methods, records_methods},
    {0, NULL},
};

static PyType_Spec records_spec = {
    .name = "pylog._native.Records",
    .basicsize = sizeof(plog_records),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = records_slots,
};

int plog_add_records_types(PyObject *module)
{
    if (plog_add_type(module, &records_spec, PLOG_RECORDS_TYPE, true) < 0) {
        return -1;
    }
    return plog_add_records_iterator_type(module);
}
