/* Functions over whole batches, indexes and checksums in any buffer. */
#include "py_common.h"
#include "crc32c.h"
#include "murmur2.h"
#include "record.h"
#include "scan.h"

/* ---- make_batch: an encoder with every field explicit, for tests, tools and rewriters */

typedef struct {
    plog_batch_header header;
    int64_t max_timestamp_delta;
    PyObject *out; /* strong: a bytearray, header included */
} batch_maker;

static int add_record(batch_maker *self, const plog_record_in *record, int64_t timestamp_delta,
                      int32_t offset_delta)
{
    Py_ssize_t end = PyByteArray_Size(self->out);
    size_t body_size = plog_record_body_size(record, timestamp_delta, offset_delta);
    if (body_size > (size_t)(INT32_MAX - end) ||
        PyByteArray_Resize(self->out, end + (Py_ssize_t)plog_record_size(body_size)) < 0) {
        if (!PyErr_Occurred()) {
            PyErr_NoMemory();
        }
        return -1;
    }
    plog_record_write((uint8_t *)PyByteArray_AsString(self->out) + end, record, timestamp_delta,
                      offset_delta, body_size);
    self->header.count++;
    self->header.last_offset_delta = offset_delta;
    if (timestamp_delta > self->max_timestamp_delta) {
        self->max_timestamp_delta = timestamp_delta;
    }
    return 0;
}

static int add_record_object(batch_maker *self, const plog_module_state *state, PyObject *object)
{
    int offset_delta, result = -1;
    long long timestamp_delta;
    PyObject *key, *value, *headers = NULL; /* borrowed */
    plog_held_bytes held_key = {.view.obj = NULL}, held_value = {.view.obj = NULL};
    plog_held_headers held_headers = {.kept = NULL};
    held_headers.pairs = held_headers.inline_pairs;
    if (!PyTuple_Check(object)) {
        plog_raise_type(object, "a record", "a tuple");
        return -1;
    }
    if (!PyArg_ParseTuple(object, "iLOO|O", &offset_delta, &timestamp_delta, &key, &value,
                          &headers)) {
        return -1;
    }
    if (plog_bytes_from_object(state, key, "a key", &held_key) == 0 &&
        plog_bytes_from_object(state, value, "a value", &held_value) == 0 &&
        plog_headers_from_object(state, headers, &held_headers) == 0) {
        plog_record_in record = {
            .key = held_key.bytes,
            .value = held_value.bytes,
            .headers = held_headers.pairs,
            .header_count = held_headers.count,
        };
        result = add_record(self, &record, timestamp_delta, offset_delta);
    }
    plog_bytes_release(&held_key);
    plog_bytes_release(&held_value);
    plog_headers_release(&held_headers);
    return result;
}

static int add_records(batch_maker *self, const plog_module_state *state, PyObject *records)
{
    PyObject *tuple = PySequence_Tuple(records); /* strong */
    int result = tuple == NULL ? -1 : 0;
    for (Py_ssize_t i = 0; result == 0 && i < PyTuple_Size(tuple); i++) {
        result = add_record_object(self, state, PyTuple_GetItem(tuple, i));
    }
    Py_XDECREF(tuple);
    return result;
}

static int add_payload(batch_maker *self, const Py_buffer *payload)
{
    if (payload->len > INT32_MAX - PLOG_BATCH_HEADER_BYTES) {
        PyErr_SetString(PyExc_ValueError, "payload is larger than a batch can be");
        return -1;
    }
    if (PyByteArray_Resize(self->out, PLOG_BATCH_HEADER_BYTES + payload->len) < 0) {
        return -1;
    }
    if (payload->len > 0) {
        memcpy(PyByteArray_AsString(self->out) + PLOG_BATCH_HEADER_BYTES, payload->buf,
               (size_t)payload->len);
    }
    return 0;
}

static PyObject *finish_batch(batch_maker *self)
{
    self->header.size = (size_t)PyByteArray_Size(self->out);
    plog_batch_seal((uint8_t *)PyByteArray_AsString(self->out), &self->header);
    return PyBytes_FromObject(self->out);
}

