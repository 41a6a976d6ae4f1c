/* The Router object, as its own files see it: py_router.c and py_append_many.c. */
#ifndef PLOG_PY_ROUTER_H
#define PLOG_PY_ROUTER_H

#include "py_common.h"

typedef struct {
    PyObject_HEAD PyObject *appenders; /* strong: a list, one per partition, None until resolved */
    PyObject
        *resolve; /* strong: partition number -> Appender; raises for one that does not exist */
    PyObject *count_now;    /* strong: returns the number of partitions, or NULL */
    PyObject *settings;     /* strong: an Events that counts changes of it, or NULL */
    uint32_t settings_seen; /* the count that `count` is as new as */
    Py_ssize_t count;
    int32_t *share_of; /* owned: `share_count` times -1 for append_many; NULL while it is in use */
    Py_ssize_t share_count;
    int64_t sticky_bytes; /* after so many bytes without a key the next partition is taken */
    int64_t sticky_so_far;
    Py_ssize_t sticky;
} plog_router_object;

/* Count bytes without a key; returns the partition that the next ones go to.
 * Source: KIP-480, KIP-794. */
Py_ssize_t plog_router_stick(plog_router_object *self, int64_t bytes);

/* Make room for partitions that were added, whoever did it; -1 with an error. */
int plog_router_see_added(plog_router_object *self);

/* The Appender of a partition (borrowed from the list), made when first asked for.  NULL with the
 * error that `resolve` raises, as it does for a partition that does not exist. */
PyObject *plog_router_appender(plog_router_object *self, int64_t number);

/* The method append_many. */
PyObject *plog_router_append_many(PyObject *object, PyObject *args, PyObject *keywords);

#endif
