/* KeyMap: pass 1 of compaction over the caller's buffers.
 *
 * Knows: how to give the core slots and decompressed records.  Must not know: any rule of
 * compaction.  While one thread works with the GIL released, every other use raises.
 */
#include "py_key_map.h"
#include <stdlib.h> /* realloc needs no GIL; PyMem_RawRealloc is not in the limited API */

/* At most, at first: little for a partition of a few keys; doubled when it is full (guessed). */
enum { FIRST_SLOTS = (64 << 10) / (int)sizeof(plog_key_slot) };

plog_py_key_map *plog_key_map_take(PyObject *object)
{
    plog_py_key_map *self = (plog_py_key_map *)object;
    if (self->is_busy) {
        PyErr_SetString(PyExc_RuntimeError, "another thread is using this KeyMap");
        return NULL;
    }
    self->is_busy = true;
    return self;
}

const uint8_t *plog_key_map_marks(plog_py_key_map *self)
{
    const plog_key_map *map = &self->collector.map;
    const int64_t start = self->first_offset, end = self->collector.next_offset;
    if (self->marks != NULL && self->marks_end == end) {
        return self->marks;
    }
    free(self->marks);
    self->marks = NULL;
    if (end <= start ||
        (uint64_t)(end - start) > (uint64_t)self->max_slots * sizeof(plog_key_slot)) {
        return NULL;
    }
    self->marks = calloc((size_t)(end - start) / 8 + 1, 1);
    self->marks_end = end;
    if (self->marks != NULL) {
        Py_BEGIN_ALLOW_THREADS plog_key_map_mark(map, start, end, self->marks);
        Py_END_ALLOW_THREADS
    }
    return self->marks;
}

PyObject *plog_decompressed(const plog_module_state *state, PyObject *decompress, PyObject *data,
                            size_t position, const plog_batch_header *header, Py_buffer *view)
{
    const int codec = header->attributes & PLOG_ATTRIBUTE_CODEC;
    if (decompress == NULL) {
        return PyErr_Format(state->errors[PLOG_INVALID_RECORD_ERROR],
                            "the batch is compressed (codec %d) and no decompressor was given",
                            codec);
    }
    PyObject *whole = PyMemoryView_FromObject(data); /* strong */
    PyObject *payload = NULL, *plain = NULL;         /* strong */
    if (whole != NULL) {
        payload = PySequence_GetSlice(whole, (Py_ssize_t)(position + PLOG_BATCH_HEADER_BYTES),
                                      (Py_ssize_t)(position + header->size));
    }
    if (payload != NULL) {
        plain = PyObject_CallFunction(decompress, "iO", codec, payload);
    }
    if (plain != NULL && PyObject_GetBuffer(plain, view, PyBUF_SIMPLE) < 0) {
        Py_CLEAR(plain);
    }
    Py_XDECREF(payload);
    Py_XDECREF(whole);
    return plain;
}

void plog_raise_damaged(const plog_module_state *state, const uint8_t *data, size_t len,
                        int64_t next_offset, plog_status status)
{
    plog_batch_header header;
    int64_t first = next_offset, last = next_offset;
    if (plog_batch_parse(data, len, &header) == PLOG_OK) {
        first = header.base_offset;
        last = plog_batch_next_offset(&header) - 1;
    }
    plog_raise_corrupt_range(state, first, last, status);
}

static PyObject *key_map_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"secret", "max_bytes", "decompress", NULL};
    Py_buffer secret;
    Py_ssize_t max_bytes;
    PyObject *decompress = Py_None; /* borrowed */
    plog_py_key_map *self = NULL;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "y*n|O:KeyMap", names, &secret, &max_bytes,
                                     &decompress)) {
        return NULL;
    }
    const size_t max_slots = max_bytes < 0 ? 0 : (size_t)max_bytes / sizeof(plog_key_slot);
    unsigned doublings = 0;
    plog_key_slot *slots = NULL;
    if (secret.len != PLOG_SECRET_BYTES || max_slots < PLOG_KEY_MAP_MIN_SLOTS) {
        PyErr_Format(PyExc_ValueError, "needs a secret of %d bytes, and at least %d of memory",
                     PLOG_SECRET_BYTES, PLOG_KEY_MAP_MIN_SLOTS * (int)sizeof(plog_key_slot));
        goto done;
    }
    while (max_slots >> doublings > FIRST_SLOTS) {
        doublings++;
    }
    slots = malloc((max_slots >> doublings) * sizeof *slots);
    if (slots == NULL) {
        PyErr_NoMemory();
        goto done;
    }
    self = PyObject_New(plog_py_key_map, type);
    if (self == NULL) {
        free(slots);
        goto done;
    }
    plog_key_map_begin(&self->collector.map, secret.buf, slots, max_slots >> doublings);
    self->collector.next_offset = 0;
    self->collector.pending_count = 0;
    self->decompress = decompress == Py_None ? NULL : Py_NewRef(decompress);
    self->max_slots = max_slots;
    self->doublings = doublings;
    self->first_offset = 0;
    self->marks = NULL;
    self->marks_end = 0;
    self->is_full = self->is_busy = false;
