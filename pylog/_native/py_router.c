/* Router: picks the partition of a record as Kafka's Java client does, and appends it there.
 *
 * Knows: keys, and whom to call.  Must not know: files, nor what a topic is.
 * Everything here needs the GIL.
 */
#include "py_router.h"

#include "murmur2.h"
#include "py_appender.h"
#include "py_page.h"

typedef enum { VALUE, KEY, HEADERS, TIMESTAMP, PARTITION, ROUTE_ARGUMENTS } route_argument;

static const char *const route_names[ROUTE_ARGUMENTS] = {"value", "key", "headers", "timestamp",
                                                         "partition"};
static const plog_signature route_signature = {"append", route_names, ROUTE_ARGUMENTS, 1,
                                               PARTITION};

Py_ssize_t plog_router_stick(plog_router_object *self, int64_t bytes)
{
    self->sticky_so_far += bytes;
    if (self->sticky_so_far > self->sticky_bytes) {
        self->sticky = (self->sticky + 1) % self->count;
        self->sticky_so_far = 0;
    }
    return self->sticky;
}

static int64_t size_of_value(PyObject *value)
{
    return value != NULL && PyBytes_Check(value) ? (int64_t)PyBytes_Size(value) + 1 : 1;
}

/* The partition that a key belongs to, -1 with an error. */
static Py_ssize_t pick_by_key(plog_router_object *self, PyObject *key)
{
    plog_held_bytes held;
    held.view.obj = NULL;
    if (plog_bytes_from_object(plog_state_of((PyObject *)self), key, "key", &held) < 0) {
        return -1;
    }
    const int32_t number =
        plog_partition_for_key(held.bytes.data, (size_t)held.bytes.len, (int32_t)self->count);
    plog_bytes_release(&held);
    return number;
}

int plog_router_see_added(plog_router_object *self)
{
    if (self->settings == NULL) {
        return 0;
    }
    /* Before the count is asked for: what is added after it makes another value. */
    const uint32_t seen = plog_events_value(plog_events_of(self->settings));
    if (seen == self->settings_seen) {
        return 0;
    }
    PyObject *now = PyObject_CallNoArgs(self->count_now); /* strong */
    int64_t count = 0;
    int status = now == NULL ? -1 : plog_int64_from_object(now, "the number of partitions", &count);
    Py_XDECREF(now);
    while (status == 0 && PyList_Size(self->appenders) < count) {
        status = PyList_Append(self->appenders, Py_None);
    }
    if (status == 0) {
        self->count = PyList_Size(self->appenders);
        self->settings_seen = seen;
    }
    return status;
}

PyObject *plog_router_appender(plog_router_object *self, int64_t number)
{
    if (number >= 0 && number < self->count) {
        PyObject *known = PyList_GetItem(self->appenders, (Py_ssize_t)number); /* borrowed */
        if (known != Py_None) {
            return known;
        }
    }
    PyObject *made = PyObject_CallFunction(self->resolve, "L", (long long)number); /* strong */
    if (made == NULL) {
        return NULL;
    }
    if (number < 0 || number >= self->count ||
        Py_TYPE(made) != plog_state_of((PyObject *)self)->types[PLOG_APPENDER_TYPE]) {
        plog_raise_type(made, "what resolve returns", "an Appender of a partition that exists");
        Py_DECREF(made);
        return NULL;
    }
    return PyList_SetItem(self->appenders, (Py_ssize_t)number, made) < 0 ? NULL : made;
}

/* The partition asked for; -1 with an error, which `resolve` raises for one that cannot exist. */
static int64_t parse_partition(plog_router_object *self, PyObject *partition)
{
    int64_t number;
    const int status = plog_int64_from_object(partition, "partition", &number);
    if (status == 0 && number >= 0) {
        return number;
    }
    if (status == 0 || PyErr_ExceptionMatches(PyExc_OverflowError)) {
        PyErr_Clear();
        PyObject *made = PyObject_CallFunctionObjArgs(self->resolve, partition, NULL); /* strong */
        if (made != NULL) {
            plog_raise_type(made, "what resolve returns", "an Appender of a partition that exists");
            Py_DECREF(made);
        }
    }
    return -1;
}

static int64_t pick(plog_router_object *self, PyObject **given)
{
    if (plog_router_see_added(self) < 0) {
        return -1;
    }
    if (given[PARTITION] != NULL && given[PARTITION] != Py_None) {
        return parse_partition(self, given[PARTITION]);
    }
    if (self->count == 1) {
        return 0;
    }
    if (given[KEY] != NULL && given[KEY] != Py_None) {
        return pick_by_key(self, given[KEY]);
    }
    return plog_router_stick(self, size_of_value(given[VALUE]));
}

static PyObject *router_append(PyObject *object, PyObject *const *args, Py_ssize_t count,
                               PyObject *keyword_names)
{
    plog_router_object *self = (plog_router_object *)object;
    PyObject *given[ROUTE_ARGUMENTS] = {NULL}; /* borrowed */
    if (plog_parse_arguments(&route_signature, args, count, keyword_names, given) < 0) {
        return NULL;
    }
    const int64_t number = pick(self, given);
    PyObject *appender = number < 0 ? NULL : plog_router_appender(self, number); /* borrowed */
    if (appender == NULL) {
        return NULL;
    }
    for (int i = KEY; i < PARTITION; i++) {
        given[i] = given[i] == NULL ? Py_None : given[i];
    }
    Py_INCREF(appender); /* two threads that resolve a partition at once put two of them there */
    PyObject *result = plog_appender_append(appender, given, PARTITION, NULL);
    Py_DECREF(appender);
    return result;
}