static PyObject *make_batch(PyObject *module, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"",
                            "base_offset",
                            "leader_epoch",
                            "attributes",
                            "last_offset_delta",
                            "base_timestamp",
                            "max_timestamp",
                            "producer_id",
                            "producer_epoch",
                            "base_sequence",
                            "count",
                            "payload",
                            NULL};
    const plog_module_state *state = (plog_module_state *)PyModule_GetState(module);
    long long base_offset = 0, base_timestamp = 0, max_timestamp = INT64_MIN, producer_id = -1;
    int leader_epoch = -1, last_offset_delta = -1, base_sequence = -1, count = -1;
    short attributes = 0, producer_epoch = -1;
    Py_buffer payload = {.obj = NULL};
    PyObject *records, *result = NULL;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|$LihiLLLhiiy*:make_batch", names, &records,
                                     &base_offset, &leader_epoch, &attributes, &last_offset_delta,
                                     &base_timestamp, &max_timestamp, &producer_id, &producer_epoch,
                                     &base_sequence, &count, &payload)) {
        return NULL;
    }
    batch_maker self = {.out = PyByteArray_FromStringAndSize(NULL, PLOG_BATCH_HEADER_BYTES)};
    if (self.out == NULL || add_records(&self, state, records) < 0 ||
        (payload.obj != NULL && add_payload(&self, &payload) < 0)) {
        goto done;
    }
    plog_batch_header *header = &self.header;
    header->base_offset = base_offset;
    header->leader_epoch = leader_epoch;
    header->attributes = attributes;
    header->base_timestamp = base_timestamp;
    header->max_timestamp =
        max_timestamp == INT64_MIN ? base_timestamp + self.max_timestamp_delta : max_timestamp;
    header->producer_id = producer_id;
    header->producer_epoch = producer_epoch;
    header->base_sequence = base_sequence;
    header->count = count >= 0 ? count : header->count;
    if (last_offset_delta >= 0) {
        header->last_offset_delta = last_offset_delta;
    } else if (payload.obj != NULL) {
        header->last_offset_delta = header->count - 1;
    }
    result = finish_batch(&self);
done:
    Py_XDECREF(self.out);
    if (payload.obj != NULL) {
        PyBuffer_Release(&payload);
    }
    return result;
}

/* ---- looking at batches */

static PyObject *header_dict(size_t position, const plog_batch_header *header)
{
    return Py_BuildValue(
        "{s:n,s:L,s:n,s:i,s:i,s:k,s:i,s:i,s:L,s:L,s:L,s:i,s:i,s:i}",                     //
        "position", (Py_ssize_t)position, "base_offset", (long long)header->base_offset, //
        "size", (Py_ssize_t)header->size, "leader_epoch", (int)header->leader_epoch,     //
        "magic", (int)header->magic, "crc", (unsigned long)header->crc,                  //
        "attributes", (int)header->attributes,                                           //
        "last_offset_delta", (int)header->last_offset_delta,                             //
        "base_timestamp", (long long)header->base_timestamp,                             //
        "max_timestamp", (long long)header->max_timestamp,                               //
        "producer_id", (long long)header->producer_id,                                   //
        "producer_epoch", (int)header->producer_epoch,                                   //
        "base_sequence", (int)header->base_sequence, "count", (int)header->count);
}

static PyObject *list_headers(const uint8_t *data, size_t position, size_t end)
{
    PyObject *list = PyList_New(0);
    plog_batch_header header;
    while (list != NULL && plog_batch_parse(data + position, end - position, &header) == PLOG_OK) {
        PyObject *entry = header_dict(position, &header); /* strong */
        if (entry == NULL || PyList_Append(list, entry) < 0) {
            Py_CLEAR(list);
        }
        Py_XDECREF(entry);
        position += header.size;
    }
    return list;
}

static PyObject *batch_headers(PyObject *module, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"data", "start", NULL};
    Py_buffer data;
    PyObject *start_object = NULL, *result = NULL;
    size_t start, end;
    (void)module;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "y*|O:batch_headers", names, &data,
                                     &start_object)) {
        return NULL;
    }
    if (plog_range_from_objects(start_object, NULL, data.len, &start, &end) == 0) {
        result = list_headers(data.buf, start, end);
    }
    PyBuffer_Release(&data);
    return result;
}

enum {
    CHECK_DATA,
    CHECK_START,
    CHECK_TARGET,
    CHECK_LIMIT,
    CHECK_MAX,
    CHECK_NEXT,
    CHECK_STRICT,
    CHECK_ENTRY,
    CHECK_COUNT
};
static const char *const check_names[CHECK_COUNT] = {"data",         "start",       "target_offset",
                                                     "limit_offset", "max_bytes",   "next_offset",
                                                     "strict",       "entry_offset"};
static const plog_signature check_signature = {"check_batches", check_names, CHECK_COUNT,
                                               CHECK_ENTRY, CHECK_COUNT};

