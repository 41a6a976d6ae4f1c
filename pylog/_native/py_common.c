/* Argument conversion and the status table: see py_common.h. */
#include "py_common.h"

int plog_add_type(PyObject *module, PyType_Spec *spec, plog_type type, bool is_public)
{
    plog_module_state *state = (plog_module_state *)PyModule_GetState(module);
    PyObject *made = PyType_FromModuleAndSpec(module, spec, NULL);
    if (made == NULL) {
        return -1;
    }
    state->types[type] = (PyTypeObject *)made;
    return is_public ? PyModule_AddType(module, (PyTypeObject *)made) : 0;
}

/* ---- statuses -> exceptions */

static const struct {
    const char *text;
    plog_error error;
} status_table[] = {
    [PLOG_INCOMPLETE] = {"the batch is cut", PLOG_CORRUPTION_ERROR},
    [PLOG_ZEROS] = {"zeros where a batch should begin", PLOG_CORRUPTION_ERROR},
    [PLOG_BAD_LENGTH] = {"the length of the batch is impossible", PLOG_CORRUPTION_ERROR},
    [PLOG_BAD_MAGIC] = {"the magic byte is not 2", PLOG_CORRUPTION_ERROR},
    [PLOG_BAD_CRC] = {"the CRC does not match", PLOG_CORRUPTION_ERROR},
    [PLOG_BAD_OFFSET] = {"the offsets of the batch do not fit here", PLOG_CORRUPTION_ERROR},
    [PLOG_BAD_COUNT] = {"the count of records is impossible", PLOG_CORRUPTION_ERROR},
    [PLOG_BAD_RECORD] = {"a record breaks the format", PLOG_CORRUPTION_ERROR},
    [PLOG_TOO_LARGE] = {"the record is larger than any batch can be", PLOG_INVALID_RECORD_ERROR},
    [PLOG_NOT_OPEN] = {"closed, or detached from its memory", PLOG_CLOSED_ERROR},
    [PLOG_TIMED_OUT] = {"the lock was not free in time", PLOG_LOCK_TIMEOUT_ERROR},
};

const char *plog_status_text(plog_status status)
{
    size_t count = sizeof status_table / sizeof status_table[0];
    const char *text = (size_t)status < count ? status_table[status].text : NULL;
    return text == NULL ? "unexpected status" : text;
}

