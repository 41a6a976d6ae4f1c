/* Reader: the usual read of a partition in one call: look up, read, check, hand out Records.
 *
 * Knows: the order of these steps.  The bytes come from a `pread` that the caller passes, so this
 * file makes no system call.  What is not usual (a wrong index, a batch larger than what was read,
 * damage) is answered with None, and the caller takes the careful way, which tells them apart.
 */
#include "py_counters.h"
#include "py_records.h"
#include "scan.h"
#include "sparse_index.h"

/* Read beyond the next index entry, which begins the batch asked for or one behind it.  Guessed. */
enum { READ_AHEAD = 512 };
/* Index entries further apart mean large batches: then a look at the next one's header saves
 * reading the batch before it.  Guessed: the time of a small pread is that of copying 16 KiB. */
enum { PEEK_DISTANCE = 16 * 1024 };

typedef struct {
    PyObject_HEAD PyObject *topic; /* strong: an exact str */
    PyObject *decompress;          /* strong: a callable */
    plog_counters *counters;       /* strong, or NULL */
    int32_t partition;
} reader_object;

/* Where to read: `bytes` from `position`, and what the first batch there must be. */
typedef struct {
    int64_t position, bytes;
    int64_t entry_offset, next_offset;
} read_plan;

/* Call pread(size, position); the result is a bytes of at most `size`, or NULL with an error. */
static PyObject *call_pread(PyObject *pread, int64_t size, int64_t position)
{
    PyObject *data = PyObject_CallFunction(pread, "LL", (long long)size, (long long)position);
    if (data != NULL && !PyBytes_Check(data)) {
        plog_raise_type(data, "what pread returns", "bytes");
        Py_CLEAR(data);
    }
    return data;
}

static plog_status check_without_gil_if_large(const uint8_t *bytes, size_t len,
                                              const plog_check_request *request,
                                              plog_check_result *found)
{
    plog_status status;
    if (len <= PLOG_GIL_BYTES) {
        return plog_check_batches(bytes, len, request, found);
    }
    Py_BEGIN_ALLOW_THREADS status = plog_check_batches(bytes, len, request, found);
    Py_END_ALLOW_THREADS return status;
}

static void count_read(const reader_object *self, const plog_check_result *found,
                       int64_t target_offset, int64_t limit_offset)
{
    const int64_t end = found->next_offset < limit_offset ? found->next_offset : limit_offset;
    plog_count_read(self->counters, end > target_offset ? end - target_offset : 0,
                    found->end - found->first);
}

/* Read and check as planned; Records, None, or NULL with an error. */
static PyObject *fetch(reader_object *self, PyObject *pread, const read_plan *plan,
                       plog_check_request *request)
{
    PyObject *result = NULL;
    PyObject *data = call_pread(pread, plan->bytes, plan->position); /* strong */
    if (data == NULL) {
        return NULL;
    }
    plog_check_result found;
    request->entry_offset = plan->entry_offset;
    request->next_offset = plan->next_offset;
    (void)check_without_gil_if_large((const uint8_t *)PyBytes_AsString(data),
                                     (size_t)PyBytes_Size(data), request, &found);
    if (found.end > found.first) {
        result = plog_records_new_checked(plog_state_of((PyObject *)self), data, self->topic,
                                          self->partition, self->decompress, &found,
                                          request->target_offset, request->limit_offset,
                                          plan->position + (int64_t)found.end);
        count_read(self, &found, request->target_offset, request->limit_offset);
    } else {
        result = Py_NewRef(Py_None);
    }
    Py_DECREF(data);
    return result;
}

/* Move the plan to the batch at `following` when that is the one that holds `offset`.
 * 0, or -1 with an error. */
static int peek(PyObject *pread, int64_t following, int64_t entry_offset, int64_t offset,
                read_plan *plan)
{
    plog_batch_header header;
    PyObject *data = call_pread(pread, PLOG_BATCH_HEADER_BYTES, following); /* strong */
    if (data == NULL) {
        return -1;
    }
    const plog_status status = plog_batch_parse((const uint8_t *)PyBytes_AsString(data),
                                                (size_t)PyBytes_Size(data), &header);
    if (status == PLOG_INCOMPLETE && PyBytes_Size(data) == PLOG_BATCH_HEADER_BYTES &&
        header.base_offset <= offset && header.size <= INT32_MAX) {
        *plan = (read_plan){.position = following,
                            .bytes = (int64_t)header.size,
                            .entry_offset = entry_offset,
                            .next_offset = -1};
    }
    Py_DECREF(data);
    return 0;
}

