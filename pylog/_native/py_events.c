/* Events: waiting on a counter in shared memory; and time-outs for all waits of the module.
 * GIL: released around a sleep, whose memory the object's own buffer keeps mapped. */

#include "py_page.h"

#include <math.h>

typedef struct {
    PyObject_HEAD Py_buffer view; /* held until dealloc */
    plog_events *events;          /* borrowed: inside the view */
} events_object;

/* A wait of more seconds is a wait for ever: it keeps nanoseconds inside 63 bits. */
static const double MAX_TIMEOUT_SECONDS = 1e9;
static const long MAX_SLICE_MS = 86400000;

int plog_deadline_from_object(PyObject *timeout, int64_t *deadline_ns)
{
    *deadline_ns = INT64_MAX;
    if (timeout == NULL || timeout == Py_None) {
        return 0;
    }
    const double seconds = PyFloat_AsDouble(timeout);
    if (seconds == -1.0 && PyErr_Occurred()) {
        return -1;
    }
    if (isnan(seconds)) {
        PyErr_SetString(PyExc_ValueError, "timeout is not a number");
        return -1;
    }
    if (seconds < MAX_TIMEOUT_SECONDS) {
        *deadline_ns = plog_monotonic_ns() + (int64_t)(seconds > 0 ? seconds * 1e9 : 0);
    }
    return 0;
}

int64_t plog_slice_end(int64_t deadline_ns, int64_t slice_ms)
{
    const int64_t end = plog_monotonic_ns() + slice_ms * 1000000;
    return end < deadline_ns ? end : deadline_ns;
}

int plog_writable_buffer(PyObject *object, const char *what, Py_buffer *view)
{
    if (PyObject_GetBuffer(object, view, PyBUF_WRITABLE) == 0) {
        return 0;
    }
    if (PyErr_ExceptionMatches(PyExc_TypeError) || PyErr_ExceptionMatches(PyExc_BufferError)) {
        PyErr_Format(PyExc_TypeError, "%s must be writable, contiguous memory, not %R", what,
                     (PyObject *)Py_TYPE(object));
    }
    return -1;
}

plog_events *plog_events_of(PyObject *events)
{
    return ((events_object *)events)->events;
}

PyObject *plog_events_new(PyTypeObject *type, PyObject *memory, Py_ssize_t position)
{
    events_object *self = (events_object *)PyType_GenericAlloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    if (plog_writable_buffer(memory, "memory", &self->view) < 0) {
        Py_DECREF(self);
        return NULL;
    }
    const Py_ssize_t size = (Py_ssize_t)sizeof(plog_events);
    const uintptr_t address = (uintptr_t)self->view.buf + (size_t)position;
    if (position < 0 || position > self->view.len - size || address % sizeof(plog_events) != 0) {
        PyErr_Format(PyExc_ValueError, "position %zd: not 4 aligned bytes inside %zd", position,
                     self->view.len);
        Py_DECREF(self);
        return NULL;
    }
    self->events = (plog_events *)(void *)((uint8_t *)self->view.buf + position);
    return (PyObject *)self;
}

static PyObject *events_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"memory", "position", NULL};
    PyObject *memory; /* borrowed */
    Py_ssize_t position = 0;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "O|n", names, &memory, &position)) {
        return NULL;
    }
    return plog_events_new(type, memory, position);
}

static void events_dealloc(PyObject *object)
{
    PyBuffer_Release(&((events_object *)object)->view);
    plog_free_object(object);
}

static PyObject *events_value(PyObject *object, void *Py_UNUSED(closure))
{
    return PyLong_FromUnsignedLong(plog_events_value(plog_events_of(object)));
}

static PyObject *events_notify(PyObject *object, PyObject *Py_UNUSED(unused))
{
    plog_events_notify(plog_events_of(object));
    Py_RETURN_NONE;
}

/* Wait in slices, so that signals are noticed: True, or False at the deadline. */
static PyObject *wait_any(plog_events *const *events, const uint32_t *seen, size_t count,
                          int64_t deadline_ns, int64_t slice_ms)
{
    for (;;) {
        plog_status status;
        Py_BEGIN_ALLOW_THREADS status =
            plog_events_wait_any(events, seen, count, plog_slice_end(deadline_ns, slice_ms));
        Py_END_ALLOW_THREADS if (status == PLOG_OK)
        {
            Py_RETURN_TRUE;
        }
        if (status == PLOG_SYSTEM) {
            return PyErr_SetFromErrno(PyExc_OSError);
        }
        if (PyErr_CheckSignals() < 0) {
            return NULL;
        }
        if (status == PLOG_TIMED_OUT && plog_monotonic_ns() >= deadline_ns) {
            Py_RETURN_FALSE;
        }
    }
}

static PyObject *events_wait(PyObject *object, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"seen", "timeout", NULL};
    plog_events *events = plog_events_of(object);
    unsigned int seen;
    PyObject *timeout = Py_None; /* borrowed */
    int64_t deadline_ns;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "I|O", names, &seen, &timeout) ||
        plog_deadline_from_object(timeout, &deadline_ns) < 0) {
        return NULL;
    }
    if (plog_events_value(events) != seen) {
        Py_RETURN_TRUE;
    }
    return wait_any(&events, &seen, 1, deadline_ns, plog_state_of(object)->events_slice_ms);
}

