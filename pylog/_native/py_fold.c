/* Records.fold(): the latest value of each key, straight from the batches into a dict.
 *
 * Knows: a record with a null value takes its key away, one without a key says nothing of any.
 * Makes two bytes objects a record and nothing else, so the GIL is held: as for the read itself,
 * what is folded at once is bounded by who reads.
 */
#include "py_records.h"

typedef struct {
    PyObject *mapping;        /* borrowed: an exact dict */
    plog_source *source;      /* strong: of the last batch that held a record */
    plog_batch_header header; /* of that batch */
    plog_record_view last;    /* the last record; valid while `source` is held */
    Py_ssize_t record_count, skipped_count;
    bool keeps_nulls;
} fold_state;

static PyObject *bytes_of(const plog_bytes *field)
{
    return PyBytes_FromStringAndSize((const char *)field->data, field->len);
}

/* 0, or -1 with an error.  A key that is not there cannot be taken away, which is no error. */
static int remove_key(PyObject *mapping, PyObject *key)
{
    if (PyDict_GetItemWithError(mapping, key) == NULL) {
        return PyErr_Occurred() ? -1 : 0;
    }
    return PyDict_DelItem(mapping, key);
}

static int fold_record(fold_state *state, const plog_record_view *view)
{
    int result = -1;
    PyObject *key = NULL;   /* strong */
    PyObject *value = NULL; /* strong */
    if (view->key.len < 0) {
        state->skipped_count++;
        return 0;
    }
    key = bytes_of(&view->key);
    if (key == NULL) {
        return -1;
    }
    if (view->value.len >= 0) {
        value = bytes_of(&view->value);
        result = value == NULL ? -1 : PyDict_SetItem(state->mapping, key, value);
    } else if (state->keeps_nulls) {
        result = PyDict_SetItem(state->mapping, key, Py_None);
    } else {
        result = remove_key(state->mapping, key);
    }
    Py_DECREF(key);
    Py_XDECREF(value);
    return result;
}

static int fold_batch(fold_state *state, const plog_records *records, const plog_batch_walk *walk)
{
    const uint8_t *bytes;
    size_t len;
    plog_record_cursor cursor;
    plog_record_view view;
    plog_status status;
    bool holds_any = false;
    int result = 0;
    plog_source *source = plog_batch_records(records, walk, &bytes, &len); /* strong */
    if (source == NULL) {
        return -1;
    }
    plog_record_cursor_begin(&cursor, &walk->header, bytes, len);
    while (result == 0 && (status = plog_record_next(&cursor, &view)) != PLOG_END) {
        if (status != PLOG_OK) {
            result = plog_raise_bad_batch(records, walk, status);
        } else if (view.offset >= records->first_offset && view.offset < records->end_offset) {
            result = fold_record(state, &view);
            state->last = view;
            state->record_count++;
            holds_any = true;
        }
    }
    if (holds_any) {
        plog_source_release(state->source);
        state->source = plog_source_share(source);
        state->header = walk->header;
    }
    plog_source_release(source);
    return result;
}

PyObject *plog_records_fold(PyObject *object, PyObject *args)
{
    const plog_records *self = (const plog_records *)object;
    fold_state state = {0};
    PyObject *last = NULL;   /* strong */
    PyObject *result = NULL; /* strong */
    plog_batch_walk walk;
    int keeps_nulls, step;
    if (!PyArg_ParseTuple(args, "Op:fold", &state.mapping, &keeps_nulls)) {
        return NULL;
    }
    if (!PyDict_CheckExact(state.mapping)) {
        plog_raise_type(state.mapping, "mapping", "a dict");
        return NULL;
    }
    state.keeps_nulls = keeps_nulls != 0;
    plog_batch_walk_begin(&walk, self);
    while ((step = plog_batch_walk_next(&walk, self)) > 0) {
        if (fold_batch(&state, self, &walk) < 0) {
            goto done;
        }
    }
    if (step < 0) {
        goto done;
    }
    last = state.source == NULL
               ? Py_NewRef(Py_None)
               : plog_record_new(plog_state_of(object), state.source, &state.header, &state.last);
    if (last != NULL) {
        result = Py_BuildValue("nnO", state.record_count, state.skipped_count, last);
    }
done:
    Py_XDECREF(last);
    plog_source_release(state.source);
    return result;
}
