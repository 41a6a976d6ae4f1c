/* BatchFilter: pass 2 of compaction over the caller's buffers.
 *
 * Knows: how to decompress and compress the records of a batch.  Must not know: any rule of
 * compaction.  While one thread works with the GIL released, every other use of the filter or of
 * its map raises.
 */
#include "py_key_map.h"

typedef struct {
    PyObject_HEAD plog_filter filter;
    PyObject *key_map;               /* strong */
    PyObject *kept;                  /* strong: a bytes of kept offsets, or what returns them */
    PyObject *decompress, *compress; /* strong: callables, or NULL */
} batch_filter;

/* kept_offsets as a bytes of native int64, ascending. */
static PyObject *sorted_offsets(PyObject *offsets)
{
    PyObject *list = PySequence_List(offsets); /* strong */
    PyObject *bytes = NULL;                    /* strong */
    if (list == NULL || PyList_Sort(list) < 0) {
        goto done;
    }
    bytes = PyBytes_FromStringAndSize(NULL, PyList_Size(list) * (Py_ssize_t)sizeof(int64_t));
    for (Py_ssize_t i = 0; bytes != NULL && i < PyList_Size(list); i++) {
        int64_t offset;
        if (plog_int64_from_object(PyList_GetItem(list, i), "an offset", &offset) < 0) {
            Py_CLEAR(bytes);
        } else {
            memcpy(PyBytes_AsString(bytes) + (size_t)i * sizeof offset, &offset, sizeof offset);
        }
    }
done:
    Py_XDECREF(list);
    return bytes;
}

/* Keep the offsets; 0, or -1 with an error. */
static int learn_kept(batch_filter *self, PyObject *offsets)
{
    PyObject *bytes = sorted_offsets(offsets); /* strong */
    if (bytes == NULL) {
        return -1;
    }
    Py_XDECREF(self->kept);
    self->kept = bytes;
    self->filter.kept_offsets = (const int64_t *)(const void *)PyBytes_AsString(bytes);
    self->filter.kept_count = (size_t)PyBytes_Size(bytes) / sizeof(int64_t);
    self->filter.knows_kept = true;
    return 0;
}

/* Ask for the offsets.  OK, or INTERRUPTED: an error is set. */
static plog_status ask_for_kept(batch_filter *self)
{
    PyObject *offsets = PyObject_CallNoArgs(self->kept); /* strong */
    const int result = offsets == NULL ? -1 : learn_kept(self, offsets);
    Py_XDECREF(offsets);
    return result < 0 ? PLOG_INTERRUPTED : PLOG_OK;
}

static PyObject *strong_or_null(PyObject *object)
{
    return object == Py_None ? NULL : Py_NewRef(object);
}