/* Plan the read of `offset` from the index. */
static int plan_by_index(PyObject *pread, const Py_buffer *entries, int64_t entry_count,
                         int64_t base_offset, int64_t offset, read_plan *plan)
{
    const uint8_t *bytes = entries->buf;
    const int64_t capacity = entries->len / PLOG_OFFSET_ENTRY_BYTES;
    const int64_t count = entry_count < capacity ? entry_count : capacity;
    const int64_t at =
        count > 0 ? plog_lookup_offset(bytes, (size_t)count, offset - base_offset) : -1;
    *plan = (read_plan){.entry_offset = -1, .next_offset = base_offset};
    if (at >= 0) {
        plan->entry_offset = base_offset + plog_load_i32(bytes + at * PLOG_OFFSET_ENTRY_BYTES);
        plan->position = plog_load_i32(bytes + at * PLOG_OFFSET_ENTRY_BYTES + 4);
        plan->next_offset = -1;
    }
    if (at + 1 >= count) {
        plan->bytes = PEEK_DISTANCE / 2;
        return 0;
    }
    const uint8_t *next = bytes + (at + 1) * PLOG_OFFSET_ENTRY_BYTES;
    const int64_t following = plog_load_i32(next + 4);
    plan->bytes = following - plan->position + READ_AHEAD;
    if (plan->bytes > PEEK_DISTANCE) {
        return peek(pread, following, base_offset + plog_load_i32(next), offset, plan);
    }
    return 0;
}

/* Keep the plan inside the segment; false when the index cannot be meant. */
static bool fit_plan(read_plan *plan, int64_t max_bytes, int64_t size)
{
    if (plan->position < 0 || plan->position >= size || plan->bytes < 0) {
        return false;
    }
    const int64_t left = size - plan->position;
    plan->bytes = max_bytes < left - plan->bytes ? plan->bytes + max_bytes : left;
    return true;
}

typedef enum {
    READ_PREAD,
    READ_ENTRIES,
    READ_ENTRY_COUNT,
    READ_BASE_OFFSET,
    READ_OFFSET,
    READ_LIMIT_OFFSET,
    READ_MAX_BYTES,
    READ_SIZE,
    READ_IS_STRICT,
    READ_ARGUMENTS
} read_argument;

static const char *const read_names[READ_ARGUMENTS] = {"pread",       "entries", "entry_count",
                                                       "base_offset", "offset",  "limit_offset",
                                                       "max_bytes",   "size",    "is_strict"};
static const plog_signature read_signature = {"read", read_names, READ_ARGUMENTS, READ_ARGUMENTS,
                                              READ_ARGUMENTS};

/* Numbers of the arguments [first, end); 0, or -1 with an error. */
static int parse_numbers(const plog_signature *signature, PyObject **given, int first, int end,
                         int64_t *numbers)
{
    for (int i = first; i < end; i++) {
        if (plog_int64_from_object(given[i], signature->names[i], &numbers[i]) < 0) {
            return -1;
        }
    }
    return 0;
}

static PyObject *reader_read(PyObject *object, PyObject *const *args, Py_ssize_t count,
                             PyObject *keyword_names)
{
    PyObject *given[READ_ARGUMENTS] = {NULL}; /* borrowed */
    int64_t numbers[READ_ARGUMENTS];
    Py_buffer entries;
    read_plan plan;
    if (plog_parse_arguments(&read_signature, args, count, keyword_names, given) < 0 ||
        parse_numbers(&read_signature, given, READ_ENTRY_COUNT, READ_IS_STRICT, numbers) < 0 ||
        PyObject_GetBuffer(given[READ_ENTRIES], &entries, PyBUF_SIMPLE) < 0) {
        return NULL;
    }
    const int planned = plan_by_index(given[READ_PREAD], &entries, numbers[READ_ENTRY_COUNT],
                                      numbers[READ_BASE_OFFSET], numbers[READ_OFFSET], &plan);
    PyBuffer_Release(&entries);
    const int is_strict = PyObject_IsTrue(given[READ_IS_STRICT]);
    if (planned < 0 || is_strict < 0) {
        return NULL;
    }
    if (numbers[READ_MAX_BYTES] < 1 ||
        !fit_plan(&plan, numbers[READ_MAX_BYTES], numbers[READ_SIZE])) {
        Py_RETURN_NONE;
    }
    plog_check_request request = {.target_offset = numbers[READ_OFFSET],
                                  .limit_offset = numbers[READ_LIMIT_OFFSET],
                                  .max_bytes = (size_t)numbers[READ_MAX_BYTES],
                                  .is_strict = is_strict != 0};
    return fetch((reader_object *)object, given[READ_PREAD], &plan, &request);
}

