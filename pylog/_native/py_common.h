/* What all py_ files share: the module's state, argument conversion, the status table.
 *
 * Knows: Python objects.  Must not know: any algorithm.  Everything here needs the GIL.
 * A type finds the state with plog_state_of(self), a module function with PyModule_GetState.
 */
#ifndef PLOG_PY_COMMON_H
#define PLOG_PY_COMMON_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "base.h"

/* Releasing the GIL costs up to 5 ms when another thread is busy, so less work than this many
 * bytes keeps it.  64 KiB of CRC is about 3 microseconds. */
enum { PLOG_GIL_BYTES = 64 * 1024 };

/* Classes of pylog.errors, in the order of plog_error_names in py_common.c. */
typedef enum {
    PLOG_CLOSED_ERROR,
    PLOG_INVALID_RECORD_ERROR,
    PLOG_RECORD_TOO_LARGE_ERROR,
    PLOG_CORRUPTION_ERROR,
    PLOG_CORRUPT_RANGE_ERROR,
    PLOG_LOCK_TIMEOUT_ERROR,
    PLOG_INVALID_TIMESTAMP_ERROR,
    PLOG_ERROR_COUNT,
} plog_error;

typedef enum {
    PLOG_RECORD_TYPE,
    PLOG_RECORD_METADATA_TYPE,
    PLOG_RECORDS_TYPE,
    PLOG_RECORDS_ITERATOR_TYPE,
    PLOG_RECORDS_PIECE_TYPE,
    PLOG_SOURCE_TYPE,
    PLOG_SCANNER_TYPE,
    PLOG_MAPPING_TYPE,
    PLOG_DESCRIPTOR_TYPE,
    PLOG_EVENTS_TYPE,
    PLOG_MARKS_TYPE,
    PLOG_SHARED_PAGE_TYPE,
    PLOG_TAIL_TYPE,
    PLOG_READER_TYPE,
    PLOG_APPENDER_TYPE,
    PLOG_ROUTER_TYPE,
    PLOG_SENT_TYPE,
    PLOG_BATCH_BUILDER_TYPE,
    PLOG_COMMIT_QUEUE_TYPE,
    PLOG_COUNTERS_TYPE,
    PLOG_KEY_MAP_TYPE,
    PLOG_BATCH_FILTER_TYPE,
    PLOG_BLOCK_TYPE,
    PLOG_TYPE_COUNT,
} plog_type;

typedef struct {
    PyObject *errors[PLOG_ERROR_COUNT];   /* strong */
    PyTypeObject *types[PLOG_TYPE_COUNT]; /* strong */
    void *spare;                          /* owned: memory of a Block that is no more, or NULL */
    size_t spare_bytes;
    int64_t events_slice_ms; /* how long a wait for events sleeps before it looks again */
} plog_module_state;

/* All types here are final, so Py_TYPE(self) is the type that this module made. */
static inline plog_module_state *plog_state_of(PyObject *self)
{
    return (plog_module_state *)PyType_GetModuleState(Py_TYPE(self));
}

/* Create a type of this module and keep it in the state; public ones become module attributes. */
int plog_add_type(PyObject *module, PyType_Spec *spec, plog_type type, bool is_public);

/* Ends the dealloc of an object that the garbage collector does not track; a heap type's instance
 * owns a reference to its type.  A tracked type untracks first and frees with PyObject_GC_Del. */
static inline void plog_free_object(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_Free(self);
    Py_DECREF(type);
}

/* A method that takes more than (self, args), as a table of methods has it. */
#define PLOG_METHOD(function) (PyCFunction)(void (*)(void))(function)

/* ---- statuses -> exceptions.  Each returns NULL, so callers can return it. */

/* The one table.  SYSTEM takes errno; INTERRUPTED keeps the error of the signal handler. */
PyObject *plog_raise(const plog_module_state *state, plog_status status);
PyObject *plog_raise_too_large(const plog_module_state *state, size_t size, size_t limit);
PyObject *plog_raise_timestamp(const plog_module_state *state, int64_t timestamp, int64_t earliest,
                               int64_t latest);
/* A record without a key in a topic that is compacted. */
PyObject *plog_raise_no_key(const plog_module_state *state);
/* first and last are offsets, both damaged; the reason is plog_status_text(status). */
PyObject *plog_raise_corrupt_range(const plog_module_state *state, int64_t first, int64_t last,
                                   plog_status status);
