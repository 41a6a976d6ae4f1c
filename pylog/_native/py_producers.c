/* What batches say of their producers, and the stamp of a log's own time.
 *
 * Knows: fields of headers.  Must not know: what a producer may send; storage/producer_state.py
 * decides.
 */
#include "py_records.h"

/* (producer id, epoch, first sequence, count of sequences, first offset, timestamp, is_control) */
static PyObject *producer_of(const plog_batch_header *header)
{
    const bool is_control = (header->attributes & PLOG_ATTRIBUTE_CONTROL) != 0;
    return Py_BuildValue("(LiiLLLN)", (long long)header->producer_id, (int)header->producer_epoch,
                         (int)header->base_sequence, (long long)header->last_offset_delta + 1,
                         (long long)header->base_offset, (long long)header->max_timestamp,
                         PyBool_FromLong(is_control));
}

PyObject *plog_records_producers(PyObject *object, PyObject *unused)
{
    const plog_records *self = (const plog_records *)object;
    const uint8_t *data = self->source->view.buf;
    PyObject *list = PyList_New(0); /* strong */
    plog_batch_header header;
    (void)unused;
    for (size_t position = self->start; list != NULL && position < self->end;
         position += header.size) {
        /* They were checked when they were read; a header that does not parse ends them. */
        if (plog_batch_parse(data + position, self->end - position, &header) != PLOG_OK) {
            break;
        }
        if (header.producer_id < 0) {
            continue;
        }
        PyObject *producer = producer_of(&header); /* strong */
        if (producer == NULL || PyList_Append(list, producer) < 0) {
            Py_CLEAR(list);
        }
        Py_XDECREF(producer);
    }
    return list;
}

/* Write the time into one batch: negative gives its records' own timestamps back. */
static void stamp_time(uint8_t *batch, plog_batch_header *header, int64_t timestamp)
{
    if (timestamp < 0) {
        header->attributes = (int16_t)(header->attributes & ~PLOG_ATTRIBUTE_LOG_APPEND_TIME);
    } else {
        header->attributes = (int16_t)(header->attributes | PLOG_ATTRIBUTE_LOG_APPEND_TIME);
        header->max_timestamp = timestamp;
    }
    plog_batch_seal(batch, header);
}

static PyObject *stamp_append_time(PyObject *module, PyObject *args)
{
    const plog_module_state *state = PyModule_GetState(module);
    Py_buffer view;
    long long timestamp;
    if (!PyArg_ParseTuple(args, "w*L:stamp_append_time", &view, &timestamp)) {
        return NULL;
    }
    uint8_t *data = view.buf;
    const size_t len = (size_t)view.len;
    plog_batch_header header;
    plog_status status = PLOG_OK;
    for (size_t position = 0; status == PLOG_OK && position < len; position += header.size) {
        status = plog_batch_parse(data + position, len - position, &header);
        if (status == PLOG_OK) {
            stamp_time(data + position, &header, timestamp);
        }
    }
    PyBuffer_Release(&view);
    return status == PLOG_OK ? Py_NewRef(Py_None) : plog_raise(state, status);
}

static PyMethodDef functions[] = {
    {"stamp_append_time", stamp_append_time, METH_VARARGS,
     "Make (data, timestamp): all records of whole batches have this timestamp, the log's.\n\n"
     "A negative one gives the records' own back; the greatest stays as it is."},
    {NULL, NULL, 0, NULL},
};

int plog_add_producer_functions(PyObject *module)
{
    return PyModule_AddFunctions(module, functions);
}
