/* Records.find_timestamp(): the first record that is late enough, found by the batches' headers.
 *
 * Knows: a batch's greatest timestamp bounds those of its records, so most batches are passed by
 * their header alone, and nothing that is too early is decompressed.
 */
#include "py_records.h"

/* The first record of the walk's batch at or after `minimum_offset` with a timestamp of at least
 * `timestamp`: a Record, None, or NULL with an error. */
static PyObject *find_in_batch(const plog_records *self, const plog_batch_walk *walk,
                               int64_t timestamp, int64_t minimum_offset)
{
    const uint8_t *bytes;
    size_t len;
    PyObject *found = NULL;
    plog_record_cursor cursor;
    plog_record_view view;
    plog_status status;
    plog_source *source = plog_batch_records(self, walk, &bytes, &len); /* strong */
    if (source == NULL) {
        return NULL;
    }
    plog_record_cursor_begin(&cursor, &walk->header, bytes, len);
    while ((status = plog_record_next(&cursor, &view)) == PLOG_OK &&
           view.offset < self->end_offset) {
        if (view.offset >= minimum_offset && view.timestamp >= timestamp) {
            found = plog_record_new(plog_state_of((PyObject *)self), source, &walk->header, &view);
            goto done;
        }
    }
    if (status == PLOG_OK || status == PLOG_END) {
        found = Py_NewRef(Py_None);
    } else {
        plog_raise_bad_batch(self, walk, status);
    }
done:
    plog_source_release(source);
    return found;
}

PyObject *plog_records_find_timestamp(PyObject *object, PyObject *args)
{
    const plog_records *self = (const plog_records *)object;
    long long timestamp, minimum_offset;
    plog_batch_walk walk;
    int step;
    if (!PyArg_ParseTuple(args, "LL:find_timestamp", &timestamp, &minimum_offset)) {
        return NULL;
    }
    plog_batch_walk_begin(&walk, self);
    while ((step = plog_batch_walk_next(&walk, self)) > 0) {
        if (walk.header.max_timestamp >= timestamp) {
            PyObject *found = find_in_batch(self, &walk, timestamp, minimum_offset);
            if (found != Py_None) {
                return found;
            }
            Py_DECREF(found);
        }
    }
    if (step < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

PyObject *plog_records_first_max_timestamp(PyObject *object, void *closure)
{
    (void)closure;
    const plog_records *self = (const plog_records *)object;
    plog_batch_walk walk;
    plog_batch_walk_begin(&walk, self);
    const int step = plog_batch_walk_next(&walk, self);
    if (step < 0) {
        return NULL;
    }
    if (step == 0) {
        Py_RETURN_NONE;
    }
    return PyLong_FromLongLong(walk.header.max_timestamp);
}
