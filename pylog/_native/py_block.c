/* Block: see py_block.h.  GIL: everything here holds it.
 *
 * Who reads in a loop drops the columns of a read when the next ones are made.  The C library
 * gives such memory back to the system, and the system clears it again page by page: a quarter of
 * the time of read_columns (measured).  So the memory of a block that was dropped is kept for the
 * next one.
 */
#include "py_block.h"

/* More is given back at once.  Columns of 1 MiB of records of 130 bytes take 320 KB.  Guessed. */
enum { MAX_SPARE_BYTES = 4 << 20 };

typedef struct {
    PyObject_HEAD uint8_t *memory; /* owned */
    size_t bytes;
} block_object;

PyObject *plog_block_new(plog_module_state *state, size_t bytes, uint8_t **memory)
{
    block_object *self = PyObject_New(block_object, state->types[PLOG_BLOCK_TYPE]);
    if (self == NULL) {
        return NULL;
    }
    /* No more than twice what is asked for: whoever keeps few rows shall not keep much memory. */
    if (bytes <= state->spare_bytes && bytes > state->spare_bytes / 2) {
        self->memory = state->spare;
        self->bytes = state->spare_bytes;
        state->spare = NULL;
        state->spare_bytes = 0;
    } else {
        self->memory = PyMem_Malloc(bytes);
        self->bytes = bytes;
    }
    if (self->memory == NULL) {
        Py_DECREF((PyObject *)self);
        return PyErr_NoMemory();
    }
    *memory = self->memory;
    return (PyObject *)self;
}

static void block_dealloc(PyObject *object)
{
    block_object *self = (block_object *)object;
    plog_module_state *state = plog_state_of(object);
    if (self->memory != NULL && self->bytes > state->spare_bytes &&
        self->bytes <= MAX_SPARE_BYTES) {
        PyMem_Free(state->spare);
        state->spare = self->memory;
        state->spare_bytes = self->bytes;
    } else {
        PyMem_Free(self->memory);
    }
    plog_free_object(object);
}

static int block_get_buffer(PyObject *object, Py_buffer *view, int flags)
{
    block_object *self = (block_object *)object;
    return PyBuffer_FillInfo(view, object, self->memory, (Py_ssize_t)self->bytes, 0, flags);
}

int plog_add_block_type(PyObject *module)
{
    static PyType_Slot slots[] = {
        {Py_tp_dealloc, (void *)block_dealloc},
        {Py_bf_getbuffer, (void *)block_get_buffer},
        {0, NULL},
    };
    static PyType_Spec spec = {
        .name = "pylog._native._Block",
        .basicsize = sizeof(block_object),
        .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
        .slots = slots,
    };
    return plog_add_type(module, &spec, PLOG_BLOCK_TYPE, false);
}