/* What the request says, except for where it starts. */
static int parse_check_request(PyObject **given, plog_check_request *out)
{
    int64_t max_bytes;
    if (plog_int64_from_object(given[CHECK_TARGET], "target_offset", &out->target_offset) < 0 ||
        plog_int64_from_object(given[CHECK_LIMIT], "limit_offset", &out->limit_offset) < 0 ||
        plog_int64_from_object(given[CHECK_MAX], "max_bytes", &max_bytes) < 0 ||
        plog_int64_from_object(given[CHECK_NEXT], "next_offset", &out->next_offset) < 0) {
        return -1;
    }
    if (max_bytes < 0) {
        PyErr_SetString(PyExc_ValueError, "max_bytes is negative");
        return -1;
    }
    out->max_bytes = (size_t)max_bytes;
    int is_strict = PyObject_IsTrue(given[CHECK_STRICT]);
    out->is_strict = is_strict > 0;
    out->entry_offset = -1;
    if (is_strict < 0 || given[CHECK_ENTRY] == NULL) {
        return is_strict < 0 ? -1 : 0;
    }
    return plog_int64_from_object(given[CHECK_ENTRY], "entry_offset", &out->entry_offset);
}

static PyObject *check_batches(PyObject *module, PyObject *const *args, Py_ssize_t count,
                               PyObject *keyword_names)
{
    (void)module;
    PyObject *given[CHECK_COUNT] = {NULL}; /* borrowed */
    plog_check_request request;
    plog_check_result found;
    plog_status status = PLOG_END;
    size_t end;
    Py_buffer data;
    if (plog_parse_arguments(&check_signature, args, count, keyword_names, given) < 0 ||
        parse_check_request(given, &request) < 0 ||
        PyObject_GetBuffer(given[CHECK_DATA], &data, PyBUF_SIMPLE) < 0) {
        return NULL;
    }
    if (plog_range_from_objects(given[CHECK_START], NULL, data.len, &request.start, &end) < 0) {
        PyBuffer_Release(&data);
        return NULL;
    }
    if (end - request.start > PLOG_GIL_BYTES) {
        Py_BEGIN_ALLOW_THREADS status = plog_check_batches(data.buf, end, &request, &found);
        Py_END_ALLOW_THREADS
    } else {
        status = plog_check_batches(data.buf, end, &request, &found);
    }
    PyBuffer_Release(&data);
    return Py_BuildValue("(innLn)", (int)status, (Py_ssize_t)found.first, (Py_ssize_t)found.end,
                         (long long)found.next_offset, (Py_ssize_t)found.needed);
}

static PyObject *find_batch(PyObject *module, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"data",           "start",        "minimum_offset",
                            "maximum_offset", "position",     "strict",
                            "known_position", "known_offset", NULL};
    Py_buffer data;
    PyObject *start_object;
    long long minimum_offset, maximum_offset, known_position = -1, known_offset = -1;
    Py_ssize_t position = 0;
    int is_strict = 1;
    size_t start, end, found = 0;
    plog_status status;
    (void)module;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "y*OLL|npLL:find_batch", names, &data,
                                     &start_object, &minimum_offset, &maximum_offset, &position,
                                     &is_strict, &known_position, &known_offset)) {
        return NULL;
    }
    if (plog_range_from_objects(start_object, NULL, data.len, &start, &end) < 0) {
        PyBuffer_Release(&data);
        return NULL;
    }
    const plog_find_request request = {.start = start,
                                       .position = (size_t)position,
                                       .minimum_offset = minimum_offset,
                                       .maximum_offset = maximum_offset,
                                       .known_position = known_position,
                                       .known_offset = known_offset,
                                       .is_strict = is_strict != 0};
    Py_BEGIN_ALLOW_THREADS status = plog_find_batch(data.buf, end, &request, &found);
    Py_END_ALLOW_THREADS PyBuffer_Release(&data);
    return PyLong_FromSsize_t(status == PLOG_OK ? (Py_ssize_t)found : -1);
}

/* ---- indexes */

static PyObject *lookup(PyObject *args, PyObject *kwargs, size_t entry_bytes,
                        int64_t (*search)(const uint8_t *entries, size_t count, int64_t target))
{
    static char *names[] = {"entries", "count", "target", NULL};
    Py_buffer entries;
    Py_ssize_t count;
    long long target;
    PyObject *result = NULL;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "y*nL:lookup", names, &entries, &count,
                                     &target)) {
        return NULL;
    }
    if (count < 0 || count > entries.len / (Py_ssize_t)entry_bytes) {
        PyErr_Format(PyExc_ValueError, "%zd bytes do not hold %zd entries", entries.len, count);
    } else {
        result = PyLong_FromLongLong(search(entries.buf, (size_t)count, target));
    }
    PyBuffer_Release(&entries);
    return result;
}

static PyObject *lookup_offset(PyObject *module, PyObject *args, PyObject *kwargs)
{
    (void)module;
    return lookup(args, kwargs, PLOG_OFFSET_ENTRY_BYTES, plog_lookup_offset);
}