typedef enum {
    ON_PREAD,
    ON_POSITION,
    ON_OFFSET,
    ON_LIMIT_OFFSET,
    ON_MAX_BYTES,
    ON_SIZE,
    ON_IS_STRICT,
    ON_ARGUMENTS
} read_on_argument;

static const char *const read_on_names[ON_ARGUMENTS] = {
    "pread", "position", "offset", "limit_offset", "max_bytes", "size", "is_strict"};
static const plog_signature read_on_signature = {"read_on", read_on_names, ON_ARGUMENTS,
                                                 ON_ARGUMENTS, ON_ARGUMENTS};

static PyObject *reader_read_on(PyObject *object, PyObject *const *args, Py_ssize_t count,
                                PyObject *keyword_names)
{
    PyObject *given[ON_ARGUMENTS] = {NULL}; /* borrowed */
    int64_t numbers[ON_ARGUMENTS];
    if (plog_parse_arguments(&read_on_signature, args, count, keyword_names, given) < 0 ||
        parse_numbers(&read_on_signature, given, ON_POSITION, ON_IS_STRICT, numbers) < 0) {
        return NULL;
    }
    const int is_strict = PyObject_IsTrue(given[ON_IS_STRICT]);
    if (is_strict < 0) {
        return NULL;
    }
    read_plan plan = {.position = numbers[ON_POSITION],
                      .bytes = 0,
                      .entry_offset = -1,
                      .next_offset = numbers[ON_OFFSET]};
    if (numbers[ON_MAX_BYTES] < 1 || !fit_plan(&plan, numbers[ON_MAX_BYTES], numbers[ON_SIZE])) {
        Py_RETURN_NONE;
    }
    plog_check_request request = {.target_offset = numbers[ON_OFFSET],
                                  .limit_offset = numbers[ON_LIMIT_OFFSET],
                                  .max_bytes = (size_t)numbers[ON_MAX_BYTES],
                                  .is_strict = is_strict != 0};
    return fetch((reader_object *)object, given[ON_PREAD], &plan, &request);
}

typedef enum {
    WRAP_DATA,
    WRAP_FIRST,
    WRAP_END,
    WRAP_NEXT_OFFSET,
    WRAP_OFFSET,
    WRAP_LIMIT_OFFSET,
    WRAP_END_POSITION,
    WRAP_ARGUMENTS
} wrap_argument;

static const char *const wrap_names[WRAP_ARGUMENTS] = {
    "data", "first", "end", "next_offset", "offset", "limit_offset", "end_position"};
static const plog_signature wrap_signature = {"wrap", wrap_names, WRAP_ARGUMENTS, WRAP_ARGUMENTS,
                                              WRAP_ARGUMENTS};