static PyObject *filter_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {
        "key_map",  "now", "delete_retention_ms", "round_end", "kept_offsets", "decompress",
        "compress", NULL};
    PyObject *key_map, *kept_offsets = NULL, *decompress = Py_None, *compress = Py_None;
    long long now = -2, delete_retention_ms = -1, round_end = -1; /* the first two are required */
    plog_module_state *state = (plog_module_state *)PyType_GetModuleState(type);
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!|$LLLOOO:BatchFilter", names,
                                     state->types[PLOG_KEY_MAP_TYPE], &key_map, &now,
                                     &delete_retention_ms, &round_end, &kept_offsets, &decompress,
                                     &compress)) {
        return NULL;
    }
    if (now < -1 || delete_retention_ms < 0) {
        PyErr_SetString(PyExc_ValueError, "needs -1 <= now and 0 <= delete_retention_ms");
        return NULL;
    }
    plog_py_key_map *map = plog_key_map_take(key_map);
    batch_filter *self = map == NULL ? NULL : PyObject_New(batch_filter, type);
    if (self == NULL) {
        if (map != NULL) {
            plog_key_map_give_back(map);
        }
        return NULL;
    }
    const bool is_finite = now < 0 || delete_retention_ms <= INT64_MAX - now;
    self->filter = (plog_filter){
        .map = &map->collector.map,
        .map_end = map->collector.next_offset,
        .marks = plog_key_map_marks(map),
        .marks_start = map->first_offset,
        .now = now,
        .horizon = is_finite ? now + delete_retention_ms : INT64_MAX,
        .round_end = round_end,
        .knows_kept = kept_offsets == NULL,
    };
    plog_key_map_give_back(map);
    self->key_map = Py_NewRef(key_map);
    self->kept = kept_offsets == NULL ? NULL : Py_NewRef(kept_offsets);
    self->decompress = strong_or_null(decompress);
    self->compress = strong_or_null(compress);
    if (kept_offsets != NULL && !PyCallable_Check(kept_offsets) &&
        learn_kept(self, kept_offsets) < 0) {
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

static void filter_dealloc(PyObject *object)
{
    batch_filter *self = (batch_filter *)object;
    Py_DECREF(self->key_map);
    Py_XDECREF(self->kept);
    Py_XDECREF(self->decompress);
    Py_XDECREF(self->compress);
    plog_free_object(object);
}

/* What is asked for, and how far it is done. */
typedef struct {
    PyObject *object;    /* borrowed: the data */
    Py_buffer view, out; /* held */
    int64_t end_offset;
    size_t position, end, written, needed;
} request;

static const uint8_t *next_batch(const request *asked)
{
    return (const uint8_t *)asked->view.buf + asked->position;
}

/* Needs no GIL. */
static plog_status filter_plain(batch_filter *self, request *asked)
{
    size_t consumed, written;
    const plog_status status = plog_filter_batches(
        &self->filter, next_batch(asked), asked->end - asked->position, asked->end_offset,
        (uint8_t *)asked->out.buf + asked->written, (size_t)asked->out.len - asked->written,
        &consumed, &written, &asked->needed);
    asked->position += consumed;
    asked->written += written;
    return status;
}

/* Room for `size` bytes of output; NULL and asked->needed set when there is not so much. */
static uint8_t *reserve(request *asked, size_t size)
{
    if (size > (size_t)asked->out.len - asked->written) {
        asked->needed = size;
        return NULL;
    }
    return (uint8_t *)asked->out.buf + asked->written;
}

/* Write a batch around a payload that is compressed now.  INTERRUPTED: an error is set. */
static plog_status write_compressed(const batch_filter *self, request *asked,
                                    const plog_batch_header *header, const Py_buffer *payload)
{
    plog_batch_header changed = *header;
    changed.size = PLOG_BATCH_HEADER_BYTES + (size_t)payload->len;
    if (changed.size > INT32_MAX) {
        plog_raise_too_large(plog_state_of((PyObject *)self), changed.size, INT32_MAX);
        return PLOG_INTERRUPTED;
    }
    uint8_t *out = reserve(asked, changed.size);
    if (out == NULL) {
        return PLOG_NO_ROOM;
    }
    memcpy(out + PLOG_BATCH_HEADER_BYTES, payload->buf, (size_t)payload->len);
    plog_batch_seal(out, &changed);
    asked->written += changed.size;
    return PLOG_OK;
}

/* Compress `len` bytes of the bytearray `scratch` and write the batch. */
static plog_status compress_and_write(const batch_filter *self, request *asked,
                                      const plog_batch_header *header, PyObject *scratch)
{
    const size_t len = header->size - PLOG_BATCH_HEADER_BYTES;
    plog_status status = PLOG_INTERRUPTED;
    if (self->compress == NULL) {
        PyErr_SetString(plog_state_of((PyObject *)self)->errors[PLOG_INVALID_RECORD_ERROR],
                        "the batch is compressed and no compressor was given");
        return PLOG_INTERRUPTED;
    }
    PyObject *whole = PyMemoryView_FromObject(scratch); /* strong */
    PyObject *plain = NULL, *packed = NULL;             /* strong */
    if (whole != NULL) {
        plain = PySequence_GetSlice(whole, 0, (Py_ssize_t)len);
    }
    if (plain != NULL) {
        packed = PyObject_CallFunction(self->compress, "iO",
                                       header->attributes & PLOG_ATTRIBUTE_CODEC, plain);
    }
    Py_buffer payload;
    if (packed != NULL && PyObject_GetBuffer(packed, &payload, PyBUF_SIMPLE) == 0) {
        status = write_compressed(self, asked, header, &payload);
        PyBuffer_Release(&payload);
    }
    Py_XDECREF(packed);
    Py_XDECREF(plain);
    Py_XDECREF(whole);
    return status;
}

static plog_status write_outcome(const batch_filter *self, request *asked,
                                 const plog_batch_header *header, const plog_outcome *outcome,
                                 PyObject *scratch)
{
    if (outcome->verdict == PLOG_BATCH_REMOVED) {
        return PLOG_OK;
    }
    if (outcome->verdict == PLOG_BATCH_REWRITTEN && plog_batch_is_compressed(&outcome->header)) {
        return compress_and_write(self, asked, &outcome->header, scratch);
    }
    /* There was room for the batch as it is before its records were looked at. */
    uint8_t *out = reserve(asked, header->size);
    assert(out != NULL);
    if (outcome->verdict == PLOG_BATCH_COPIED) {
        memcpy(out, next_batch(asked), header->size);
        asked->written += header->size;
    } else {
        plog_batch_seal(out, &outcome->header);
        asked->written += outcome->header.size;
    }
    return PLOG_OK;
}

/* Filter uncompressed records into `scratch`; may release the GIL. */
static plog_status filter_records(batch_filter *self, const plog_batch_header *header,
                                  const Py_buffer *records, PyObject *scratch,
                                  plog_outcome *outcome)
{
    uint8_t *out = (uint8_t *)PyByteArray_AsString(scratch);
    const size_t capacity = (size_t)PyByteArray_Size(scratch);
    plog_status status;
    if (records->len > PLOG_GIL_BYTES) {
        Py_BEGIN_ALLOW_THREADS status = plog_filter_records(
            &self->filter, header, records->buf, (size_t)records->len, out, capacity, outcome);
        Py_END_ALLOW_THREADS
    } else {
        status = plog_filter_records(&self->filter, header, records->buf, (size_t)records->len, out,
                                     capacity, outcome);
    }
    return status;
}

/* OK, or the status that ends the call; INTERRUPTED: an error is set. */
static plog_status filter_compressed(batch_filter *self, request *asked)
{
    plog_batch_header header;
    plog_outcome outcome;
    Py_buffer records;
    size_t bound;
    plog_status status = plog_batch_parse(next_batch(asked), asked->end - asked->position, &header);
    assert(status == PLOG_OK);
    if (reserve(asked, header.size) == NULL) {
        return PLOG_NO_ROOM;
    }
    PyObject *plain = plog_decompressed(plog_state_of((PyObject *)self), self->decompress,
                                        asked->object, asked->position, &header, &records);
    if (plain == NULL) {
        return PLOG_INTERRUPTED;
    }
    const plog_filter before = self->filter;
    PyObject *scratch = NULL; /* strong */
    status = plog_filter_bound(&header, (size_t)records.len, &bound);
    if (status == PLOG_OK) {
        scratch = PyByteArray_FromStringAndSize(NULL, (Py_ssize_t)bound);
        status = scratch == NULL ? PLOG_INTERRUPTED
                                 : filter_records(self, &header, &records, scratch, &outcome);
    }
    if (status == PLOG_OK) {
        status = write_outcome(self, asked, &header, &outcome, scratch);
    }
    if (status == PLOG_OK) {
        asked->position += header.size;
    } else {
        self->filter = before; /* the batch will be filtered again, or never */
    }
    Py_XDECREF(scratch);
    PyBuffer_Release(&records);
    Py_DECREF(plain);
    return status;
}

static plog_status filter_all(batch_filter *self, request *asked)
{
    plog_status status;
    do {
        if (asked->end - asked->position > PLOG_GIL_BYTES) {
            Py_BEGIN_ALLOW_THREADS status = filter_plain(self, asked);
            Py_END_ALLOW_THREADS
        } else {
            status = filter_plain(self, asked);
        }
        if (status == PLOG_LIMIT) {
            status = filter_compressed(self, asked);
        } else if (status == PLOG_STALE) {
            status = ask_for_kept(self);
        }
    } while (status == PLOG_OK);
    return status;
}

static PyObject *run(batch_filter *self, request *asked)
{
    const plog_status status = filter_all(self, asked);
    if (status == PLOG_END || status == PLOG_INCOMPLETE || status == PLOG_NO_ROOM) {
        return Py_BuildValue("(innn)", (int)status, (Py_ssize_t)asked->position,
                             (Py_ssize_t)asked->written,
                             (Py_ssize_t)(status == PLOG_END ? 0 : asked->needed));
    }
    if (status != PLOG_INTERRUPTED) {
        plog_raise_damaged(plog_state_of((PyObject *)self), next_batch(asked),
                           asked->end - asked->position, self->filter.next_offset, status);
    }
    return NULL;
}

static PyObject *filter_filter(PyObject *object, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"data", "out", "start", "end", "end_offset", NULL};
    batch_filter *self = (batch_filter *)object;
    PyObject *out, *start = NULL, *end = NULL, *result = NULL;
    long long end_offset = INT64_MAX;
    request asked = {.written = 0};
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OO|OO$L:filter", names, &asked.object, &out,
                                     &start, &end, &end_offset) ||
        PyObject_GetBuffer(asked.object, &asked.view, PyBUF_SIMPLE) < 0) {
        return NULL;
    }
    if (PyObject_GetBuffer(out, &asked.out, PyBUF_WRITABLE) < 0) {
        PyBuffer_Release(&asked.view);
        return NULL;
    }
    asked.end_offset = end_offset;
    plog_py_key_map *map = NULL;
    if (plog_range_from_objects(start, end, asked.view.len, &asked.position, &asked.end) == 0 &&
        (map = plog_key_map_take(self->key_map)) != NULL) {
        if (map->collector.next_offset == self->filter.map_end) {
            result = run(self, &asked);
        } else {
            PyErr_SetString(PyExc_ValueError, "the KeyMap has taken in more since");
        }
        plog_key_map_give_back(map);
    }
    PyBuffer_Release(&asked.out);
    PyBuffer_Release(&asked.view);
    return result;
}

