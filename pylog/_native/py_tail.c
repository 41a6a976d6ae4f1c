/* Tail: its life, its memory, and appends of whole batches.
 *
 * GIL: kept while the page's lock is free, since an append takes less time than a hand-over of the
 * GIL.  When the lock is taken the GIL is released for the wait and for the placing that follows: a
 * thread that waits for the GIL never holds the lock here.
 */

#include "py_tail.h"

#include <errno.h>

static PyObject *system_clock(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(unused))
{
    return PyLong_FromLongLong(plog_wall_clock_ns() / 1000000);
}

/* ---- attaching */

/* The one place that gives the memory of a segment back. */
static void attachment_drop(plog_attachment *memory)
{
    if (memory != NULL && --memory->users == 0) {
        PyBuffer_Release(&memory->window);
        PyBuffer_Release(&memory->index);
        PyBuffer_Release(&memory->timeindex);
        Py_XDECREF(memory->log);
        PyMem_Free(memory);
    }
}

static plog_attachment *attachment_new(PyObject *window, PyObject *index, PyObject *timeindex,
                                       PyObject *log)
{
    plog_attachment *memory = PyMem_Calloc(1, sizeof *memory);
    if (memory == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    memory->users = 1;
    if (plog_writable_buffer(window, "window", &memory->window) < 0 ||
        plog_writable_buffer(index, "index", &memory->index) < 0 ||
        plog_writable_buffer(timeindex, "timeindex", &memory->timeindex) < 0) {
        attachment_drop(memory); /* releasing a buffer that was never got does nothing */
        return NULL;
    }
    memory->log = log == Py_None ? NULL : Py_NewRef(log);
    return memory;
}

static plog_memory memory_of(const Py_buffer *view)
{
    return (plog_memory){.data = view->buf, .len = (size_t)view->len};
}

static void detach(plog_tail_object *self)
{
    plog_attachment *memory = self->memory;
    self->memory = NULL;
    self->core.is_attached = false;
    attachment_drop(memory);
}

static PyObject *tail_detach(PyObject *object, PyObject *Py_UNUSED(unused))
{
    detach((plog_tail_object *)object);
    Py_RETURN_NONE;
}

typedef enum {
    SEGMENT_SERIAL,
    WINDOW,
    WINDOW_POSITION,
    INDEX,
    TIMEINDEX,
    LOG,
    ATTACH_ARGUMENTS
} attach_argument;

static const char *const attach_names[ATTACH_ARGUMENTS] = {
    "segment_serial", "window", "window_position", "index", "timeindex", "log"};
static const plog_signature attach_signature = {"attach", attach_names, ATTACH_ARGUMENTS,
                                                ATTACH_ARGUMENTS, 0};

static PyObject *tail_attach(PyObject *object, PyObject *const *args, Py_ssize_t count,
                             PyObject *keyword_names)
{
    plog_tail_object *self = (plog_tail_object *)object;
    PyObject *given[ATTACH_ARGUMENTS] = {NULL}; /* borrowed */
    int64_t segment_serial, window_position;
    if (plog_parse_arguments(&attach_signature, args, count, keyword_names, given) < 0 ||
        plog_int64_from_object(given[SEGMENT_SERIAL], "segment_serial", &segment_serial) < 0 ||
        plog_int64_from_object(given[WINDOW_POSITION], "window_position", &window_position) < 0) {
        return NULL;
    }
    if (given[LOG] != Py_None && Py_TYPE(given[LOG]) != self->state->types[PLOG_DESCRIPTOR_TYPE]) {
        plog_raise_type(given[LOG], "log", "a Descriptor or None");
        return NULL;
    }
    if (!self->is_configured || window_position < 0) {
        PyErr_SetString(PyExc_ValueError, window_position < 0 ? "window_position is negative"
                                                              : "configure() comes first");
        return NULL;
    }
    plog_attachment *memory =
        attachment_new(given[WINDOW], given[INDEX], given[TIMEINDEX], given[LOG]);
    if (memory == NULL) {
        return NULL;
    }
    detach(self);
    self->memory = memory;
    self->core.segment_serial = segment_serial;
    self->core.window = memory_of(&memory->window);
    self->core.window_position = window_position;
    self->core.log_fd = memory->log == NULL ? -1 : plog_descriptor_fd(memory->log);
    self->core.index = memory_of(&memory->index);
    self->core.timeindex = memory_of(&memory->timeindex);
    self->core.is_attached = true;
    Py_RETURN_NONE;
}

/* ---- placing */

bool plog_tail_hold(plog_tail_object *self, plog_held_tail *out)
{
    if (plog_page_borrow(self->page) == NULL) {
        return false;
    }
    *out = (plog_held_tail){.core = self->core, .tail = self, .memory = self->memory};
    Py_INCREF((PyObject *)self);
    plog_page_keep(self->page);
    if (out->memory != NULL) {
        out->memory->users++;
    }
    return true;
}

void plog_tail_let_go(plog_held_tail *held)
{
    attachment_drop(held->memory);
    plog_page_drop(held->tail->page);
    Py_DECREF((PyObject *)held->tail);
}

/* Wait for the lock for one slice, and place, without the GIL. */
static plog_status place_without_gil(plog_tail_object *self, plog_memory data,
                                     int64_t expected_offset, int64_t now, plog_placed *placed)
{
    plog_held_tail held;
    plog_status status;
    int error;
    if (!plog_tail_hold(self, &held)) {
        return PLOG_INTERRUPTED;
    }
    Py_BEGIN_ALLOW_THREADS status =
        plog_tail_place(&held.core, data, expected_offset, now,
                        plog_slice_end(INT64_MAX, PLOG_LOCK_SLICE_MS), placed);
    error = errno;
    Py_END_ALLOW_THREADS plog_tail_let_go(&held);
    errno = error;
    return status;
}

plog_status plog_tail_place_object(plog_tail_object *self, plog_memory data,
                                   int64_t expected_offset, int64_t now, plog_placed *placed)
{
    if (plog_page_borrow(self->page) == NULL) {
        return PLOG_INTERRUPTED;
    }
    plog_status status = plog_tail_place(&self->core, data, expected_offset, now, 0, placed);
    while (status == PLOG_TIMED_OUT) {
        if (PyErr_CheckSignals() < 0) {
            return PLOG_INTERRUPTED;
        }
        status = place_without_gil(self, data, expected_offset, now, placed);
    }
    if (status == PLOG_OK) {
        plog_count_appended(self->counters, placed->end_offset - placed->first_offset, data.len);
    }
    return status;
}

PyObject *plog_tail_not_placed(plog_tail_object *self, plog_status status)
{
    switch (status) {
    case PLOG_NO_ROOM:
    case PLOG_STALE:
    case PLOG_NOT_OPEN:
        return PyLong_FromLong(status);
    case PLOG_INTERRUPTED:
        return NULL;
    case PLOG_SYSTEM:
        return plog_page_raise_lock(self->page, status);
    default:
        return PyErr_Format(self->state->errors[PLOG_INVALID_RECORD_ERROR],
                            "data must be one or more whole batches: %s", plog_status_text(status));
    }
}

static PyObject *pair_of(int64_t first, int64_t second)
{
    return Py_BuildValue("LL", (long long)first, (long long)second);
}

typedef struct {
    Py_buffer view;
    plog_memory data;
    int64_t expected_offset;
    plog_numbering numbering;
} batches_argument;

/* Arguments (data, expected_offset=-1, keeps_offsets=False).  The view is held until
 * PyBuffer_Release by the caller. */
static int batches_from_arguments(PyObject *args, PyObject *keywords, batches_argument *out)
{
    static char *names[] = {"data", "expected_offset", "keeps_offsets", NULL};
    PyObject *data; /* borrowed */
    long long expected_offset = -1;
    int keeps_offsets = 0;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "O|L$p", names, &data, &expected_offset,
                                     &keeps_offsets) ||
        plog_writable_buffer(data, "data", &out->view) < 0) {
        return -1;
    }
    out->data = memory_of(&out->view);
    out->expected_offset = expected_offset;
    out->numbering = keeps_offsets ? PLOG_KEEPS_OFFSETS : PLOG_TAKES_NEXT;
    return 0;
}

