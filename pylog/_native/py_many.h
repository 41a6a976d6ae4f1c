/* One call of Router.append_many, as its two files see it: py_append_many.c and py_leave.c. */
#ifndef PLOG_PY_MANY_H
#define PLOG_PY_MANY_H

#include "py_router.h"
#include "py_rows.h"
#include "py_tail.h"

/* What one partition gets. */
typedef struct {
    plog_held_tail held;
    int64_t now; /* by the clock, when the tail was held */
    bool is_held, is_placed, is_busy;
    int32_t number;
    uint32_t count;
    size_t size;    /* of one batch that holds all its records */
    uint8_t *batch; /* borrowed from `staging`; NULL when it is left to Python */
    plog_placed placed;
} plog_share;

/* Where the next record of a share goes; apart from the rest, for every record needs one. */
typedef struct {
    uint8_t *end; /* of what was written */
    int64_t base_timestamp, max_timestamp;
    uint32_t count;
} plog_lane;

typedef struct {
    plog_router_object *router; /* borrowed */
    int32_t partitions_count;
    plog_rows rows;
    size_t max_batch_bytes, max_chunk_bytes;
    int16_t attributes; /* of the batches */
    size_t large_bytes; /* batches of this size and more are not placed here */
    int32_t *numbers;   /* borrowed from `partitions`: of each row */
    int64_t *offsets;   /* borrowed from `offsets_array`: of each row, -1 when not placed here */
    int32_t *share_of;  /* owned, as are the next ones: by partition, -1 for none */
    plog_share *shares; /* by the first record of each partition */
    plog_lane *lanes;   /* one a share */
    uint8_t *staging;   /* the batches that are placed here, one after the other */
    size_t share_count, share_capacity, staging_bytes;
    PyObject *partitions;    /* strong: a bytearray, as the next one */
    PyObject *offsets_array; /* strong */
} plog_many;

/* Fill the list `left` with (partition, batches, rows as int32, greatest timestamp), one item for
 * each chunk of the shares that were not placed.  Needs the GIL, and releases it for large ones. */
int plog_many_leave(const plog_many *self, PyObject *left);

#endif
