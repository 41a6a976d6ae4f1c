/* Records, shared by the file that iterates it and the file that turns it into columns. */
#ifndef PLOG_PY_RECORDS_H
#define PLOG_PY_RECORDS_H

#include "py_record.h"
#include "scan.h"

typedef struct {
    PyObject_HEAD plog_source *source; /* strong */
    PyObject *data;                    /* strong: what source->view is of */
    PyObject *decompress;              /* strong: a callable, or NULL */
    size_t start, end;                 /* positions of whole batches in source->view */
    int64_t first_offset, end_offset, next_offset;
    int64_t end_position; /* in the file, where the batch after these begins; -1: unknown */
    bool includes_control;
} plog_records;

/* A walk over the batches of a Records that hold offsets of its range. */
typedef struct {
    size_t position;         /* of the next batch to be looked at */
    size_t current;          /* position of the batch in `header` */
    int64_t expected_offset; /* where a batch that cannot be parsed would have begun */
    plog_batch_header header;
} plog_batch_walk;

void plog_batch_walk_begin(plog_batch_walk *walk, const plog_records *records);

/* 1: walk->header is the next batch; 0: there are no more; -1: CorruptRangeError is set, and the
 * walk is at its end, because behind a bad header no batch can be found. */
int plog_batch_walk_next(plog_batch_walk *walk, const plog_records *records);

/* The uncompressed records of the walk's batch, as a new source; for a batch without compression
 * that is the source of `records`.  `out` receives where they lie. */
plog_source *plog_batch_records(const plog_records *records, const plog_batch_walk *walk,
                                const uint8_t **out, size_t *len);

/* Set CorruptRangeError for the walk's batch; returns -1. */
int plog_raise_bad_batch(const plog_records *records, const plog_batch_walk *walk,
                         plog_status status);

/* Records over batches that plog_check_batches took from `data`, for offsets in [first_offset,
 * end_offset). */
PyObject *plog_records_new_checked(const plog_module_state *state, PyObject *data, PyObject *topic,
                                   int32_t partition, PyObject *decompress,
                                   const plog_check_result *found, int64_t first_offset,
                                   int64_t end_offset, int64_t end_position);

/* Records.__iter__(): a new RecordsIterator. */
PyObject *plog_records_iter(PyObject *records);

PyObject *plog_records_iterator_next(PyObject *iterator);

int plog_add_records_iterator_type(PyObject *module);

enum { PLOG_MAX_PIECE_SECONDS = 3600 };

/* RecordsIterator.piece(seconds). */
PyObject *plog_records_piece_new(PyObject *records, PyObject *seconds);

int plog_add_records_piece_type(PyObject *module);

/* Records.columns(). */
PyObject *plog_records_columns(PyObject *self, PyObject *unused);

/* Records.fold(mapping, keeps_nulls). */
PyObject *plog_records_fold(PyObject *self, PyObject *args);

/* Records.find_timestamp(timestamp, minimum_offset). */
PyObject *plog_records_find_timestamp(PyObject *self, PyObject *args);

/* Records.producers(). */
PyObject *plog_records_producers(PyObject *self, PyObject *unused);

/* Records.first_max_timestamp. */
PyObject *plog_records_first_max_timestamp(PyObject *self, void *closure);

#endif