static PyObject *tail_place(PyObject *object, PyObject *args, PyObject *keywords)
{
    plog_tail_object *self = (plog_tail_object *)object;
    batches_argument batches;
    plog_placed placed;
    int64_t now;
    if (plog_tail_read_clock(self, &now) < 0 ||
        batches_from_arguments(args, keywords, &batches) < 0) {
        return NULL;
    }
    const plog_status status =
        plog_tail_place_object(self, batches.data, batches.expected_offset, now, &placed);
    PyBuffer_Release(&batches.view);
    return status == PLOG_OK ? pair_of(placed.first_offset, placed.end_offset)
                             : plog_tail_not_placed(self, status);
}

static PyObject *tail_stamp(PyObject *object, PyObject *args, PyObject *keywords)
{
    plog_tail_object *self = (plog_tail_object *)object;
    batches_argument batches;
    plog_placed placed;
    if (plog_page_borrow(self->page) == NULL || !plog_page_is_held(self->page) ||
        batches_from_arguments(args, keywords, &batches) < 0) {
        return NULL;
    }
    const plog_status status = plog_tail_stamp_locked(
        &self->core, batches.data, batches.expected_offset, batches.numbering, &placed);
    PyBuffer_Release(&batches.view);
    return status == PLOG_OK ? pair_of(placed.position, placed.first_offset)
                             : plog_tail_not_placed(self, status);
}