PyObject *plog_raise(const plog_module_state *state, plog_status status)
{
    size_t count = sizeof status_table / sizeof status_table[0];
    if (status == PLOG_INTERRUPTED && PyErr_Occurred()) {
        return NULL;
    }
    if (status == PLOG_SYSTEM) {
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    if (status == PLOG_OVERFLOW) {
        PyErr_SetString(PyExc_OverflowError, "a number does not fit into 64 bits");
        return NULL;
    }
    if ((size_t)status < count && status_table[status].text != NULL) {
        PyErr_SetString(state->errors[status_table[status].error], status_table[status].text);
        return NULL;
    }
    PyErr_Format(PyExc_SystemError, "pylog: status %d is not an error", (int)status);
    return NULL;
}

/* Raise `error` with what Py_BuildValue made of its arguments; steals `arguments`. */
static PyObject *raise_with(PyObject *error, PyObject *arguments)
{
    if (arguments != NULL) {
        PyObject *exception = PyObject_CallObject(error, arguments);
        if (exception != NULL) {
            PyErr_SetObject(error, exception);
            Py_DECREF(exception);
        }
        Py_DECREF(arguments);
    }
    return NULL;
}

PyObject *plog_raise_too_large(const plog_module_state *state, size_t size, size_t limit)
{
    return raise_with(state->errors[PLOG_RECORD_TOO_LARGE_ERROR],
                      Py_BuildValue("(nn)", (Py_ssize_t)size, (Py_ssize_t)limit));
}

PyObject *plog_raise_timestamp(const plog_module_state *state, int64_t timestamp, int64_t earliest,
                               int64_t latest)
{
    return raise_with(
        state->errors[PLOG_INVALID_TIMESTAMP_ERROR],
        Py_BuildValue("(LLL)", (long long)timestamp, (long long)earliest, (long long)latest));
}

PyObject *plog_raise_no_key(const plog_module_state *state)
{
    PyErr_SetString(state->errors[PLOG_INVALID_RECORD_ERROR],
                    "the record has no key, and the topic is compacted");
    return NULL;
}

PyObject *plog_raise_corrupt_range(const plog_module_state *state, int64_t first, int64_t last,
                                   plog_status status)
{
    return raise_with(state->errors[PLOG_CORRUPT_RANGE_ERROR],
                      Py_BuildValue("(LLOOs)", (long long)first, (long long)last, Py_None, Py_None,
                                    plog_status_text(status)));
}

/* ---- arguments */

void plog_raise_type(PyObject *object, const char *what, const char *wanted)
{
    PyObject *name = PyType_GetName(Py_TYPE(object));
    if (name != NULL) {
        PyErr_Format(PyExc_TypeError, "%s must be %s, not %U", what, wanted, name);
        Py_DECREF(name);
    }
}

int plog_bytes_from_object(const plog_module_state *state, PyObject *object, const char *what,
                           plog_held_bytes *out)
{
    char *data = NULL;
    Py_ssize_t len = -1;
    out->view.obj = NULL;
    if (PyBytes_CheckExact(object)) {
        (void)PyBytes_AsStringAndSize(object, &data, &len);
    } else if (object != Py_None) {
        if (!PyObject_CheckBuffer(object)) {
            plog_raise_type(object, what, "bytes-like or None");
            return -1;
        }
        if (PyObject_GetBuffer(object, &out->view, PyBUF_SIMPLE) < 0) {
            return -1;
        }
        data = out->view.buf;
        len = out->view.len;
    }
    if (len > INT32_MAX) {
        plog_bytes_release(out);
        plog_raise_too_large(state, (size_t)len, INT32_MAX);
        return -1;
    }
    out->bytes = (plog_bytes){(const uint8_t *)data, (int32_t)len};
    return 0;
}

int plog_int64_from_object(PyObject *object, const char *what, int64_t *out)
{
    long long value = PyLong_AsLongLong(object);
    if (value == -1 && PyErr_Occurred()) {
        if (PyErr_ExceptionMatches(PyExc_TypeError)) {
            PyErr_Clear();
            plog_raise_type(object, what, "an int");
        } else if (PyErr_ExceptionMatches(PyExc_OverflowError)) {
            PyErr_Format(PyExc_OverflowError, "%s does not fit into 64 bits", what);
        }
        return -1;
    }
    *out = value;
    return 0;
}

/* Put the two parts of one header into `pair`.  What they point into is appended to `kept`. */
static int convert_header(const plog_module_state *state, PyObject *header, PyObject *kept,
                          plog_bytes *pair)
{
    PyObject *parts = PySequence_Tuple(header); /* strong: a tuple stays itself, else a copy */
    int result = -1;
    if (parts == NULL) {
        return -1;
    }
    if (PyTuple_Size(parts) != 2 || !PyUnicode_Check(PyTuple_GetItem(parts, 0))) {
        PyErr_SetString(PyExc_TypeError, "a header must be a pair (str, bytes or None)");
        goto done;
    }
    Py_ssize_t len;
    const char *name = PyUnicode_AsUTF8AndSize(PyTuple_GetItem(parts, 0), &len);
    if (name == NULL || PyList_Append(kept, parts) < 0) {
        goto done;
    }
    if (len > INT32_MAX) {
        plog_raise_too_large(state, (size_t)len, INT32_MAX);
        goto done;
    }
    pair[0] = (plog_bytes){(const uint8_t *)name, (int32_t)len};

    PyObject *value = PyTuple_GetItem(parts, 1); /* borrowed */
    plog_held_bytes held;
    if (plog_bytes_from_object(state, value, "a header's value", &held) < 0) {
        goto done;
    }
    if (held.view.obj != NULL) {
        /* Rare, so a copy is simpler than a list of views to release. */
        plog_bytes_release(&held);
        value = PyBytes_FromObject(value);
        if (value == NULL || PyList_Append(kept, value) < 0) {
            Py_XDECREF(value);
            goto done;
        }
        Py_DECREF(value); /* kept holds it */
        if (plog_bytes_from_object(state, value, "a header's value", &held) < 0) {
            goto done; /* a buffer that gives more bytes each time it is asked */
        }
    }
    pair[1] = held.bytes;
    result = 0;
done:
    Py_DECREF(parts);
    return result;
}

int plog_headers_from_object(const plog_module_state *state, PyObject *object,
                             plog_held_headers *out)
{
    out->pairs = out->inline_pairs;
    out->count = 0;
    out->kept = NULL;
    if (object == NULL || object == Py_None) {
        return 0;
    }
    PyObject *headers = PySequence_Tuple(object); /* strong */
    Py_ssize_t count = headers == NULL ? 0 : PyTuple_Size(headers);
    if (headers == NULL || count == 0) {
        Py_XDECREF(headers);
        return headers == NULL ? -1 : 0;
    }
    out->kept = PyList_New(0);
    if (out->kept == NULL || PyList_Append(out->kept, headers) < 0) {
        goto failed;
    }
    if (count > PLOG_INLINE_HEADERS) {
        /* 16 bytes for each of two parts: far from overflowing before the tuple fills memory. */
        out->pairs = PyMem_Malloc((size_t)count * 2 * sizeof *out->pairs);
        if (out->pairs == NULL || count > INT32_MAX / 2) {
            PyErr_NoMemory();
            goto failed;
        }
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        if (convert_header(state, PyTuple_GetItem(headers, i), out->kept, &out->pairs[2 * i]) < 0) {
            goto failed;
        }
    }
    out->count = (int32_t)count;
    Py_DECREF(headers);
    return 0;
failed:
    Py_DECREF(headers);
    plog_headers_release(out);
    return -1;
}

void plog_headers_release(plog_held_headers *held)
{
    if (held->pairs != held->inline_pairs) {
        PyMem_Free(held->pairs);
        held->pairs = held->inline_pairs;
    }
    Py_CLEAR(held->kept);
}

bool plog_is_system_clock(PyTypeObject *type, PyObject *clock)
{
    PyObject *module = PyType_GetModule(type); /* borrowed */
    PyObject *ours = module == NULL ? NULL : PyObject_GetAttrString(module, "system_clock");
    PyErr_Clear();
    Py_XDECREF(ours); /* only its identity is looked at */
    return ours == clock;
}

/* ---- calls */

static Py_ssize_t find_name(const plog_signature *signature, PyObject *name)
{
    for (Py_ssize_t i = 0; i < signature->count; i++) {
        if (PyUnicode_CompareWithASCIIString(name, signature->names[i]) == 0) {
            return i;
        }
    }
    return -1;
}

int plog_parse_arguments(const plog_signature *signature, PyObject *const *arguments,
                         Py_ssize_t positional_count, PyObject *keyword_names, PyObject **out)
{
    if (positional_count > signature->positional) {
        PyErr_Format(PyExc_TypeError, "%s() takes at most %zd positional arguments (%zd given)",
                     signature->function, signature->positional, positional_count);
        return -1;
    }
    for (Py_ssize_t i = 0; i < positional_count; i++) {
        out[i] = arguments[i];
    }
    Py_ssize_t keywords = keyword_names == NULL ? 0 : PyTuple_Size(keyword_names);
    for (Py_ssize_t i = 0; i < keywords; i++) {
        PyObject *name = PyTuple_GetItem(keyword_names, i); /* borrowed */
        Py_ssize_t place = find_name(signature, name);
        if (place < 0 || out[place] != NULL) {
            PyErr_Format(PyExc_TypeError, "%s() got %s argument '%U'", signature->function,
                         place < 0 ? "an unexpected keyword" : "multiple values for", name);
            return -1;
        }
        out[place] = arguments[positional_count + i];
    }
    for (Py_ssize_t i = 0; i < signature->required; i++) {
        if (out[i] == NULL) {
            PyErr_Format(PyExc_TypeError, "%s() misses the argument '%s'", signature->function,
                         signature->names[i]);
            return -1;
        }
    }
    return 0;
}

int plog_range_from_objects(PyObject *start, PyObject *end, Py_ssize_t len, size_t *start_out,
                            size_t *end_out)
{
    int64_t first = 0, last = len;
    if ((start != NULL && plog_int64_from_object(start, "start", &first) < 0) ||
        (end != NULL && end != Py_None && plog_int64_from_object(end, "end", &last) < 0)) {
        return -1;
    }
    if (first < 0 || last < first || last > len) {
        PyErr_Format(PyExc_ValueError, "[%lld, %lld) is no range of %zd bytes", (long long)first,
                     (long long)last, len);
        return -1;
    }
    *start_out = (size_t)first;
    *end_out = (size_t)last;
    return 0;
}
