/* The walk over the batches of a Records, and the records inside of each, decompressed when needed.
 *
 * Knows: which batches hold offsets of the range, how to call the decompressor.  Must not know:
 * what becomes of the records.
 */
#include "py_records.h"

void plog_batch_walk_begin(plog_batch_walk *walk, const plog_records *records)
{
    *walk = (plog_batch_walk){.position = records->start,
                              .current = records->start,
                              .expected_offset = records->first_offset};
}

int plog_raise_bad_batch(const plog_records *records, const plog_batch_walk *walk,
                         plog_status status)
{
    plog_raise_corrupt_range(plog_state_of((PyObject *)records), walk->header.base_offset,
                             plog_batch_next_offset(&walk->header) - 1, status);
    return -1;
}

int plog_batch_walk_next(plog_batch_walk *walk, const plog_records *records)
{
    const uint8_t *data = records->source->view.buf;
    while (walk->position < records->end) {
        walk->current = walk->position;
        plog_status status =
            plog_batch_parse(data + walk->position, records->end - walk->position, &walk->header);
        if (status != PLOG_OK) {
            int64_t last = records->next_offset - 1;
            walk->position = records->end;
            plog_raise_corrupt_range(plog_state_of((PyObject *)records), walk->expected_offset,
                                     last < walk->expected_offset ? walk->expected_offset : last,
                                     status);
            return -1;
        }
        walk->position += walk->header.size;
        walk->expected_offset = plog_batch_next_offset(&walk->header);
        bool is_hidden =
            (walk->header.attributes & PLOG_ATTRIBUTE_CONTROL) != 0 && !records->includes_control;
        if (walk->header.base_offset >= records->end_offset) {
            walk->position = records->end;
        } else if (walk->expected_offset > records->first_offset && !is_hidden) {
            return 1;
        }
    }
    return 0;
}

/* A memoryview of the payload; it holds the data, so the decompressor may keep it. */
static PyObject *payload_view(const plog_records *records, const plog_batch_walk *walk)
{
    size_t start = walk->current + PLOG_BATCH_HEADER_BYTES;
    PyObject *whole = PyMemoryView_FromObject(records->data); /* strong */
    PyObject *payload = NULL;
    if (whole != NULL) {
        payload = PySequence_GetSlice(whole, (Py_ssize_t)start,
                                      (Py_ssize_t)(walk->current + walk->header.size));
    }
    Py_XDECREF(whole);
    return payload;
}

plog_source *plog_batch_records(const plog_records *records, const plog_batch_walk *walk,
                                const uint8_t **out, size_t *len)
{
    const plog_module_state *state = plog_state_of((PyObject *)records);
    int codec = walk->header.attributes & PLOG_ATTRIBUTE_CODEC;
    plog_source *source = records->source;
    if (codec == 0) {
        *out = (const uint8_t *)source->view.buf + walk->current + PLOG_BATCH_HEADER_BYTES;
        *len = walk->header.size - PLOG_BATCH_HEADER_BYTES;
        return plog_source_share(source);
    }
    if (records->decompress == NULL) {
        PyErr_Format(state->errors[PLOG_INVALID_RECORD_ERROR],
                     "the batch is compressed (codec %d) and no decompressor was given", codec);
        return NULL;
    }
    PyObject *payload = payload_view(records, walk); /* strong */
    PyObject *plain = NULL;                          /* strong */
    plog_source *made = NULL;
    if (payload != NULL) {
        plain = PyObject_CallFunction(records->decompress, "iO", codec, payload);
    }
    if (plain != NULL) {
        made = plog_source_new(state, plain, source->topic, source->partition);
    }
    if (made != NULL) {
        *out = made->view.buf;
        *len = (size_t)made->view.len;
    }
    Py_XDECREF(payload);
    Py_XDECREF(plain);
    return made;
}
