/* The Appender object, as the Router sees it.  Everything here needs the GIL. */
#ifndef PLOG_PY_APPENDER_H
#define PLOG_PY_APPENDER_H

#include "py_common.h"

/* The method append. */
PyObject *plog_appender_append(PyObject *object, PyObject *const *args, Py_ssize_t count,
                               PyObject *keyword_names);

/* The Tail in use, borrowed; NULL while the partition's files are closed. */
PyObject *plog_appender_tail(PyObject *object);

#endif
