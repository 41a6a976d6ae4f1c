/* SharedPage: arguments, ownership of the buffer, and who holds the lock.
 *
 * GIL: kept while the lock is free, released to wait for it.  The lock is taken before the GIL
 * comes back, never the other way round by a thread that keeps the GIL; so a thread that holds the
 * lock and waits for the GIL always gets it. */

#include "py_page.h"

#include <errno.h>

typedef struct {
    PyObject_HEAD Py_buffer view; /* held until released and unused; view.obj is NULL then */
    plog_page page;
    uint64_t holder;  /* the plog_thread_id that took the lock with lock(), or 0 */
    Py_ssize_t users; /* the holder, and calls that run without the GIL */
    bool is_released;
} page_object;

/* ---- SharedPage: life */

/* The one place that gives the memory back. */
static void release_if_unused(page_object *self)
{
    if (self->is_released && self->users == 0 && self->view.obj != NULL) {
        plog_page_close(&self->page);
        PyBuffer_Release(&self->view);
    }
}

static PyObject *page_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"memory", "lock_fd", NULL};
    PyObject *memory; /* borrowed */
    int lock_fd = -1;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "O|i", names, &memory, &lock_fd)) {
        return NULL;
    }
    page_object *self = (page_object *)PyType_GenericAlloc(type, 0);
    if (self == NULL || plog_writable_buffer(memory, "memory", &self->view) < 0) {
        Py_XDECREF((PyObject *)self);
        return NULL;
    }
    switch (plog_page_open(&self->page, self->view.buf, (size_t)self->view.len, lock_fd)) {
    case PLOG_OK:
        return (PyObject *)self;
    case PLOG_BAD_LENGTH:
        PyErr_Format(PyExc_ValueError, "a page needs %d bytes, aligned to 16", PLOG_PAGE_BYTES);
        break;
    default:
        PyErr_SetFromErrno(PyExc_OSError);
    }
    PyBuffer_Release(&self->view);
    Py_DECREF((PyObject *)self);
    return NULL;
}

static void page_dealloc(PyObject *object)
{
    page_object *self = (page_object *)object;
    self->is_released = true;
    if (self->holder == plog_thread_id()) {
        plog_page_unlock(&self->page);
        self->users--;
    }
    /* A lock that another thread took and forgot keeps the memory for ever: that thread's list of
     * robust locks points into it. */
    release_if_unused(self);
    plog_free_object(object);
}

static page_object *check_not_released(PyObject *object)
{
    page_object *self = (page_object *)object;
    if (self->is_released) {
        PyErr_SetString(plog_state_of(object)->errors[PLOG_CLOSED_ERROR],
                        "the shared page is released");
        return NULL;
    }
    return self;
}

plog_page *plog_page_of(PyObject *shared_page)
{
    return &((page_object *)shared_page)->page;
}

plog_page *plog_page_borrow(PyObject *shared_page)
{
    page_object *self = check_not_released(shared_page);
    if (self == NULL) {
        return NULL;
    }
    if (!plog_page_is_valid(&self->page)) {
        PyErr_SetString(PyExc_RuntimeError, "the shared page is not initialized");
        return NULL;
    }
    return &self->page;
}

void plog_page_keep(PyObject *shared_page)
{
    ((page_object *)shared_page)->users++;
}

void plog_page_drop(PyObject *shared_page)
{
    page_object *self = (page_object *)shared_page;
    self->users--;
    release_if_unused(self);
}

static PyObject *page_release(PyObject *object, PyObject *Py_UNUSED(unused))
{
    page_object *self = (page_object *)object;
    self->is_released = true;
    release_if_unused(self);
    Py_RETURN_NONE;
}