static PyObject *reader_wrap(PyObject *object, PyObject *const *args, Py_ssize_t count,
                             PyObject *keyword_names)
{
    const reader_object *self = (const reader_object *)object;
    PyObject *given[WRAP_ARGUMENTS] = {NULL}; /* borrowed */
    int64_t numbers[WRAP_ARGUMENTS];
    if (plog_parse_arguments(&wrap_signature, args, count, keyword_names, given) < 0 ||
        parse_numbers(&wrap_signature, given, WRAP_FIRST, WRAP_ARGUMENTS, numbers) < 0) {
        return NULL;
    }
    if (!PyBytes_Check(given[WRAP_DATA])) {
        plog_raise_type(given[WRAP_DATA], "data", "bytes");
        return NULL;
    }
    const int64_t len = PyBytes_Size(given[WRAP_DATA]);
    if (numbers[WRAP_FIRST] < 0 || numbers[WRAP_END] < numbers[WRAP_FIRST] ||
        numbers[WRAP_END] > len) {
        return PyErr_Format(PyExc_ValueError, "[%lld, %lld) is not in %lld bytes",
                            (long long)numbers[WRAP_FIRST], (long long)numbers[WRAP_END],
                            (long long)len);
    }
    const plog_check_result found = {.first = (size_t)numbers[WRAP_FIRST],
                                     .end = (size_t)numbers[WRAP_END],
                                     .next_offset = numbers[WRAP_NEXT_OFFSET]};
    count_read(self, &found, numbers[WRAP_OFFSET], numbers[WRAP_LIMIT_OFFSET]);
    return plog_records_new_checked(plog_state_of(object), given[WRAP_DATA], self->topic,
                                    self->partition, self->decompress, &found, numbers[WRAP_OFFSET],
                                    numbers[WRAP_LIMIT_OFFSET], numbers[WRAP_END_POSITION]);
}

static PyObject *reader_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"topic", "partition", "decompress", "counters", NULL};
    PyObject *topic, *decompress, *counters = Py_None; /* borrowed */
    int partition;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "UiO|O:Reader", names, &topic, &partition,
                                     &decompress, &counters)) {
        return NULL;
    }
    if (partition < 0 || !PyCallable_Check(decompress)) {
        PyErr_SetString(PyExc_ValueError, "partition is negative or decompress is not callable");
        return NULL;
    }
    reader_object *self = (reader_object *)PyType_GenericAlloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    self->partition = partition;
    self->decompress = Py_NewRef(decompress);
    self->topic = PyUnicode_FromObject(topic);
    self->counters = plog_counters_from_object(PyType_GetModuleState(type), counters);
    if (self->topic == NULL || (self->counters == NULL && counters != Py_None)) {
        Py_DECREF((PyObject *)self);
        return NULL;
    }
    return (PyObject *)self;
}

static int reader_traverse(PyObject *object, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(((reader_object *)object)->decompress);
    return 0;
}

static int reader_clear(PyObject *object)
{
    (void)object; /* a reader without its decompressor would crash; a function is in no cycle */
    return 0;
}

static void reader_dealloc(PyObject *object)
{
    reader_object *self = (reader_object *)object;
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    Py_XDECREF(self->topic);
    Py_XDECREF(self->decompress);
    Py_XDECREF((PyObject *)self->counters);
    PyObject_GC_Del(object);
    Py_DECREF((PyObject *)type);
}

static PyMethodDef reader_methods[] = {
    {"read", PLOG_METHOD(reader_read), METH_FASTCALL | METH_KEYWORDS,
     "Return Records from the batch that holds `offset` on, or None: take the careful way.\n\n"
     "entries: of the offset index, `entry_count` of them valid.  size: bytes of the segment that\n"
     "count.  Calls pread(size, position) once, or twice where batches are large."},
    {"read_on", PLOG_METHOD(reader_read_on), METH_FASTCALL | METH_KEYWORDS,
     "Return Records from the batch at `position` on, which begins with `offset`, or None."},
    {"wrap", PLOG_METHOD(reader_wrap), METH_FASTCALL | METH_KEYWORDS,
     "Return Records over data[first:end], which check_batches took for `offset`."},
    {NULL, NULL, 0, NULL},
};

int plog_add_reader_type(PyObject *module)
{
    static PyType_Slot slots[] = {
        {Py_tp_doc, "Reads a partition's batches: look up, pread, check, Records."},
        {Py_tp_new, (void *)reader_new},
        {Py_tp_dealloc, (void *)reader_dealloc},
        {Py_tp_traverse, (void *)reader_traverse},
        {Py_tp_clear, (void *)reader_clear},
        {Py_tp_methods, reader_methods},
        {0, NULL},
    };
    static PyType_Spec spec = {
        .name = "pylog._native.Reader",
        .basicsize = sizeof(reader_object),
        .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
        .slots = slots,
    };
    return plog_add_type(module, &spec, PLOG_READER_TYPE, true);
}