/* A sentence part such as "the CRC does not match". */
const char *plog_status_text(plog_status status);

/* ---- arguments */

/* Bytes of an argument, readable until plog_bytes_release.  The argument itself must live as long:
 * those of a running call do. */
typedef struct {
    plog_bytes bytes;
    Py_buffer view; /* held when view.obj is not NULL: the argument was not an exact bytes */
} plog_held_bytes;

/* None becomes null (len -1).  TypeError names `what` and the type given. */
int plog_bytes_from_object(const plog_module_state *state, PyObject *object, const char *what,
                           plog_held_bytes *out);

static inline void plog_bytes_release(plog_held_bytes *held)
{
    if (held->view.obj != NULL) {
        PyBuffer_Release(&held->view);
    }
}

enum { PLOG_INLINE_HEADERS = 8 };

/* Record headers of an argument, readable until plog_headers_release. */
typedef struct {
    plog_bytes *pairs; /* inline_pairs or owned memory: key, value, key, value ... */
    int32_t count;     /* of pairs */
    PyObject *kept;    /* strong: what the pairs point into; NULL without headers */
    plog_bytes inline_pairs[2 * PLOG_INLINE_HEADERS];
} plog_held_headers;

/* None and NULL become no headers; else a sequence of (str, bytes or None). */
int plog_headers_from_object(const plog_module_state *state, PyObject *object,
                             plog_held_headers *out);
void plog_headers_release(plog_held_headers *held);

/* Set TypeError: "<what> must be <wanted>, not <type>". */
void plog_raise_type(PyObject *object, const char *what, const char *wanted);

/* An int of 64 bits; OverflowError beyond, TypeError for what is no int. */
int plog_int64_from_object(PyObject *object, const char *what, int64_t *out);

/* Sort positional and keyword arguments of a METH_FASTCALL | METH_KEYWORDS call into `out`, which
 * the caller has filled with NULL.  `names` lists `count` names; the first `required` must be
 * given, at most `positional` may be given without their name. */
typedef struct {
    const char *function;
    const char *const *names;
    Py_ssize_t count, required, positional;
} plog_signature;
int plog_parse_arguments(const plog_signature *signature, PyObject *const *arguments,
                         Py_ssize_t positional_count, PyObject *keyword_names, PyObject **out);

/* Whether a clock that was given to a type of this module is its system_clock, which need not be
 * called then. */
bool plog_is_system_clock(PyTypeObject *type, PyObject *clock);

/* Positions of a half-open range in `len` bytes; NULL start is 0, NULL or None end is len.
 * ValueError when it leaves them. */
int plog_range_from_objects(PyObject *start, PyObject *end, Py_ssize_t len, size_t *start_out,
                            size_t *end_out);

/* A new RecordMetadata; `topic` is an exact str and is kept. */
PyObject *plog_record_metadata_new(const plog_module_state *state, PyObject *topic,
                                   int32_t partition, int64_t offset, int64_t timestamp);

/* Append `item`, which is taken over, to a list; -1 with the error that made it NULL. */
static inline int plog_append_item(PyObject *list, PyObject *item)
{
    const int result = item == NULL ? -1 : PyList_Append(list, item);
    Py_XDECREF(item);
    return result;
}

/* ---- parts of the module; each adds its types, functions and constants */
int plog_add_record_types(PyObject *module);
int plog_add_records_types(PyObject *module);
int plog_add_block_type(PyObject *module);
int plog_add_encode_functions(PyObject *module);
int plog_add_compress_functions(PyObject *module);
int plog_add_batch_functions(PyObject *module);
int plog_add_scanner_type(PyObject *module);
int plog_add_page_types(PyObject *module);
int plog_add_tail_types(PyObject *module);
int plog_add_reader_type(PyObject *module);
int plog_add_appender_type(PyObject *module);
int plog_add_router_type(PyObject *module);
int plog_add_counters_type(PyObject *module);
int plog_add_builder_types(PyObject *module);
int plog_add_commit_queue_type(PyObject *module);
int plog_add_producer_functions(PyObject *module);
int plog_add_key_map_type(PyObject *module);
int plog_add_compact_type(PyObject *module);

#endif