static PyObject *page_initialize(PyObject *object, PyObject *const *args, Py_ssize_t count,
                                 PyObject *names)
{
    page_object *self = check_not_released(object);
    plog_held_bytes identity = {0};
    plog_marks marks = {.first_timestamp = -1,
                        .max_timestamp = -1,
                        .max_timestamp_offset = -1,
                        .last_time_entry = -1,
                        .append_time = -1};
    if (self == NULL) {
        return NULL;
    }
    if (count != 1) {
        PyErr_SetString(PyExc_TypeError, "initialize() takes the identity, and marks by name");
        return NULL;
    }
    if (self->users != 0) {
        PyErr_SetString(PyExc_RuntimeError, "the shared page is in use");
        return NULL;
    }
    if (plog_marks_apply(&marks, args + count, names) < 0 ||
        plog_bytes_from_object(plog_state_of(object), args[0], "identity", &identity) < 0) {
        return NULL;
    }
    const size_t len = identity.bytes.len < 0 ? 0 : (size_t)identity.bytes.len;
    const plog_status status = plog_page_initialize(&self->page, identity.bytes.data, len, &marks);
    plog_bytes_release(&identity);
    if (status == PLOG_BAD_LENGTH) {
        return PyErr_Format(PyExc_ValueError, "the identity may have %d bytes, not %zu",
                            PLOG_IDENTITY_BYTES, len);
    }
    return status == PLOG_OK ? Py_NewRef(Py_None) : PyErr_SetFromErrno(PyExc_OSError);
}

/* ---- SharedPage: the lock */

PyObject *plog_page_raise_lock(PyObject *shared_page, plog_status status)
{
    if (status == PLOG_SYSTEM && errno == EDEADLK) {
        PyErr_SetString(PyExc_RuntimeError, "this thread holds the lock of the page already");
        return NULL;
    }
    if (status == PLOG_SYSTEM && errno == EPERM) {
        PyErr_SetString(PyExc_RuntimeError, "this thread does not hold the lock of the page");
        return NULL;
    }
    return plog_raise(plog_state_of(shared_page), status);
}

bool plog_page_is_held(PyObject *shared_page)
{
    if (((page_object *)shared_page)->holder == plog_thread_id()) {
        return true;
    }
    errno = EPERM;
    plog_page_raise_lock(shared_page, PLOG_SYSTEM);
    return false;
}

static bool is_locked(plog_status status)
{
    return status == PLOG_OK || status == PLOG_OWNER_DIED;
}

static void set_holder(page_object *self)
{
    /* A holder on record now is a thread that died with the lock: this one takes its place. */
    self->users += self->holder == 0;
    self->holder = plog_thread_id();
}

/* Wait for the lock without the GIL, in slices; the holder is this thread when that succeeds. */
static int wait_for_lock(PyObject *object, int64_t deadline_ns)
{
    page_object *self = (page_object *)object;
    plog_status status;
    do {
        int error;
        plog_page_keep(object);
        Py_BEGIN_ALLOW_THREADS status =
            plog_page_lock(&self->page, plog_slice_end(deadline_ns, PLOG_LOCK_SLICE_MS));
        error = errno;
        Py_END_ALLOW_THREADS errno = error;
        if (is_locked(status)) {
            set_holder(self);
        }
        plog_page_drop(object);
        if (status == PLOG_TIMED_OUT && PyErr_CheckSignals() < 0) {
            return -1;
        }
    } while (status == PLOG_TIMED_OUT && plog_monotonic_ns() < deadline_ns &&
             plog_page_borrow(object) != NULL);
    if (!is_locked(status)) {
        if (!PyErr_Occurred()) {
            plog_page_raise_lock(object, status);
        }
        return -1;
    }
    return 0;
}

/* 0 with the lock held by this thread, or -1 with an error. */
static int take_lock(PyObject *object, int64_t deadline_ns)
{
    const plog_status status = plog_page_lock(plog_page_of(object), 0);
    if (is_locked(status)) {
        set_holder((page_object *)object);
        return 0;
    }
    if (status == PLOG_TIMED_OUT) {
        return wait_for_lock(object, deadline_ns);
    }
    plog_page_raise_lock(object, status);
    return -1;
}

