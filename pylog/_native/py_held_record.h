/* One record as a call's arguments have it, until it is encoded.  Everything here needs the GIL. */
#ifndef PLOG_PY_HELD_RECORD_H
#define PLOG_PY_HELD_RECORD_H

#include "batch.h"
#include "py_common.h"

/* A record whose parts are borrowed from arguments, until plog_record_let_go. */
typedef struct {
    plog_held_bytes value, key;
    plog_held_headers headers;
    plog_record_in record;
} plog_held_record;

static inline void plog_record_let_go(plog_held_record *held)
{
    plog_headers_release(&held->headers);
    plog_bytes_release(&held->key);
    plog_bytes_release(&held->value);
}

/* key and headers may be None or NULL.  -1 with an error, and nothing is held. */
static inline int plog_record_hold(const plog_module_state *state, PyObject *value, PyObject *key,
                                   PyObject *headers, plog_held_record *held)
{
    held->value.view.obj = NULL;
    held->key.view.obj = NULL;
    held->headers.pairs = held->headers.inline_pairs; /* whose bytes are not worth clearing */
    held->headers.count = 0;
    held->headers.kept = NULL;
    if (plog_bytes_from_object(state, value, "value", &held->value) < 0 ||
        plog_bytes_from_object(state, key == NULL ? Py_None : key, "key", &held->key) < 0 ||
        plog_headers_from_object(state, headers, &held->headers) < 0) {
        plog_record_let_go(held);
        return -1;
    }
    held->record = (plog_record_in){.key = held->key.bytes,
                                    .value = held->value.bytes,
                                    .headers = held->headers.pairs,
                                    .header_count = held->headers.count};
    return 0;
}

#endif
