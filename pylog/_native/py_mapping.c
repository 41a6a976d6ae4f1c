/* Mapping: memory-mapped bytes of a file as a Python buffer.  GIL: everything here holds it. */

#include "mapping.h"
#include "py_page.h"

typedef struct {
    PyObject_HEAD void *memory; /* owned; NULL when unmapped */
    Py_ssize_t size;
    Py_ssize_t exports; /* buffers that others hold */
    bool is_writable;
    bool is_closed;
} mapping_object;

static PyObject *mapping_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"fd", "size", "position", "writable", NULL};
    int fd, is_writable = 0;
    Py_ssize_t size;
    long long position = 0;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "in|$Lp", names, &fd, &size, &position,
                                     &is_writable)) {
        return NULL;
    }
    if (size < 1) {
        PyErr_SetString(PyExc_ValueError, "a mapping needs a size of at least 1 byte");
        return NULL;
    }
    mapping_object *self = (mapping_object *)PyType_GenericAlloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    self->size = size;
    self->is_writable = is_writable != 0;
    if (plog_map(fd, (size_t)size, position, self->is_writable, &self->memory) != PLOG_OK) {
        PyErr_SetFromErrno(PyExc_OSError);
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

/* The one place that unmaps. */
static void unmap_if_unused(mapping_object *self)
{
    if (self->is_closed && self->exports == 0 && self->memory != NULL) {
        plog_unmap(self->memory, (size_t)self->size);
        self->memory = NULL;
    }
}

static PyObject *mapping_close(PyObject *object, PyObject *Py_UNUSED(unused))
{
    mapping_object *self = (mapping_object *)object;
    self->is_closed = true;
    unmap_if_unused(self);
    Py_RETURN_NONE;
}

static void mapping_dealloc(PyObject *object)
{
    mapping_object *self = (mapping_object *)object;
    self->is_closed = true; /* a buffer keeps its exporter alive, so there is none */
    unmap_if_unused(self);
    plog_free_object(object);
}

static int raise_closed(PyObject *object)
{
    PyErr_SetString(plog_state_of(object)->errors[PLOG_CLOSED_ERROR], "the mapping is closed");
    return -1;
}

static int mapping_get_buffer(PyObject *object, Py_buffer *view, int flags)
{
    mapping_object *self = (mapping_object *)object;
    if (self->is_closed) {
        view->obj = NULL;
        return raise_closed(object);
    }
    if (PyBuffer_FillInfo(view, object, self->memory, self->size, !self->is_writable, flags) < 0) {
        return -1;
    }
    self->exports++;
    return 0;
}

static void mapping_release_buffer(PyObject *object, Py_buffer *Py_UNUSED(view))
{
    mapping_object *self = (mapping_object *)object;
    self->exports--;
    unmap_if_unused(self);
}

static Py_ssize_t mapping_length(PyObject *object)
{
    mapping_object *self = (mapping_object *)object;
    return self->is_closed ? raise_closed(object) : self->size;
}

int plog_add_mapping_type(PyObject *module)
{
    static PyMethodDef methods[] = {
        {"close", mapping_close, METH_NOARGS,
         "Unmap the bytes, at once or when the last buffer over them is released.  Idempotent."},
        {NULL, NULL, 0, NULL},
    };
    static PyType_Slot slots[] = {
        {Py_tp_doc, "Memory-mapped bytes of an open file.\n\n"
                    "size may exceed the file: touching bytes past its end kills the process."},
        {Py_tp_new, (void *)mapping_new},
        {Py_tp_dealloc, (void *)mapping_dealloc},
        {Py_tp_methods, methods},
        {Py_sq_length, (void *)mapping_length},
        {Py_bf_getbuffer, (void *)mapping_get_buffer},
        {Py_bf_releasebuffer, (void *)mapping_release_buffer},
        {0, NULL},
    };
    static PyType_Spec spec = {
        .name = "pylog._native.Mapping",
        .basicsize = sizeof(mapping_object),
        .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
        .slots = slots,
    };
    return plog_add_type(module, &spec, PLOG_MAPPING_TYPE, true);
}