/* ---- properties: the closure is the position of an int64_t in the object. */

static PyObject *get_integer(PyObject *object, void *closure)
{
    int64_t value;
    memcpy(&value, (const char *)object + (uintptr_t)closure, sizeof value);
    return PyLong_FromLongLong(value);
}

#define FIELD(name) (void *)offsetof(batch_filter, filter.name)

static PyGetSetDef filter_getters[] = {
    {"next_offset", get_integer, NULL, "After the last batch.", FIELD(next_offset)},
    {"records_read", get_integer, NULL, NULL, FIELD(records_read)},
    {"records_kept", get_integer, NULL, NULL, FIELD(records_kept)},
    {"emptied_batches", get_integer, NULL, "Of which only the header was kept.",
     FIELD(emptied_batches)},
    {"horizons_set", get_integer, NULL, "Batches that got a delete horizon.", FIELD(horizons_set)},
    {"dropped_tombstones_end", get_integer, NULL,
     "After the last tombstone that was dropped because its horizon was past.",
     FIELD(dropped_tombstones_end)},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMethodDef filter_methods[] = {
    {"filter", PLOG_METHOD(filter_filter), METH_VARARGS | METH_KEYWORDS,
     "Filter whole batches of data[start:end] into `out`; return (status, position, written, "
     "bytes needed)."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot filter_slots[] = {
    {Py_tp_doc, "Keeps of whole batches what compaction keeps."},
    {Py_tp_new, (void *)filter_new},
    {Py_tp_dealloc, (void *)filter_dealloc},
    {Py_tp_getset, filter_getters},
    {Py_tp_methods, filter_methods},
    {0, NULL},
};

static PyType_Spec filter_spec = {
    .name = "pylog._native.BatchFilter",
    .basicsize = sizeof(batch_filter),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = filter_slots,
};

int plog_add_compact_type(PyObject *module)
{
    return plog_add_type(module, &filter_spec, PLOG_BATCH_FILTER_TYPE, true);
}
