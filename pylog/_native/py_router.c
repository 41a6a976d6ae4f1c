/* Router: picks the partition of a record as Kafka's Java client does, and appends it there.
 *
 * Knows: keys, and whom to call.  Must not know: files, nor what a topic is.
 * Everything here needs the GIL.
 */
#include "murmur2.h"
#include "py_appender.h"
#include "py_page.h"

typedef struct {
    PyObject_HEAD PyObject *appenders; /* strong: a list, one per partition, None until resolved */
    PyObject
        *resolve; /* strong: partition number -> Appender; raises for one that does not exist */
    PyObject *count_now;    /* strong: returns the number of partitions, or NULL */
    PyObject *settings;     /* strong: an Events that counts changes of it, or NULL */
    uint32_t settings_seen; /* the count that `count` is as new as */
    Py_ssize_t count;
    int64_t sticky_bytes; /* after so many bytes without a key the next partition is taken */
    int64_t sticky_so_far;
    Py_ssize_t sticky;
} router_object;

typedef enum { VALUE, KEY, HEADERS, TIMESTAMP, PARTITION, ROUTE_ARGUMENTS } route_argument;

static const char *const route_names[ROUTE_ARGUMENTS] = {"value", "key", "headers", "timestamp",
                                                         "partition"};
static const plog_signature route_signature = {"append", route_names, ROUTE_ARGUMENTS, 1,
                                               PARTITION};

/* The partition of a record without a key.  Source: KIP-480, KIP-794. */
static Py_ssize_t pick_sticky(router_object *self, int64_t bytes)
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
static Py_ssize_t pick_by_key(router_object *self, PyObject *key)
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

/* Make room for partitions that were added, whoever did it; -1 with an error. */
static int see_added(router_object *self)
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

/* The Appender of a partition (borrowed from the list), made when first asked for.  NULL with the
 * error that `resolve` raises, as it does for a partition that does not exist. */
static PyObject *resolve_appender(router_object *self, int64_t number)
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
static int64_t parse_partition(router_object *self, PyObject *partition)
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

static int64_t pick(router_object *self, PyObject **given)
{
    if (see_added(self) < 0) {
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
    return pick_sticky(self, size_of_value(given[VALUE]));
}

static PyObject *router_append(PyObject *object, PyObject *const *args, Py_ssize_t count,
                               PyObject *keyword_names)
{
    router_object *self = (router_object *)object;
    PyObject *given[ROUTE_ARGUMENTS] = {NULL}; /* borrowed */
    if (plog_parse_arguments(&route_signature, args, count, keyword_names, given) < 0) {
        return NULL;
    }
    const int64_t number = pick(self, given);
    PyObject *appender = number < 0 ? NULL : resolve_appender(self, number); /* borrowed */
    if (appender == NULL) {
        return NULL;
    }
    for (int i = KEY; i < PARTITION; i++) {
        given[i] = given[i] == NULL ? Py_None : given[i];
    }
    return plog_appender_append(appender, given, PARTITION, NULL);
}

static PyObject *router_pick(PyObject *object, PyObject *args)
{
    PyObject *given[ROUTE_ARGUMENTS] = {NULL}; /* borrowed */
    if (!PyArg_ParseTuple(args, "O|O:pick", &given[KEY], &given[VALUE])) {
        return NULL;
    }
    const int64_t number = pick((router_object *)object, given);
    return number < 0 ? NULL : PyLong_FromLongLong(number);
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
    router_object *self = (router_object *)PyType_GenericAlloc(type, 0);
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
    router_object *self = (router_object *)object;
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(self->appenders);
    Py_VISIT(self->resolve);
    Py_VISIT(self->count_now);
    return 0;
}

/* The list stays: without it the object would be unusable, and its Appenders clear themselves. */
static int router_clear(PyObject *object)
{
    router_object *self = (router_object *)object;
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
    router_object *self = (router_object *)object;
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    Py_XDECREF(self->appenders);
    Py_XDECREF(self->resolve);
    Py_XDECREF(self->count_now);
    Py_XDECREF(self->settings);
    PyObject_GC_Del(object);
    Py_DECREF((PyObject *)type);
}

/* ---- the type */

#define METHOD(function) (PyCFunction)(void (*)(void))(function)

static PyMethodDef router_methods[] = {
    {"append", METHOD(router_append), METH_FASTCALL | METH_KEYWORDS,
     "Append one record to the partition that is given, or that its key belongs to."},
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
        .basicsize = sizeof(router_object),
        .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
        .slots = slots,
    };
    return plog_add_type(module, &spec, PLOG_ROUTER_TYPE, true);
}
