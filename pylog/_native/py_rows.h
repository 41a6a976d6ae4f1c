/* Records taken out of Python's parallel sequences, with everything kept that they point into.
 *
 * So the sequences may change and the GIL may be released until plog_rows_release.  Everything here
 * needs the GIL.
 */
#ifndef PLOG_PY_ROWS_H
#define PLOG_PY_ROWS_H

#include "py_common.h"
#include "record.h"

/* One record's objects. */
typedef struct {
    PyObject *key, *value;      /* strong or NULL: exact bytes */
    plog_held_headers *headers; /* owned or NULL */
} plog_kept_row;

/* All zeros but `state`, `limit` and `needs_key` before plog_rows_begin. */
typedef struct {
    const plog_module_state *state;
    size_t limit; /* bytes of a batch, as RecordTooLargeError names it */
    PyObject *values, *keys, *headers, *timestamps; /* borrowed; NULL when None */
    int64_t timestamp;                              /* of all, when timestamps is NULL */
    plog_time_range allowed;                        /* timestamps */
    bool needs_key;                                 /* of every record */
    Py_ssize_t len;                                 /* of each sequence */
    plog_record_in *records;                        /* owned, as is the next one */
    plog_kept_row *kept;
    size_t count, capacity;
} plog_rows;

/* Begin with arguments as `encode` has them: keys and headers may be None, timestamps one int for
 * all.  TypeError, OverflowError; ValueError when their lengths differ. */
int plog_rows_begin(plog_rows *self, PyObject *values, PyObject *keys, PyObject *headers,
                    PyObject *timestamps, plog_time_range allowed);

/* Make room for `count` records at once; -1 without memory, and no error. */
int plog_rows_reserve(plog_rows *self, size_t count);

/* Append record number `index` of the sequences to self->records.  TypeError, OverflowError,
 * InvalidRecordError, InvalidTimestampError, RecordTooLargeError for a part of 2 GiB and more, and
 * what they raise. */
int plog_rows_take(plog_rows *self, Py_ssize_t index);

/* Frees what was taken; may be called at any time after plog_rows_begin, once. */
void plog_rows_release(plog_rows *self);

#endif
