/* The objects that records are made of, shared by the files that make and iterate them. */
#ifndef PLOG_PY_RECORD_H
#define PLOG_PY_RECORD_H

#include "py_common.h"
#include "record.h"

/* Memory that records point into, and what they have in common.  Invisible to Python. */
typedef struct {
    PyObject_HEAD Py_buffer view; /* held as long as one record lives */
    PyObject *topic;              /* strong: an exact str */
    int32_t partition;
} plog_source;

/* A new source over `data`, any buffer. */
plog_source *plog_source_new(const plog_module_state *state, PyObject *data, PyObject *topic,
                             int32_t partition);

static inline plog_source *plog_source_share(plog_source *source)
{
    Py_INCREF((PyObject *)source);
    return source;
}

/* NULL is allowed. */
static inline void plog_source_release(plog_source *source)
{
    Py_XDECREF((PyObject *)source);
}

/* A new Record that points into `source`. */
PyObject *plog_record_new(const plog_module_state *state, plog_source *source,
                          const plog_batch_header *header, const plog_record_view *view);

#endif