done:
    PyBuffer_Release(&secret);
    return (PyObject *)self;
}

static void key_map_dealloc(PyObject *object)
{
    plog_py_key_map *self = (plog_py_key_map *)object;
    free(self->collector.map.slots);
    free(self->marks);
    Py_XDECREF(self->decompress);
    plog_free_object(object);
}

/* Double the slots; needs no GIL.  False: there may be no more, or the system has no more. */
static bool grow(plog_py_key_map *self)
{
    plog_key_map *map = &self->collector.map;
    if (self->doublings == 0) {
        return false;
    }
    const size_t slot_count = self->max_slots >> (self->doublings - 1);
    plog_key_slot *slots = realloc(map->slots, slot_count * sizeof *slots);
    if (slots == NULL) {
        return false;
    }
    plog_key_map_grow(map, slots, slot_count);
    self->doublings--;
    return true;
}

static void stop(plog_py_key_map *self)
{
    plog_collector_stop(&self->collector);
    self->is_full = true;
}

/* What is asked for, and how far it is done. */
typedef struct {
    PyObject *object; /* borrowed */
    Py_buffer view;   /* held */
    int64_t first_offset, end_offset;
    size_t position, end, needed;
} request;

/* Needs no GIL.  NO_ROOM: the map is full. */
static plog_status collect_plain(plog_py_key_map *self, request *asked)
{
    for (;;) {
        size_t consumed;
        plog_status status = plog_collect_batches(
            &self->collector, (const uint8_t *)asked->view.buf + asked->position,
            asked->end - asked->position, asked->first_offset, asked->end_offset, &consumed,
            &asked->needed);
        asked->position += consumed;
        if (status != PLOG_NO_ROOM || !grow(self)) {
            return status;
        }
    }
}

/* Needs no GIL.  NO_ROOM: the map is full. */
static plog_status collect_records(plog_py_key_map *self, const plog_batch_header *header,
                                   const Py_buffer *records, int64_t first_offset)
{
    plog_status status;
    do {
        status = plog_collect_records(&self->collector, header, records->buf, (size_t)records->len,
                                      first_offset);
    } while (status == PLOG_NO_ROOM && grow(self));
    return status;
}

/* OK, or the status that ends the call; INTERRUPTED: an error is set. */
static plog_status collect_compressed(plog_py_key_map *self, request *asked)
{
    const uint8_t *batch = (const uint8_t *)asked->view.buf + asked->position;
    plog_batch_header header;
    Py_buffer records;
    plog_status status = plog_batch_parse(batch, asked->end - asked->position, &header);
    assert(status == PLOG_OK);
    PyObject *plain = plog_decompressed(plog_state_of((PyObject *)self), self->decompress,
                                        asked->object, asked->position, &header, &records);
    if (plain == NULL) {
        return PLOG_INTERRUPTED;
    }
    if (records.len > PLOG_GIL_BYTES) {
        Py_BEGIN_ALLOW_THREADS status =
            collect_records(self, &header, &records, asked->first_offset);
        Py_END_ALLOW_THREADS
    } else {
        status = collect_records(self, &header, &records, asked->first_offset);
    }
    asked->position += status == PLOG_OK ? header.size : 0;
    PyBuffer_Release(&records);
    Py_DECREF(plain);
    return status;
}

static plog_status collect(plog_py_key_map *self, request *asked)
{
    plog_status status;
    do {
        if (asked->end - asked->position > PLOG_GIL_BYTES) {
            Py_BEGIN_ALLOW_THREADS status = collect_plain(self, asked);
            Py_END_ALLOW_THREADS
        } else {
            status = collect_plain(self, asked);
        }
        if (status == PLOG_LIMIT) {
            status = collect_compressed(self, asked);
        }
    } while (status == PLOG_OK);
    return status;
}

static PyObject *key_map_add_batches(PyObject *object, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"data", "start", "end", "first_offset", "end_offset", NULL};
    PyObject *start = NULL, *end = NULL, *result = NULL;
    long long first_offset = 0, end_offset = INT64_MAX;
    request asked = {.needed = 0};
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|OO$LL:add_batches", names, &asked.object,
                                     &start, &end, &first_offset, &end_offset) ||
        PyObject_GetBuffer(asked.object, &asked.view, PyBUF_SIMPLE) < 0) {
        return NULL;
    }
    asked.first_offset = first_offset;
    asked.end_offset = end_offset;
    plog_py_key_map *self = NULL;
    if (plog_range_from_objects(start, end, asked.view.len, &asked.position, &asked.end) < 0 ||
        (self = plog_key_map_take(object)) == NULL) {
        goto done;
    }
    if (first_offset > self->first_offset) {
        self->first_offset = first_offset;
    }
    const plog_status status = self->is_full ? PLOG_NO_ROOM : collect(self, &asked);
    if (status == PLOG_NO_ROOM) {
        stop(self);
    }
    if (status == PLOG_END || status == PLOG_INCOMPLETE || status == PLOG_NO_ROOM) {
        result = Py_BuildValue("(inn)", (int)status, (Py_ssize_t)asked.position,
                               (Py_ssize_t)(status == PLOG_INCOMPLETE ? asked.needed : 0));
    } else if (status != PLOG_INTERRUPTED) {
        plog_raise_damaged(plog_state_of(object), (const uint8_t *)asked.view.buf + asked.position,
                           asked.end - asked.position, self->collector.next_offset, status);
    }
    plog_key_map_give_back(self);