static PyObject *lookup_timestamp(PyObject *module, PyObject *args, PyObject *kwargs)
{
    (void)module;
    return lookup(args, kwargs, PLOG_TIME_ENTRY_BYTES, plog_lookup_timestamp);
}

/* ---- checksums and hashes */

static PyObject *crc32c(PyObject *module, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"data", "value", NULL};
    Py_buffer data;
    unsigned int value = 0;
    uint32_t crc;
    (void)module;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "y*|I:crc32c", names, &data, &value)) {
        return NULL;
    }
    if (data.len > PLOG_GIL_BYTES) {
        Py_BEGIN_ALLOW_THREADS crc = plog_crc32c(value, data.buf, (size_t)data.len);
        Py_END_ALLOW_THREADS
    } else {
        crc = plog_crc32c(value, data.buf, (size_t)data.len);
    }
    PyBuffer_Release(&data);
    return PyLong_FromUnsignedLong(crc);
}

/* For tests: (name, CRC) of every way to compute one here. */
static PyObject *crc32c_every_way(PyObject *module, PyObject *args)
{
    Py_buffer data;
    unsigned int value;
    (void)module;
    if (!PyArg_ParseTuple(args, "y*I:crc32c_every_way", &data, &value)) {
        return NULL;
    }
    PyObject *results = PyList_New(0); /* strong */
    int status = results == NULL ? -1 : 0;
    for (size_t way = 0; way < plog_crc32c_way_count() && status == 0; way++) {
        const uint32_t crc = plog_crc32c_by_way(way, value, data.buf, (size_t)data.len);
        status = plog_append_item(
            results, Py_BuildValue("(sI)", plog_crc32c_way_name(way), (unsigned int)crc));
    }
    PyBuffer_Release(&data);
    if (status < 0) {
        Py_CLEAR(results);
    }
    return results;
}

static PyObject *murmur2(PyObject *module, PyObject *object)
{
    (void)module;
    Py_buffer data;
    if (PyObject_GetBuffer(object, &data, PyBUF_SIMPLE) < 0) {
        return NULL;
    }
    int32_t hash = (int32_t)plog_murmur2(data.buf, (size_t)data.len);
    PyBuffer_Release(&data);
    return PyLong_FromLong(hash);
}

static PyObject *partition_for_key(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    (void)module;
    int64_t partitions;
    Py_buffer key;
    if (count != 2) {
        PyErr_SetString(PyExc_TypeError, "partition_for_key() takes a key and a partition count");
        return NULL;
    }
    if (plog_int64_from_object(args[1], "partitions", &partitions) < 0) {
        return NULL;
    }
    if (partitions < 1 || partitions > INT32_MAX) {
        PyErr_SetString(PyExc_ValueError, "partitions must be in [1, 2**31)");
        return NULL;
    }
    if (PyObject_GetBuffer(args[0], &key, PyBUF_SIMPLE) < 0) {
        return NULL;
    }
    int32_t partition = plog_partition_for_key(key.buf, (size_t)key.len, (int32_t)partitions);
    PyBuffer_Release(&key);
    return PyLong_FromLong(partition);
}

#define WITH_KEYWORDS(function) PLOG_METHOD(function), METH_VARARGS | METH_KEYWORDS

static PyMethodDef functions[] = {
    {"make_batch", WITH_KEYWORDS(make_batch), "Encode one batch with every header field given."},
    {"batch_headers", WITH_KEYWORDS(batch_headers),
     "Return the headers of the whole batches from `start` on; no CRC is checked."},
    {"check_batches", PLOG_METHOD(check_batches), METH_FASTCALL | METH_KEYWORDS,
     "Return (status, first, end, next_offset, needed): the read path's one pass."},
    {"find_batch", WITH_KEYWORDS(find_batch),
     "Return the position of the next good batch behind damage, -1 if there is none."},
    {"lookup_offset", WITH_KEYWORDS(lookup_offset),
     "Return the index of the greatest offset entry <= target, -1 if there is none."},
    {"lookup_timestamp", WITH_KEYWORDS(lookup_timestamp),
     "Return the index of the greatest time entry <= target, -1 if there is none."},
    {"crc32c", WITH_KEYWORDS(crc32c), "Return the CRC-32C of data, continuing `value`."},
    {"crc32c_every_way", crc32c_every_way, METH_VARARGS,
     "Return (name, CRC-32C of data continuing a value) for each way that this processor has."},
    {"murmur2", murmur2, METH_O, "Return Kafka's hash of a key, signed as Java's."},
    {"partition_for_key", PLOG_METHOD(partition_for_key), METH_FASTCALL,
     "Return the partition in which Kafka's Java client puts the key."},
    {NULL, NULL, 0, NULL},
};

int plog_add_batch_functions(PyObject *module)
{
    return PyModule_AddFunctions(module, functions);
}