static PyObject *wait_for_events(PyObject *module, PyObject *args)
{
    PyObject *given, *timeout = Py_None; /* borrowed */
    if (!PyArg_ParseTuple(args, "O|O", &given, &timeout)) {
        return NULL;
    }
    plog_events **events = NULL;
    uint32_t *seen = NULL;
    PyObject *result = NULL;
    PyObject *pairs = PySequence_Tuple(given); /* strong: keeps the memory, nobody can change it */
    if (pairs == NULL) {
        return NULL;
    }
    const Py_ssize_t count = PyTuple_Size(pairs);
    events = PyMem_New(plog_events *, (size_t)count);
    seen = PyMem_New(uint32_t, (size_t)count);
    if (events == NULL || seen == NULL) {
        PyErr_NoMemory();
        goto done;
    }
    const plog_module_state *state = (plog_module_state *)PyModule_GetState(module);
    PyTypeObject *type = state->types[PLOG_EVENTS_TYPE];
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *one; /* borrowed */
        unsigned int value;
        PyObject *pair = PyTuple_GetItem(pairs, i); /* borrowed */
        if (!PyTuple_Check(pair)) {
            PyErr_SetString(PyExc_TypeError, "expected tuples of events and the value seen");
            goto done;
        }
        if (!PyArg_ParseTuple(pair, "O!I", type, &one, &value)) {
            goto done;
        }
        events[i] = plog_events_of(one);
        seen[i] = value;
    }
    int64_t deadline_ns;
    if (plog_deadline_from_object(timeout, &deadline_ns) == 0) {
        result = wait_any(events, seen, (size_t)count, deadline_ns, state->events_slice_ms);
    }
done:
    PyMem_Free(seen);
    PyMem_Free(events);
    Py_DECREF(pairs);
    return result;
}

static PyObject *set_events_slice_ms(PyObject *module, PyObject *milliseconds)
{
    plog_module_state *state = (plog_module_state *)PyModule_GetState(module);
    const long before = (long)state->events_slice_ms, slice = PyLong_AsLong(milliseconds);
    if (slice == -1 && PyErr_Occurred()) {
        return NULL;
    }
    if (slice < 1 || slice > MAX_SLICE_MS) {
        PyErr_Format(PyExc_ValueError, "a slice of %ld ms: expected 1 to %ld", slice, MAX_SLICE_MS);
        return NULL;
    }
    state->events_slice_ms = slice;
    return PyLong_FromLong(before);
}

int plog_add_events_type(PyObject *module)
{
    ((plog_module_state *)PyModule_GetState(module))->events_slice_ms = PLOG_EVENTS_SLICE_MS;
    static PyMethodDef methods[] = {
        {"wait", PLOG_METHOD(events_wait), METH_VARARGS | METH_KEYWORDS,
         "Wait until the value is not `seen`: True, or False after `timeout` seconds.\n\n"
         "Read the value, then what it counts, then wait; so nothing is missed.  A writer that "
         "was\n"
         "killed may have counted nothing: give a time-out and look again.  Releases the GIL; "
         "ends\n"
         "when a signal handler raises.  Raises ValueError for a timeout that is not a number."},
        {"notify", events_notify, METH_NOARGS,
         "Count one event and wake all who wait, in all processes.  A system call only if any do."},
        {NULL, NULL, 0, NULL},
    };
    static PyGetSetDef properties[] = {
        {"value", events_value, NULL, "The count of events, modulo 2**31.", NULL},
        {NULL, NULL, NULL, NULL, NULL},
    };
    static PyType_Slot slots[] = {
        {Py_tp_doc, "A counter in shared memory that can be waited on across processes."},
        {Py_tp_new, (void *)events_new},
        {Py_tp_dealloc, (void *)events_dealloc},
        {Py_tp_methods, methods},
        {Py_tp_getset, properties},
        {0, NULL},
    };
    static PyType_Spec spec = {
        .name = "pylog._native.Events",
        .basicsize = sizeof(events_object),
        .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
        .slots = slots,
    };
    static PyMethodDef functions[] = {
        {"wait_for_events", wait_for_events, METH_VARARGS,
         "wait_for_events(pairs, timeout=None) -> bool: as Events.wait, for one of several.\n\n"
         "pairs: tuples of Events and the value seen of each.  Sleeps in one system call; where\n"
         "there is none for several (Linux before 5.16, more than 128), it polls every\n"
         "millisecond."},
        {"set_events_slice_ms", set_events_slice_ms, METH_O,
         "Set how long waits for events sleep before they look again; return what it was.\n\n"
         "For tests: where nobody looks again, a wake-up that is lost is a wait without end."},
        {NULL, NULL, 0, NULL},
    };
    return plog_add_type(module, &spec, PLOG_EVENTS_TYPE, true) < 0
               ? -1
               : PyModule_AddFunctions(module, functions);
}