static PyObject *tail_publish(PyObject *object, PyObject *args, PyObject *keywords)
{
    plog_tail_object *self = (plog_tail_object *)object;
    batches_argument batches;
    int64_t now;
    if (plog_tail_read_clock(self, &now) < 0 || plog_page_borrow(self->page) == NULL ||
        !plog_page_is_held(self->page) || batches_from_arguments(args, keywords, &batches) < 0) {
        return NULL;
    }
    plog_marks before, after;
    plog_page_marks(plog_page_of(self->page), &before);
    const plog_status status =
        plog_tail_publish_locked(&self->core, batches.data, now, batches.numbering);
    plog_page_marks(plog_page_of(self->page), &after);
    const size_t bytes = batches.data.len;
    PyBuffer_Release(&batches.view);
    if (status != PLOG_OK) {
        PyErr_SetString(PyExc_RuntimeError,
                        "publish() takes what stamp() prepared in the same turn of the lock");
        return NULL;
    }
    plog_count_appended(self->counters, after.log_end_offset - before.log_end_offset, bytes);
    return PyLong_FromLongLong(after.log_end_offset);
}

/* ---- the type */

static bool is_events_or_none(const plog_module_state *state, PyObject *object)
{
    return object == Py_None || Py_TYPE(object) == state->types[PLOG_EVENTS_TYPE];
}

static int check_types(const plog_module_state *state, PyObject *page, PyObject *clock,
                       PyObject *log_events, PyObject *settings)
{
    if (clock == NULL) {
        PyErr_SetString(PyExc_TypeError, "a tail needs topic, partition and clock");
        return -1;
    }
    if (Py_TYPE(page) != state->types[PLOG_SHARED_PAGE_TYPE]) {
        PyErr_SetString(PyExc_TypeError, "page must be a SharedPage");
        return -1;
    }
    if (!PyCallable_Check(clock)) {
        PyErr_SetString(PyExc_TypeError, "clock must be callable");
        return -1;
    }
    if (!is_events_or_none(state, log_events) || !is_events_or_none(state, settings)) {
        PyErr_SetString(PyExc_TypeError, "log_events and settings must be an Events or None");
        return -1;
    }
    return 0;
}

static PyObject *tail_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"page",       "topic",    "partition", "clock",
                            "log_events", "settings", "counters",  NULL};
    const plog_module_state *state = PyType_GetModuleState(type);
    PyObject *page, *topic = NULL, *clock = NULL;                             /* borrowed */
    PyObject *log_events = Py_None, *settings = Py_None, *counters = Py_None; /* borrowed */
    int partition = -1;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "O|$UiOOOO", names, &page, &topic, &partition,
                                     &clock, &log_events, &settings, &counters) ||
        check_types(state, page, topic == NULL || partition < 0 ? NULL : clock, log_events,
                    settings) < 0) {
        return NULL;
    }
    plog_tail_object *self = (plog_tail_object *)PyType_GenericAlloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    self->state = state;
    self->counters = plog_counters_from_object(state, counters);
    if (self->counters == NULL && counters != Py_None) {
        Py_DECREF((PyObject *)self);
        return NULL;
    }
    self->page = Py_NewRef(page);
    self->topic = PyUnicode_FromObject(topic);
    self->clock = Py_NewRef(clock);
    self->log_events = log_events == Py_None ? NULL : Py_NewRef(log_events);
    self->settings = settings == Py_None ? NULL : Py_NewRef(settings);
    self->partition = partition;
    self->is_system_clock = plog_is_system_clock(type, clock);
    self->core.page = plog_page_of(page);
    self->core.log_events = self->log_events == NULL ? NULL : plog_events_of(self->log_events);
    self->core.settings = self->settings == NULL ? NULL : plog_events_of(self->settings);
    if (self->topic == NULL) {
        Py_DECREF((PyObject *)self);
        return NULL;
    }
    return (PyObject *)self;
}

static int tail_traverse(PyObject *object, visitproc visit, void *arg)
{
    plog_tail_object *self = (plog_tail_object *)object;
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(self->page);
    Py_VISIT(self->clock);
    Py_VISIT(self->log_events);
    Py_VISIT(self->settings);
    return 0;
}

