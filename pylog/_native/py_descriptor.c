/* Descriptor: an open file descriptor that is closed when nobody refers to it.  GIL: kept.
 *
 * The cyclic collector does not know this type, so it is closed by reference count alone: when the
 * collector takes a log with all that belongs to it, the files are still open while it is ended. */

#include "mapping.h"
#include "py_page.h"

typedef struct {
    PyObject_HEAD int fd; /* owned */
} descriptor_object;

static PyObject *descriptor_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"fd", NULL};
    int fd;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "i", names, &fd)) {
        return NULL;
    }
    descriptor_object *self = (descriptor_object *)PyType_GenericAlloc(type, 0);
    if (self != NULL) {
        self->fd = fd;
    }
    return (PyObject *)self;
}

int plog_descriptor_fd(PyObject *descriptor)
{
    return ((descriptor_object *)descriptor)->fd;
}

static void descriptor_dealloc(PyObject *object)
{
    plog_close(((descriptor_object *)object)->fd);
    plog_free_object(object);
}

int plog_add_descriptor_type(PyObject *module)
{
    static PyType_Slot slots[] = {
        {Py_tp_doc, "Owner of an open file descriptor; closes it when nobody refers to this."},
        {Py_tp_new, (void *)descriptor_new},
        {Py_tp_dealloc, (void *)descriptor_dealloc},
        {0, NULL},
    };
    static PyType_Spec spec = {
        .name = "pylog._native.Descriptor",
        .basicsize = sizeof(descriptor_object),
        .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
        .slots = slots,
    };
    return plog_add_type(module, &spec, PLOG_DESCRIPTOR_TYPE, true);
}
