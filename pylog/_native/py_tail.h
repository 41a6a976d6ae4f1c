/* The Tail object, as its own files see it: py_tail.c, py_tail_rules.c and py_append.c. */
#ifndef PLOG_PY_TAIL_H
#define PLOG_PY_TAIL_H

#include "py_counters.h"
#include "py_page.h"
#include "tail.h"

/* The memory of one segment.  Freed with its last user: the tail, and calls without the GIL. */
typedef struct {
    Py_buffer window, index, timeindex;
    Py_ssize_t users;
    PyObject *log; /* strong: a Descriptor, or NULL */
} plog_attachment;

typedef struct {
    PyObject_HEAD const plog_module_state *state; /* borrowed: the type keeps the module */
    PyObject *page;                               /* strong: a SharedPage */
    PyObject *topic;                              /* strong: an exact str */
    PyObject *clock;                              /* strong; not called when it is system_clock */
    PyObject *log_events;                         /* strong: an Events, or NULL */
    PyObject *settings;                           /* strong: an Events, or NULL */
    plog_counters *counters;                      /* strong, or NULL */
    int32_t partition;
    bool is_system_clock;
    bool is_configured;
    plog_attachment *memory; /* owned; NULL when detached */
    plog_tail core;          /* borrows from page, log_events, settings and memory */
} plog_tail_object;

/* A tail that batches can be placed through without the GIL, whatever other threads detach or
 * release meanwhile. */
typedef struct {
    plog_tail core;
    plog_tail_object *tail;  /* strong */
    plog_attachment *memory; /* a user of it; NULL when detached */
} plog_held_tail;

/* False, with an error, when the page is released. */
bool plog_tail_hold(plog_tail_object *self, plog_held_tail *out);
void plog_tail_let_go(plog_held_tail *held);

/* Place batches; waits for the lock without the GIL.  INTERRUPTED: a Python error is set, and
 * nothing was placed.  now: by the clock, in ms. */
plog_status plog_tail_place_object(plog_tail_object *self, plog_memory data,
                                   int64_t expected_offset, int64_t now, plog_placed *placed);

/* The clock's time in ms, not negative; -1 with an error. */
int plog_tail_read_clock(plog_tail_object *self, int64_t *now);

/* The result of what did not come to PLOG_OK: a status for the caller to act on, or an error. */
PyObject *plog_tail_not_placed(plog_tail_object *self, plog_status status);

/* The method configure. */
PyObject *plog_tail_configure(PyObject *object, PyObject *const *args, Py_ssize_t count,
                              PyObject *keyword_names);

/* The method append. */
PyObject *plog_tail_append(PyObject *object, PyObject *const *args, Py_ssize_t count,
                           PyObject *keyword_names);

#endif
