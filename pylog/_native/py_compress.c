/* compress_batches(): whole batches with their payloads in another codec.
 *
 * Knows: where a payload lies and which header fields follow from it.  Must not know: any codec;
 * the codecs' own libraries are called through Python and release the GIL themselves.
 */
#include "batch.h"
#include "py_common.h"

typedef struct {
    const plog_module_state *state;
    Py_buffer view;  /* held: the batches that were given */
    PyObject *whole; /* strong: a memoryview of them; who gets a slice may keep it */
    PyObject *compress, *decompress; /* borrowed; NULL for None */
    int codec;
    PyObject *out; /* strong: a bytearray */
} recoder;

/* Call `function`, and give up the only reference to its last argument, `payload`. */
static PyObject *recoded_by(PyObject *function, PyObject *codec, PyObject *payload)
{
    PyObject *result = PyObject_CallFunctionObjArgs(function, codec == NULL ? payload : codec,
                                                    codec == NULL ? NULL : payload, NULL);
    Py_DECREF(payload);
    return result;
}

/* The payload of the batch at `position`, as a bytes-like object in the codec that is asked for. */
static PyObject *recode_payload(const recoder *self, size_t position,
                                const plog_batch_header *header)
{
    const int codec = header->attributes & PLOG_ATTRIBUTE_CODEC;
    PyObject *payload =
        PySequence_GetSlice(self->whole, (Py_ssize_t)(position + PLOG_BATCH_HEADER_BYTES),
                            (Py_ssize_t)(position + header->size)); /* strong, as it goes on */
    if (payload != NULL && codec != 0) {
        if (self->decompress == NULL) {
            Py_DECREF(payload);
            return PyErr_Format(self->state->errors[PLOG_INVALID_RECORD_ERROR],
                                "the batch is compressed (codec %d) and no decompressor was given",
                                codec);
        }
        PyObject *number = PyLong_FromLong(codec); /* strong */
        if (number == NULL) {
            Py_DECREF(payload);
            return NULL;
        }
        payload = recoded_by(self->decompress, number, payload);
        Py_DECREF(number);
    }
    return payload == NULL || self->compress == NULL ? payload
                                                     : recoded_by(self->compress, NULL, payload);
}

/* Room for `size` more bytes of output; NULL with an error. */
static uint8_t *extend(const recoder *self, size_t size)
{
    const Py_ssize_t end = PyByteArray_Size(self->out);
    if (size > (size_t)(PY_SSIZE_T_MAX - end)) {
        PyErr_NoMemory();
        return NULL;
    }
    if (PyByteArray_Resize(self->out, end + (Py_ssize_t)size) < 0) {
        return NULL;
    }
    return (uint8_t *)PyByteArray_AsString(self->out) + end;
}

static void seal(uint8_t *batch, const plog_batch_header *header)
{
    if (header->size > PLOG_GIL_BYTES) {
        Py_BEGIN_ALLOW_THREADS plog_batch_seal(batch, header);
        Py_END_ALLOW_THREADS
    } else {
        plog_batch_seal(batch, header);
    }
}

/* Append the batch with another payload: its header says so, and the CRC is computed anew. */
static int append_recoded(const recoder *self, size_t position, const plog_batch_header *header)
{
    PyObject *payload = recode_payload(self, position, header); /* strong */
    Py_buffer bytes;
    int result = -1;
    if (payload == NULL || PyObject_GetBuffer(payload, &bytes, PyBUF_SIMPLE) < 0) {
        Py_XDECREF(payload);
        return -1;
    }
    plog_batch_header changed = *header;
    changed.size = PLOG_BATCH_HEADER_BYTES + (size_t)bytes.len;
    changed.attributes = (int16_t)((header->attributes & ~PLOG_ATTRIBUTE_CODEC) | self->codec);
    uint8_t *batch = NULL;
    if (changed.size > INT32_MAX) {
        plog_raise_too_large(self->state, changed.size, INT32_MAX);
    } else {
        batch = extend(self, changed.size);
    }
    if (batch != NULL) {
        memcpy(batch + PLOG_BATCH_HEADER_BYTES, bytes.buf, (size_t)bytes.len);
        seal(batch, &changed);
        result = 0;
    }
    PyBuffer_Release(&bytes);
    Py_DECREF(payload);
    return result;
}

static int append_unchanged(const recoder *self, size_t position, size_t size)
{
    uint8_t *batch = extend(self, size);
    if (batch == NULL) {
        return -1;
    }
    memcpy(batch, (const uint8_t *)self->view.buf + position, size);
    return 0;
}

static int append_all(const recoder *self)
{
    const uint8_t *data = self->view.buf;
    const size_t end = (size_t)self->view.len;
    for (size_t position = 0; position < end;) {
        plog_batch_header header;
        plog_status status = plog_batch_parse(data + position, end - position, &header);
        if (status != PLOG_OK) {
            PyErr_Format(self->state->errors[PLOG_INVALID_RECORD_ERROR],
                         "data must be whole batches: %s", plog_status_text(status));
            return -1;
        }
        /* A batch that compaction emptied has no payload, whatever its codec. */
        const bool is_kept = (header.attributes & PLOG_ATTRIBUTE_CODEC) == self->codec ||
                             header.size == PLOG_BATCH_HEADER_BYTES;
        if ((is_kept ? append_unchanged(self, position, header.size)
                     : append_recoded(self, position, &header)) < 0) {
            return -1;
        }
        position += header.size;
    }
    return 0;
}

static PyObject *compress_batches(PyObject *module, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"data", "codec", "compress", "decompress", NULL};
    recoder self = {.state = (plog_module_state *)PyModule_GetState(module)};
    PyObject *data, *compress, *decompress = Py_None; /* borrowed */
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OiO|O:compress_batches", names, &data,
                                     &self.codec, &compress, &decompress) ||
        PyObject_GetBuffer(data, &self.view, PyBUF_SIMPLE) < 0) {
        return NULL;
    }
    self.compress = compress == Py_None ? NULL : compress;
    self.decompress = decompress == Py_None ? NULL : decompress;
    if (self.codec < 0 || self.codec > PLOG_ATTRIBUTE_CODEC ||
        (self.codec == 0) != (self.compress == NULL)) {
        PyErr_SetString(PyExc_ValueError, "a codec in [1, 7] with its function, or 0 with None");
        goto done;
    }
    self.whole = PyMemoryView_FromObject(data);
    self.out = self.whole == NULL ? NULL : PyByteArray_FromStringAndSize(NULL, 0);
    if (self.out != NULL && append_all(&self) < 0) {
        Py_CLEAR(self.out);
    }
done:
    Py_XDECREF(self.whole);
    PyBuffer_Release(&self.view);
    return self.out;
}

static PyMethodDef functions[] = {
    {"compress_batches", PLOG_METHOD(compress_batches), METH_VARARGS | METH_KEYWORDS,
     "Return whole batches with every payload in `codec`; those that are in it stay as they "
     "are.\n\n"
     "compress: payload -> bytes-like, None for codec 0.  decompress: (codec, payload) -> "
     "bytes-like,\n"
     "for batches in another codec.  CRCs are written, not checked."},
    {NULL, NULL, 0, NULL},
};

int plog_add_compress_functions(PyObject *module)
{
    return PyModule_AddFunctions(module, functions);
}