/* Only the clock can be part of a cycle; the core borrows from the others until the end. */
static int tail_clear(PyObject *object)
{
    plog_tail_object *self = (plog_tail_object *)object;
    self->is_system_clock = true;
    Py_CLEAR(self->clock);
    return 0;
}

static void tail_dealloc(PyObject *object)
{
    plog_tail_object *self = (plog_tail_object *)object;
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    detach(self);
    Py_XDECREF(self->page);
    Py_XDECREF(self->topic);
    Py_XDECREF(self->clock);
    Py_XDECREF(self->log_events);
    Py_XDECREF(self->settings);
    Py_XDECREF((PyObject *)self->counters);
    PyObject_GC_Del(object);
    Py_DECREF((PyObject *)type);
}

static PyMethodDef tail_methods[] = {
    {"configure", PLOG_METHOD(plog_tail_configure), METH_FASTCALL | METH_KEYWORDS,
     "Set the rules of the topic; may be called again at any time.\n\n"
     "settings_seen: the value of the tail's `settings` that these rules are as new as; at any\n"
     "other value appends return NOT_OPEN."},
    {"attach", PLOG_METHOD(tail_attach), METH_FASTCALL | METH_KEYWORDS,
     "Use the memory of a segment, in place of any other: `window` is its .log from\n"
     "window_position, `index` and `timeindex` are its whole index files.  `log` owns the file "
     "and\n"
     "is written to where that takes less time, None: never.  All of them are held."},
    {"detach", tail_detach, METH_NOARGS,
     "Drop the buffers; appends then return NOT_OPEN.  Idempotent."},
    {"append", PLOG_METHOD(plog_tail_append), METH_FASTCALL | METH_KEYWORDS,
     "Append one record as a batch: RecordMetadata, or NO_ROOM, STALE or NOT_OPEN; always "
     "NOT_OPEN\n"
     "where batches are to be compressed.\n\n"
     "timestamp: None asks the clock.  expected_offset: the log end offset relied on, None any.\n"
     "A status means that nothing was appended.  Raises RecordTooLargeError, InvalidRecordError,\n"
     "ClosedError, RuntimeError when this thread holds the page's lock.  No system call, unless\n"
     "the lock is taken, somebody waits for the record, or all before it was synced."},
    {"place", PLOG_METHOD(tail_place), METH_VARARGS | METH_KEYWORDS,
     "Append whole batches, all or none: (first offset, end offset), or a status as append.\n\n"
     "data: from encode; offsets and epoch are written into it.  Raises InvalidRecordError when\n"
     "it is not whole batches, ClosedError, RuntimeError when this thread holds the lock."},
    {"stamp", PLOG_METHOD(tail_stamp), METH_VARARGS | METH_KEYWORDS,
     "Prepare batches that the caller writes to the file: (position, log end offset) or a "
     "status.\n\n"
     "Needs the page's lock, until publish(data).  Sets the page's intent.  keeps_offsets: the\n"
     "batches have their offsets and leader epochs, at or after the end and not before the last;\n"
     "raises InvalidRecordError for others."},
    {"publish", PLOG_METHOD(tail_publish), METH_VARARGS | METH_KEYWORDS,
     "Make the batches count that stamp prepared and the caller wrote; return the end offset.\n\n"
     "Raises RuntimeError when they are others, or the lock was given back in between."},
    {NULL, NULL, 0, NULL},
};

static int add_system_clock(PyObject *module)
{
    static PyMethodDef functions[] = {
        {"system_clock", system_clock, METH_NOARGS, "Return the wall clock in ms since the epoch."},
        {NULL, NULL, 0, NULL},
    };
    return PyModule_AddFunctions(module, functions);
}

int plog_add_tail_types(PyObject *module)
{
    static PyType_Slot slots[] = {
        {Py_tp_doc, "The writable end of a partition: one C call per append."},
        {Py_tp_new, (void *)tail_new},
        {Py_tp_dealloc, (void *)tail_dealloc},
        {Py_tp_traverse, (void *)tail_traverse},
        {Py_tp_clear, (void *)tail_clear},
        {Py_tp_methods, tail_methods},
        {0, NULL},
    };
    static PyType_Spec spec = {
        .name = "pylog._native.Tail",
        .basicsize = sizeof(plog_tail_object),
        .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
        .slots = slots,
    };
    return add_system_clock(module) < 0 ? -1 : plog_add_type(module, &spec, PLOG_TAIL_TYPE, true);
}
