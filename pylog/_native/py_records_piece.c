/* Some of the records that a RecordsIterator has left: those that are asked for in a given time.
 *
 * Knows a clock.  Holds no lock: one thread at a time iterates.
 */
#include "events.h"
#include "py_records.h"

typedef struct {
    PyObject_HEAD PyObject *records; /* strong: a RecordsIterator; NULL at the end */
    int64_t end_ns;                  /* of the coarse clock */
    bool is_begun;                   /* the first record is given whatever time it is */
} records_piece;

PyObject *plog_records_piece_new(PyObject *records, PyObject *seconds)
{
    const double time = PyFloat_AsDouble(seconds);
    if (time == -1 && PyErr_Occurred()) {
        return NULL;
    }
    if (!(time >= 0 && time < PLOG_MAX_PIECE_SECONDS)) {
        PyErr_Format(PyExc_ValueError, "seconds %R: expected them in [0, %d)", seconds,
                     PLOG_MAX_PIECE_SECONDS);
        return NULL;
    }
    const plog_module_state *state = plog_state_of(records);
    records_piece *self = PyObject_GC_New(records_piece, state->types[PLOG_RECORDS_PIECE_TYPE]);
    if (self == NULL) {
        return NULL;
    }
    self->records = Py_NewRef(records);
    self->end_ns = plog_coarse_monotonic_ns() + (int64_t)(time * 1e9);
    self->is_begun = false;
    PyObject_GC_Track(self);
    return (PyObject *)self;
}

static int piece_traverse(PyObject *object, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(((records_piece *)object)->records);
    return 0;
}

static int piece_clear(PyObject *object)
{
    Py_CLEAR(((records_piece *)object)->records);
    return 0;
}

static void piece_dealloc(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    piece_clear(object);
    PyObject_GC_Del(object);
    Py_DECREF(type);
}

static PyObject *piece_next(PyObject *object)
{
    records_piece *self = (records_piece *)object;
    if (self->records == NULL) {
        return NULL;
    }
    if (self->is_begun && plog_coarse_monotonic_ns() >= self->end_ns) {
        Py_CLEAR(self->records);
        return NULL;
    }
    self->is_begun = true;
    return plog_records_iterator_next(self->records);
}

static PyType_Slot piece_slots[] = {
    {Py_tp_doc, "Gives records for some time, and leaves the others to the iterator they are of."},
    {Py_tp_dealloc, (void *)piece_dealloc},
    {Py_tp_traverse, (void *)piece_traverse},
    {Py_tp_clear, (void *)piece_clear},
    {Py_tp_iter, (void *)PyObject_SelfIter},
    {Py_tp_iternext, (void *)piece_next},
    {0, NULL},
};

static PyType_Spec piece_spec = {
    .name = "pylog._native.RecordsPiece",
    .basicsize = sizeof(records_piece),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = piece_slots,
};

int plog_add_records_piece_type(PyObject *module)
{
    return plog_add_type(module, &piece_spec, PLOG_RECORDS_PIECE_TYPE, true);
}