static PyObject *router_pick(PyObject *object, PyObject *args)
{
    PyObject *given[ROUTE_ARGUMENTS] = {NULL}; /* borrowed */
    if (!PyArg_ParseTuple(args, "O|O:pick", &given[KEY], &given[VALUE])) {
        return NULL;
    }
    const int64_t number = pick((plog_router_object *)object, given);
    return number < 0 ? NULL : PyLong_FromLongLong(number);
}

static PyObject *router_stick(PyObject *object, PyObject *bytes)
{
    plog_router_object *self = (plog_router_object *)object;
    const Py_ssize_t number = self->sticky;
    int64_t size;
    if (plog_int64_from_object(bytes, "bytes", &size) < 0) {
        return NULL;
    }
    (void)plog_router_stick(self, size);
    return PyLong_FromSsize_t(number);
}

/* A list of `count` times None; NULL with an error. */
static PyObject *unresolved(Py_ssize_t count)
{
    PyObject *list = PyList_New(count); /* strong */
    for (Py_ssize_t i = 0; list != NULL && i < count; i++) {
        PyList_SetItem(list, i, Py_NewRef(Py_None));
    }
    return list;
}

static PyObject *router_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"partitions", "resolve", "sticky_bytes", "settings", "count_now", NULL};
    PyObject *resolve, *settings = Py_None, *count_now = NULL; /* borrowed */
    int count;
    long long sticky_bytes;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "iOL|OO:Router", names, &count, &resolve,
                                     &sticky_bytes, &settings, &count_now)) {
        return NULL;
    }
    const plog_module_state *state = PyType_GetModuleState(type);
    if (settings != Py_None &&
        (Py_TYPE(settings) != state->types[PLOG_EVENTS_TYPE] || count_now == NULL)) {
        PyErr_SetString(PyExc_TypeError, "settings must be an Events, with a count_now");
        return NULL;
    }
    if (count < 1 || sticky_bytes < 0) {
        PyErr_SetString(PyExc_ValueError, "no partitions, or sticky_bytes is negative");
        return NULL;
    }
    plog_router_object *self = (plog_router_object *)PyType_GenericAlloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    self->resolve = Py_NewRef(resolve);
    self->count_now = Py_XNewRef(count_now);
    self->settings = settings == Py_None ? NULL : Py_NewRef(settings);
    self->settings_seen = UINT32_MAX; /* which is no count */
    self->count = count;
    self->sticky_bytes = sticky_bytes;
    self->appenders = unresolved(count);
    if (self->appenders == NULL) {
        Py_DECREF((PyObject *)self);
        return NULL;
    }
    return (PyObject *)self;
}

static int router_traverse(PyObject *object, visitproc visit, void *arg)
{
    plog_router_object *self = (plog_router_object *)object;
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(self->appenders);
    Py_VISIT(self->resolve);
    Py_VISIT(self->count_now);
    return 0;
}

/* The list stays: without it the object would be unusable, and its Appenders clear themselves. */
static int router_clear(PyObject *object)
{
    plog_router_object *self = (plog_router_object *)object;
    PyObject *resolve = self->resolve;
    PyObject *count_now = self->count_now;
    self->resolve = Py_NewRef(Py_None);
    self->count_now = count_now == NULL ? NULL : Py_NewRef(Py_None);
    Py_XDECREF(resolve);
    Py_XDECREF(count_now);
    return 0;
}

static void router_dealloc(PyObject *object)
{
    plog_router_object *self = (plog_router_object *)object;
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    Py_XDECREF(self->appenders);
    Py_XDECREF(self->resolve);
    Py_XDECREF(self->count_now);
    Py_XDECREF(self->settings);
    PyMem_Free(self->share_of);
    PyObject_GC_Del(object);
    Py_DECREF((PyObject *)type);
}

/* ---- the type */

static PyMethodDef router_methods[] = {
    {"append", PLOG_METHOD(router_append), METH_FASTCALL | METH_KEYWORDS,
     "Append one record to the partition that is given, or that its key belongs to."},
    {"append_many", PLOG_METHOD(plog_router_append_many), METH_VARARGS | METH_KEYWORDS,
     "Append records to the partitions of their keys, one batch each: see the stub.\n\n"
     "Arguments are checked before anything is appended, and partitions resolved.  Raises\n"
     "TypeError, ValueError, OverflowError, InvalidRecordError, RecordTooLargeError, what resolve\n"
     "raises.  Releases the GIL once for all partitions, and once for each large chunk left."},
    {"stick", router_stick, METH_O,
     "Return the partition for records without a key; when enough bytes went there, the next one."},
    {"pick", router_pick, METH_VARARGS,
     "Return the partition for (key, value); without a key it stays for a while."},
    {NULL, NULL, 0, NULL},
};

int plog_add_router_type(PyObject *module)
{
    static PyType_Slot slots[] = {
        {Py_tp_doc, "Appends records to the partitions of a topic."},
        {Py_tp_new, (void *)router_new},
        {Py_tp_dealloc, (void *)router_dealloc},
        {Py_tp_traverse, (void *)router_traverse},
        {Py_tp_clear, (void *)router_clear},
        {Py_tp_methods, router_methods},
        {0, NULL},
    };
    static PyType_Spec spec = {
        .name = "pylog._native.Router",
        .basicsize = sizeof(plog_router_object),
        .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
        .slots = slots,
    };
    return plog_add_type(module, &spec, PLOG_ROUTER_TYPE, true);
}
