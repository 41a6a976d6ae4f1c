/* Marks: a copy of a page's marks as a Python object, and marks as keyword arguments. */

#include "py_page.h"

#include <structmember.h>

typedef struct {
    PyObject_HEAD plog_marks marks;
} marks_object;

#define MARK_NAME(name) #name,
static const char *const mark_names[PLOG_MARK_COUNT] = {PLOG_EACH_MARK(MARK_NAME)};
#undef MARK_NAME

int plog_add_marks_type(PyObject *module)
{
#define MARK_MEMBER(name) {#name, T_LONGLONG, offsetof(marks_object, marks.name), READONLY, NULL},
    static PyMemberDef members[] = {
        PLOG_EACH_MARK(MARK_MEMBER){NULL, 0, 0, 0, NULL},
    };
#undef MARK_MEMBER
    static PyType_Slot slots[] = {
        {Py_tp_doc, "The marks of a page, all published at the same moment."},
        {Py_tp_members, members},
        {Py_tp_dealloc, (void *)plog_free_object},
        {0, NULL},
    };
    static PyType_Spec spec = {
        .name = "pylog._native.Marks",
        .basicsize = sizeof(marks_object),
        .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
        .slots = slots,
    };
    return plog_add_type(module, &spec, PLOG_MARKS_TYPE, true);
}

static int64_t *field_named(plog_marks *marks, PyObject *name)
{
    for (size_t i = 0; i < PLOG_MARK_COUNT; i++) {
        if (PyUnicode_CompareWithASCIIString(name, mark_names[i]) == 0) {
            return &marks->fields[i];
        }
    }
    PyErr_Format(PyExc_TypeError, "there is no mark %R", name);
    return NULL;
}

int plog_marks_apply(plog_marks *marks, PyObject *const *values, PyObject *names)
{
    const Py_ssize_t count = names == NULL ? 0 : PyTuple_Size(names);
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *name = PyTuple_GetItem(names, i); /* borrowed */
        int64_t *field = field_named(marks, name);
        if (field == NULL || plog_int64_from_object(values[i], "a mark", field) < 0) {
            return -1;
        }
    }
    return 0;
}

PyObject *plog_marks_new(const plog_module_state *state, const plog_marks *marks)
{
    PyObject *self = PyType_GenericAlloc(state->types[PLOG_MARKS_TYPE], 0);
    if (self != NULL) {
        ((marks_object *)self)->marks = *marks;
    }
    return self;
}
