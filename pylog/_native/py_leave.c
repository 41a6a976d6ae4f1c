/* What Router.append_many could not place: encoded in chunks for Python to place. */
#include "py_many.h"

/* The records of a share that is left, and their rows. */
typedef struct {
    plog_record_in *records; /* owned, as are the rows */
    int32_t *rows;
    size_t count;
} leftover;

/* One chunk for Python to place: (partition, batches, rows as int32, greatest timestamp). */
static PyObject *encode_chunk(const plog_many *self, const plog_share *some, const leftover *rest,
                              size_t done, size_t *count)
{
    plog_record_in *records = rest->records + done;
    size_t size;
    plog_status status;
    *count = plog_batches_measure(records, rest->count - done, self->max_batch_bytes,
                                  self->max_chunk_bytes, &size);
    PyObject *data = PyByteArray_FromStringAndSize(NULL, (Py_ssize_t)size);
    if (data == NULL) {
        return NULL;
    }
    uint8_t *out = (uint8_t *)PyByteArray_AsString(data);
    if (size > PLOG_GIL_BYTES) {
        Py_BEGIN_ALLOW_THREADS status =
            plog_batches_encode(records, *count, self->max_batch_bytes, self->max_chunk_bytes,
                                self->attributes, out, size);
        Py_END_ALLOW_THREADS
    } else {
        status = plog_batches_encode(records, *count, self->max_batch_bytes, self->max_chunk_bytes,
                                     self->attributes, out, size);
    }
    if (status != PLOG_OK) {
        Py_DECREF(data);
        return plog_raise(self->rows.state, status);
    }
    int64_t latest = records[0].timestamp;
    for (size_t i = 1; i < *count; i++) {
        latest = records[i].timestamp > latest ? records[i].timestamp : latest;
    }
    return Py_BuildValue("(iNy#L)", (int)some->number, data, (const char *)(rest->rows + done),
                         (Py_ssize_t)(*count * sizeof *rest->rows), (long long)latest);
}

/* Encode what is left of a share in chunks that are each placed whole. */
static int encode_leftover(const plog_many *self, const plog_share *some, const leftover *rest,
                           PyObject *left)
{
    int result = 0;
    for (size_t done = 0, count = 0; done < rest->count && result == 0; done += count) {
        result = plog_append_item(left, encode_chunk(self, some, rest, done, &count));
    }
    return result;
}

/* The records of all shares that are left, one share after the other. */
static int collect_left(const plog_many *self, leftover *all)
{
    size_t count = 0;
    for (size_t i = 0; i < self->share_count; i++) {
        self->lanes[i].count = (uint32_t)count; /* where the share's next row goes */
        count += self->shares[i].is_placed ? 0 : self->shares[i].count;
    }
    all->count = count;
    all->records = PyMem_Malloc(count * sizeof *all->records);
    all->rows = PyMem_Malloc(count * sizeof *all->rows);
    if (all->records == NULL || all->rows == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    for (size_t row = 0; row < self->rows.count && count > 0; row++) {
        const int32_t at = self->share_of[self->numbers[row]];
        if (!self->shares[at].is_placed) {
            const uint32_t place = self->lanes[at].count++;
            all->records[place] = self->rows.records[row];
            all->rows[place] = (int32_t)row;
        }
    }
    return 0;
}

int plog_many_leave(const plog_many *self, PyObject *left)
{
    leftover all = {NULL, NULL, 0};
    int result = collect_left(self, &all);
    size_t first = 0;
    for (size_t i = 0; i < self->share_count && result == 0; i++) {
        const plog_share *some = &self->shares[i];
        if (!some->is_placed) {
            const leftover rest = {all.records + first, all.rows + first, some->count};
            result = encode_leftover(self, some, &rest, left);
            first += some->count;
        }
    }
    PyMem_Free(all.records);
    PyMem_Free(all.rows);
    return result;
}