done:
    PyBuffer_Release(&asked.view);
    return result;
}

static PyObject *key_map_offset_of(PyObject *object, PyObject *key_object)
{
    plog_held_bytes key;
    plog_py_key_map *self = plog_key_map_take(object);
    if (self == NULL) {
        return NULL;
    }
    int64_t offset = -1;
    const int result = plog_bytes_from_object(plog_state_of(object), key_object, "a key", &key);
    if (result == 0) {
        if (key.bytes.len >= 0) {
            const plog_key_hash hash = plog_key_map_hash(&self->collector.map, &key.bytes);
            offset = plog_key_map_find(&self->collector.map, &hash);
        }
        plog_bytes_release(&key);
    }
    plog_key_map_give_back(self);
    if (result < 0) {
        return NULL;
    }
    return offset < 0 ? Py_NewRef(Py_None) : PyLong_FromLongLong(offset);
}

static Py_ssize_t key_map_length(PyObject *object)
{
    return (Py_ssize_t)((plog_py_key_map *)object)->collector.map.count;
}

static PyObject *get_nbytes(PyObject *object, void *closure)
{
    (void)closure;
    return PyLong_FromSize_t(((plog_py_key_map *)object)->collector.map.slot_count *
                             sizeof(plog_key_slot));
}

static PyObject *get_end_offset(PyObject *object, void *closure)
{
    (void)closure;
    return PyLong_FromLongLong(((plog_py_key_map *)object)->collector.next_offset);
}

static PyObject *get_is_full(PyObject *object, void *closure)
{
    (void)closure;
    return PyBool_FromLong(((plog_py_key_map *)object)->is_full);
}

static PyGetSetDef key_map_getters[] = {
    {"nbytes", get_nbytes, NULL, "Memory that is taken now.", NULL},
    {"end_offset", get_end_offset, NULL, "All records below it have been taken in.", NULL},
    {"is_full", get_is_full, NULL, "No more will be taken in.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMethodDef key_map_methods[] = {
    {"add_batches", PLOG_METHOD(key_map_add_batches), METH_VARARGS | METH_KEYWORDS,
     "Take in whole batches of data[start:end]; return (status, position, bytes needed)."},
    {"offset_of", key_map_offset_of, METH_O, "The newest offset of a key, or None."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot key_map_slots[] = {
    {Py_tp_doc, "The newest offset of each key, in bounded memory."},
    {Py_tp_new, (void *)key_map_new},
    {Py_tp_dealloc, (void *)key_map_dealloc},
    {Py_sq_length, (void *)key_map_length},
    {Py_tp_getset, key_map_getters},
    {Py_tp_methods, key_map_methods},
    {0, NULL},
};

static PyType_Spec key_map_spec = {
    .name = "pylog._native.KeyMap",
    .basicsize = sizeof(plog_py_key_map),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = key_map_slots,
};

static PyObject *key_hash(PyObject *module, PyObject *args)
{
    Py_buffer secret, key;
    PyObject *result = NULL;
    (void)module;
    if (!PyArg_ParseTuple(args, "y*y*:key_hash", &secret, &key)) {
        return NULL;
    }
    if (secret.len != PLOG_SECRET_BYTES) {
        PyErr_Format(PyExc_ValueError, "a secret has %d bytes", PLOG_SECRET_BYTES);
    } else {
        plog_secret loaded;
        plog_secret_load(&loaded, secret.buf);
        const plog_key_hash hash = plog_siphash(&loaded, key.buf, (size_t)key.len);
        result = Py_BuildValue("(KK)", (unsigned long long)hash.low, (unsigned long long)hash.high);
    }
    PyBuffer_Release(&secret);
    PyBuffer_Release(&key);
    return result;
}

static PyMethodDef functions[] = {
    {"key_hash", key_hash, METH_VARARGS,
     "SipHash-1-3 of 128 bits of a key: its two little-endian words."},
    {NULL, NULL, 0, NULL},
};

int plog_add_key_map_type(PyObject *module)
{
    return plog_add_type(module, &key_map_spec, PLOG_KEY_MAP_TYPE, true) < 0
               ? -1
               : PyModule_AddFunctions(module, functions);
}