static PyObject *page_lock(PyObject *object, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"timeout", NULL};
    PyObject *timeout = Py_None; /* borrowed */
    int64_t deadline_ns;
    if (plog_page_borrow(object) == NULL ||
        !PyArg_ParseTupleAndKeywords(args, keywords, "|O", names, &timeout) ||
        plog_deadline_from_object(timeout, &deadline_ns) < 0 ||
        take_lock(object, deadline_ns) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *page_unlock(PyObject *object, PyObject *Py_UNUSED(unused))
{
    page_object *self = (page_object *)object;
    if (!plog_page_is_held(object)) {
        return NULL;
    }
    const plog_status status = plog_page_unlock(&self->page);
    if (status != PLOG_OK) {
        return plog_page_raise_lock(object, status);
    }
    self->holder = 0;
    plog_page_drop(object);
    Py_RETURN_NONE;
}

/* A `with` statement, unlike a call and a `try`, leaves no place for a signal handler to raise
 * between the taking of the lock and the block that gives it back. */
static PyObject *page_enter(PyObject *object, PyObject *Py_UNUSED(unused))
{
    if (plog_page_borrow(object) == NULL || take_lock(object, INT64_MAX) < 0) {
        return NULL;
    }
    return Py_NewRef(object);
}

static PyObject *page_exit(PyObject *object, PyObject *Py_UNUSED(error))
{
    return page_unlock(object, NULL);
}

/* ---- SharedPage: what the page says */

static PyObject *page_identity(PyObject *object, void *Py_UNUSED(closure))
{
    page_object *self = check_not_released(object);
    if (self == NULL) {
        return NULL;
    }
    size_t len;
    const uint8_t *identity = plog_page_identity(&self->page, &len);
    return PyBytes_FromStringAndSize((const char *)identity, (Py_ssize_t)len);
}

static PyObject *page_is_valid(PyObject *object, void *Py_UNUSED(closure))
{
    page_object *self = check_not_released(object);
    return self == NULL ? NULL : PyBool_FromLong(plog_page_is_valid(&self->page));
}

static PyObject *page_events(PyObject *object, void *Py_UNUSED(closure))
{
    page_object *self = check_not_released(object);
    if (self == NULL) {
        return NULL;
    }
    const uint8_t *events = (const uint8_t *)plog_page_events(&self->page);
    return plog_events_new(plog_state_of(object)->types[PLOG_EVENTS_TYPE], self->view.obj,
                           events - (const uint8_t *)self->view.buf);
}

static PyObject *page_marks(PyObject *object, PyObject *Py_UNUSED(unused))
{
    const plog_page *page = plog_page_borrow(object);
    if (page == NULL) {
        return NULL;
    }
    plog_marks marks;
    plog_page_marks(page, &marks);
    return plog_marks_new(plog_state_of(object), &marks);
}

static PyObject *page_intent(PyObject *object, void *Py_UNUSED(closure))
{
    const plog_page *page = plog_page_borrow(object);
    if (page == NULL) {
        return NULL;
    }
    int64_t start, end;
    plog_page_intent(page, &start, &end);
    if (end <= start) {
        start = end = 0;
    }
    return Py_BuildValue("LL", (long long)start, (long long)end);
}

static PyObject *page_set_intent(PyObject *object, PyObject *args)
{
    long long start, end;
    plog_page *page = plog_page_borrow(object);
    if (page == NULL || !PyArg_ParseTuple(args, "LL", &start, &end) || !plog_page_is_held(object)) {
        return NULL;
    }
    plog_page_set_intent_locked(page, start, end);
    Py_RETURN_NONE;
}

/* Whether a waiter has to look: everything that readers act on, and not what only writers use. */
static bool is_news(const plog_marks *old, const plog_marks *new)
{
    return old->high_watermark != new->high_watermark ||
           old->log_start_offset != new->log_start_offset ||
           old->durable_offset != new->durable_offset || old->state != new->state ||
           old->generation != new->generation || old->segment_serial != new->segment_serial;
}

static PyObject *page_publish(PyObject *object, PyObject *const *args, Py_ssize_t count,
                              PyObject *names)
{
    plog_page *page = plog_page_borrow(object);
    plog_marks old;
    if (page == NULL || !plog_page_is_held(object)) {
        return NULL;
    }
    if (count != 0) {
        PyErr_SetString(PyExc_TypeError, "publish() takes marks by name");
        return NULL;
    }
    plog_page_marks(page, &old);
    plog_marks marks = old;
    if (plog_marks_apply(&marks, args, names) < 0) {
        return NULL;
    }
    plog_page_publish_locked(page, &marks);
    if (is_news(&old, &marks)) {
        plog_events_notify(plog_page_events(page));
    }
    Py_RETURN_NONE;
}

/* ---- the module's part */

static PyMethodDef page_methods[] = {
    {"initialize", PLOG_METHOD(page_initialize), METH_FASTCALL | METH_KEYWORDS,
     "Wipe the page and make it anew.  Only for who knows that nobody else has it open.\n\n"
     "identity: at most 256 bytes.  Marks not named: 0, and -1 for all timestamps and\n"
     "max_timestamp_offset.  Raises ClosedError, ValueError, RuntimeError when the lock is held."},
    {"marks", page_marks, METH_NOARGS,
     "Return the published marks, all of the same moment.  Lock-free.  Raises ClosedError."},
    {"lock", PLOG_METHOD(page_lock), METH_VARARGS | METH_KEYWORDS,
     "Take the lock that keeps all processes apart; waits without the GIL, None: for ever.\n\n"
     "A holder that died does not matter: its intent tells what to clean.  Raises\n"
     "LockTimeoutError, ClosedError, RuntimeError when this thread holds it."},
    {"unlock", page_unlock, METH_NOARGS,
     "Give the lock back.  Also after release().  Raises RuntimeError when it is not held."},
    {"__enter__", page_enter, METH_NOARGS, "Take the lock as lock() does; see there."},
    {"__exit__", page_exit, METH_VARARGS, "Give the lock back as unlock() does."},
    {"set_intent", page_set_intent, METH_VARARGS,
     "Say which positions [start, end) are about to be filled; (0, 0) none.  Needs the lock."},
    {"publish", PLOG_METHOD(page_publish), METH_FASTCALL | METH_KEYWORDS,
     "Change the marks named, all at once, and wake waiters when readers care.  Needs the lock."},
    {"release", page_release, METH_NOARGS,
     "Give the memory back, at once or when the lock is; later calls raise ClosedError."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef page_properties[] = {
    {"identity", page_identity, NULL, "What initialize was given.", NULL},
    {"is_valid", page_is_valid, NULL, "Whether initialize has completed.", NULL},
    {"events", page_events, NULL, "The page's Events; keeps the memory, not the page.", NULL},
    {"intent", page_intent, NULL, "Positions that a writer was filling; (0, 0) for none.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static int add_shared_page_type(PyObject *module)
{
    static PyType_Slot slots[] = {
        {Py_tp_doc, "A partition's page: marks, lock and events, shared by all who have it open."},
        {Py_tp_new, (void *)page_new},
        {Py_tp_dealloc, (void *)page_dealloc},
        {Py_tp_methods, page_methods},
        {Py_tp_getset, page_properties},
        {0, NULL},
    };
    static PyType_Spec spec = {
        .name = "pylog._native.SharedPage",
        .basicsize = sizeof(page_object),
        .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
        .slots = slots,
    };
    return plog_add_type(module, &spec, PLOG_SHARED_PAGE_TYPE, true);
}

static int add_page_constants(PyObject *module)
{
    PyObject *abi = PyUnicode_FromFormat("%d-%zu-%zu", PLOG_PAGE_VERSION, sizeof(void *),
                                         plog_page_lock_bytes()); /* strong */
    if (abi == NULL) {
        return -1;
    }
    const int result = PyModule_AddObjectRef(module, "PAGE_ABI", abi);
    Py_DECREF(abi);
    if (result < 0 || PyModule_AddIntConstant(module, "OPEN", PLOG_STATE_OPEN) < 0 ||
        PyModule_AddIntConstant(module, "FULL", PLOG_STATE_FULL) < 0 ||
        PyModule_AddIntConstant(module, "FAILED", PLOG_STATE_FAILED) < 0 ||
        PyModule_AddIntConstant(module, "LOCKS_BY_DESCRIPTOR", PLOG_LOCKS_BY_DESCRIPTOR) < 0) {
        return -1;
    }
    return PyModule_AddIntConstant(module, "PAGE_BYTES", PLOG_PAGE_BYTES);
}

int plog_add_page_types(PyObject *module)
{
    int (*const parts[])(PyObject *) = {plog_add_mapping_type, plog_add_descriptor_type,
                                        plog_add_events_type,  plog_add_marks_type,
                                        add_shared_page_type,  add_page_constants};
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        if (parts[i](module) < 0) {
            return -1;
        }
    }
    return 0;
}
