/* Counters: numbers that only grow, kept where they are counted without a call of Python.
 *
 * Knows: numbers.  Must not know who counts.  They are exact because the GIL is held; nobody waits.
 */
#include "py_counters.h"

#include <structmember.h>

plog_counters *plog_counters_from_object(const plog_module_state *state, PyObject *object)
{
    if (object == Py_None) {
        return NULL;
    }
    if (Py_TYPE(object) != state->types[PLOG_COUNTERS_TYPE]) {
        plog_raise_type(object, "counters", "a Counters or None");
        return NULL;
    }
    return (plog_counters *)Py_NewRef(object);
}

void plog_count_appended(plog_counters *counters, int64_t records, size_t bytes)
{
    if (counters != NULL) {
        counters->appended_records += records;
        counters->appended_bytes += (int64_t)bytes;
    }
}

void plog_count_read(plog_counters *counters, int64_t records, size_t bytes)
{
    if (counters != NULL) {
        counters->read_records += records;
        counters->read_bytes += (int64_t)bytes;
    }
}

static PyObject *counters_note_sync(PyObject *object, PyObject *seconds)
{
    plog_counters *self = (plog_counters *)object;
    const double taken = PyFloat_AsDouble(seconds);
    if (taken == -1.0 && PyErr_Occurred()) {
        return NULL;
    }
    self->syncs++;
    self->sync_seconds += taken;
    self->last_sync_seconds = taken;
    Py_RETURN_NONE;
}

static PyObject *counters_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static char *names[] = {NULL};
    if (!PyArg_ParseTupleAndKeywords(args, keywords, ":Counters", names)) {
        return NULL;
    }
    return PyType_GenericAlloc(type, 0);
}

int plog_add_counters_type(PyObject *module)
{
    static PyMethodDef methods[] = {
        {"note_sync", counters_note_sync, METH_O, "Count a sync that took so many seconds."},
        {NULL, NULL, 0, NULL},
    };
    static_assert(sizeof(long long) == sizeof(int64_t), "members are read as long long");
#define COUNTER(name, type, text)                                                                  \
    {                                                                                              \
        #name, type, offsetof(plog_counters, name), READONLY, text                                 \
    }
    static PyMemberDef members[] = {
        COUNTER(appended_records, T_LONGLONG, "Offsets that were placed."),
        COUNTER(appended_bytes, T_LONGLONG, "Bytes of the batches that were placed."),
        COUNTER(read_records, T_LONGLONG, "Offsets that were read."),
        COUNTER(read_bytes, T_LONGLONG, "Bytes of the batches that were read."),
        COUNTER(syncs, T_LONGLONG, "Syncs."),
        COUNTER(sync_seconds, T_DOUBLE, "Seconds that all syncs took."),
        COUNTER(last_sync_seconds, T_DOUBLE, "Seconds that the last sync took."),
        {NULL, 0, 0, 0, NULL},
    };
#undef COUNTER
    static PyType_Slot slots[] = {
        {Py_tp_doc, "What this process appended to a partition, read from it and synced."},
        {Py_tp_new, (void *)counters_new},
        {Py_tp_dealloc, (void *)plog_free_object},
        {Py_tp_methods, methods},
        {Py_tp_members, members},
        {0, NULL},
    };
    static PyType_Spec spec = {
        .name = "pylog._native.Counters",
        .basicsize = sizeof(plog_counters),
        .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
        .slots = slots,
    };
    return plog_add_type(module, &spec, PLOG_COUNTERS_TYPE, true);
}
