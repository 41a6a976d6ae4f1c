/* Appender: from a call in Python to the partition's tail without a Python frame between.
 *
 * Knows: whom to call.  An Appender lives as long as its partition, while tails come and go with
 * the files.  Everything here needs the GIL.
 */
#include "py_appender.h"

#include "py_tail.h"

typedef struct {
    PyObject_HEAD PyObject *tail; /* strong: a Tail, or NULL while the files are closed */
    PyObject *otherwise;          /* strong: gets the same arguments when the tail cannot append */
    PyObject *then;               /* strong: gets what the tail returned; NULL: nothing is left */
} appender_object;

/* The limited API has no vectorcall before 3.12. */
static PyObject *call_with(PyObject *callable, PyObject *const *args, Py_ssize_t count,
                           PyObject *keyword_names)
{
    const Py_ssize_t keywords_count = keyword_names == NULL ? 0 : PyTuple_Size(keyword_names);
    PyObject *positional = PyTuple_New(count);                      /* strong */
    PyObject *keywords = keywords_count == 0 ? NULL : PyDict_New(); /* strong */
    PyObject *result = NULL;
    int status = positional == NULL || (keywords_count != 0 && keywords == NULL) ? -1 : 0;
    for (Py_ssize_t i = 0; i < count && status == 0; i++) {
        status = PyTuple_SetItem(positional, i, Py_NewRef(args[i]));
    }
    for (Py_ssize_t i = 0; i < keywords_count && status == 0; i++) {
        status = PyDict_SetItem(keywords, PyTuple_GetItem(keyword_names, i), args[count + i]);
    }
    if (status == 0) {
        result = PyObject_Call(callable, positional, keywords);
    }
    Py_XDECREF(positional);
    Py_XDECREF(keywords);
    return result;
}

/* Returns `result`, which it takes over, after `then` had it.  Looked up only now: who changes what
 * a record must wait for says so before the tail takes the next one. */
static PyObject *pass_on(appender_object *self, PyObject *result)
{
    PyObject *then = self->then;
    if (then == NULL) {
        return result;
    }
    Py_INCREF(then);
    PyObject *nothing = PyObject_CallFunctionObjArgs(then, result, NULL); /* strong */
    Py_DECREF(then);
    if (nothing == NULL) {
        Py_CLEAR(result);
    }
    Py_XDECREF(nothing);
    return result;
}

PyObject *plog_appender_append(PyObject *object, PyObject *const *args, Py_ssize_t count,
                               PyObject *keyword_names)
{
    appender_object *self = (appender_object *)object;
    PyObject *tail = self->tail;
    if (tail != NULL) {
        Py_INCREF(tail); /* another thread may set it to None while this call waits */
        PyObject *result = plog_tail_append(tail, args, count, keyword_names);
        Py_DECREF(tail);
        if (result == NULL || !PyLong_Check(result)) {
            return result == NULL ? NULL : pass_on(self, result);
        }
        Py_DECREF(result);
    }
    if (self->otherwise == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "the appender was cleared");
        return NULL;
    }
    return call_with(self->otherwise, args, count, keyword_names);
}

PyObject *plog_appender_tail(PyObject *object)
{
    return ((appender_object *)object)->tail;
}

static PyObject *appender_use(PyObject *object, PyObject *tail)
{
    appender_object *self = (appender_object *)object;
    if (tail != Py_None && Py_TYPE(tail) != plog_state_of(object)->types[PLOG_TAIL_TYPE]) {
        plog_raise_type(tail, "tail", "a Tail or None");
        return NULL;
    }
    PyObject *old = self->tail;
    self->tail = tail == Py_None ? NULL : Py_NewRef(tail);
    Py_XDECREF(old);
    Py_RETURN_NONE;
}

static PyObject *appender_then(PyObject *object, PyObject *then)
{
    appender_object *self = (appender_object *)object;
    PyObject *old = self->then;
    self->then = then == Py_None ? NULL : Py_NewRef(then);
    Py_XDECREF(old);
    Py_RETURN_NONE;
}

static PyObject *appender_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"otherwise", NULL};
    PyObject *otherwise; /* borrowed */
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "O:Appender", names, &otherwise)) {
        return NULL;
    }
    appender_object *self = (appender_object *)PyType_GenericAlloc(type, 0);
    if (self != NULL) {
        self->otherwise = Py_NewRef(otherwise);
    }
    return (PyObject *)self;
}

static int appender_traverse(PyObject *object, visitproc visit, void *arg)
{
    appender_object *self = (appender_object *)object;
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(self->tail);
    Py_VISIT(self->otherwise);
    Py_VISIT(self->then);
    return 0;
}

static int appender_clear(PyObject *object)
{
    appender_object *self = (appender_object *)object;
    Py_CLEAR(self->tail);
    Py_CLEAR(self->otherwise);
    Py_CLEAR(self->then);
    return 0;
}

static void appender_dealloc(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    appender_clear(object);
    PyObject_GC_Del(object);
    Py_DECREF((PyObject *)type);
}

/* ---- the type */

static PyMethodDef appender_methods[] = {
    {"append", PLOG_METHOD(plog_appender_append), METH_FASTCALL | METH_KEYWORDS,
     "Append one record through the tail in use; what it cannot do is handed to `otherwise`."},
    {"use", appender_use, METH_O, "Append through this Tail from now on, None for none."},
    {"then", appender_then, METH_O,
     "Call this with what each append of the tail returns, before it is returned; None: nothing."},
    {NULL, NULL, 0, NULL},
};

int plog_add_appender_type(PyObject *module)
{
    static PyType_Slot slots[] = {
        {Py_tp_doc, "Appends records through a partition's current tail."},
        {Py_tp_new, (void *)appender_new},
        {Py_tp_dealloc, (void *)appender_dealloc},
        {Py_tp_traverse, (void *)appender_traverse},
        {Py_tp_clear, (void *)appender_clear},
        {Py_tp_methods, appender_methods},
        {0, NULL},
    };
    static PyType_Spec spec = {
        .name = "pylog._native.Appender",
        .basicsize = sizeof(appender_object),
        .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
        .slots = slots,
    };
    return plog_add_type(module, &spec, PLOG_APPENDER_TYPE, true);
}
