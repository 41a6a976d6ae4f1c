/* What the py_ files of the shared memory types show each other.  Everything here needs the GIL. */
#ifndef PLOG_PY_PAGE_H
#define PLOG_PY_PAGE_H

#include "py_common.h"
#include "shared_page.h"

/* Waits are cut into slices, between which Python's signal handlers run.  A signal ends the wait
 * for an event at once, the slice only covers one that arrives just before; the wait for a lock
 * does not end at a signal, so its slice is how long Ctrl-C can take.  Guessed. */
enum { PLOG_LOCK_SLICE_MS = 50, PLOG_EVENTS_SLICE_MS = 500 };

/* A point of plog_monotonic_ns from seconds or None (INT64_MAX).  ValueError for NaN. */
int plog_deadline_from_object(PyObject *timeout, int64_t *deadline_ns);
/* The end of a slice that begins now, or the deadline when that is earlier. */
int64_t plog_slice_end(int64_t deadline_ns, int64_t slice_ms);

/* Get a writable contiguous buffer; `what` begins the message of the TypeError. */
int plog_writable_buffer(PyObject *object, const char *what, Py_buffer *view);

/* The counter of an Events object, which lives as long as the object. */
plog_events *plog_events_of(PyObject *events);
PyObject *plog_events_new(PyTypeObject *type, PyObject *memory, Py_ssize_t position);

/* The page of a SharedPage, whether it may be used or not; lives as long as the object. */
plog_page *plog_page_of(PyObject *shared_page);
/* The same, or NULL with an error when it is released or not initialized.  It stays mapped while
 * the GIL is kept, and between plog_page_keep and plog_page_drop also without it. */
plog_page *plog_page_borrow(PyObject *shared_page);
void plog_page_keep(PyObject *shared_page);
void plog_page_drop(PyObject *shared_page);
/* Whether this thread took the lock with lock(); sets RuntimeError when not. */
bool plog_page_is_held(PyObject *shared_page);
/* Raise what a failed plog_page_lock means: TIMED_OUT or SYSTEM.  Returns NULL. */
PyObject *plog_page_raise_lock(PyObject *shared_page, plog_status status);

PyObject *plog_marks_new(const plog_module_state *state, const plog_marks *marks);
/* Apply the keyword arguments of a METH_FASTCALL call.  TypeError for a name that is no mark. */
int plog_marks_apply(plog_marks *marks, PyObject *const *values, PyObject *names);

/* The file that a Descriptor owns. */
int plog_descriptor_fd(PyObject *descriptor);

/* ---- parts of plog_add_page_types */
int plog_add_marks_type(PyObject *module);
int plog_add_mapping_type(PyObject *module);
int plog_add_descriptor_type(PyObject *module);
int plog_add_events_type(PyObject *module);

#endif
