/* Counters: what this process appended to a partition, read from it and synced. */
#ifndef PLOG_PY_COUNTERS_H
#define PLOG_PY_COUNTERS_H

#include "py_common.h"

typedef struct {
    PyObject_HEAD int64_t appended_records, appended_bytes;
    int64_t read_records, read_bytes;
    int64_t syncs;
    double sync_seconds, last_sync_seconds;
} plog_counters;

/* A new reference to the Counters `object`, or NULL: without an error for None, else with one. */
plog_counters *plog_counters_from_object(const plog_module_state *state, PyObject *object);

/* Both need the GIL, and do nothing without counters. */
void plog_count_appended(plog_counters *counters, int64_t records, size_t bytes);
void plog_count_read(plog_counters *counters, int64_t records, size_t bytes);

#endif
