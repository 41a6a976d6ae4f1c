/* The module object: its state, its constants, and the order in which its parts are added. */

#include "batch.h"
#include "crc32c.h"
#include "py_common.h"

static int add_status_constants(PyObject *module)
{
    static const struct {
        const char *name;
        plog_status status;
    } constants[] = {
        {"NO_ROOM", PLOG_NO_ROOM},       {"STALE", PLOG_STALE},
        {"NOT_OPEN", PLOG_NOT_OPEN},     {"END", PLOG_END},
        {"INCOMPLETE", PLOG_INCOMPLETE}, {"ZEROS", PLOG_ZEROS},
        {"BAD_LENGTH", PLOG_BAD_LENGTH}, {"BAD_MAGIC", PLOG_BAD_MAGIC},
        {"BAD_CRC", PLOG_BAD_CRC},       {"BAD_OFFSET", PLOG_BAD_OFFSET},
        {"BAD_COUNT", PLOG_BAD_COUNT},   {"LIMIT", PLOG_LIMIT},
    };
    for (size_t i = 0; i < sizeof constants / sizeof constants[0]; i++) {
        if (PyModule_AddIntConstant(module, constants[i].name, constants[i].status) < 0) {
            return -1;
        }
    }
    if (PyModule_AddIntConstant(module, "BATCH_HEADER_BYTES", PLOG_BATCH_HEADER_BYTES) < 0) {
        return -1;
    }
    const size_t best = plog_crc32c_way_count() - 1;
    return PyModule_AddStringConstant(module, "CRC_BACKEND", plog_crc32c_way_name(best));
}

static int import_errors(plog_module_state *state)
{
    static const char *const names[PLOG_ERROR_COUNT] = {
        [PLOG_CLOSED_ERROR] = "ClosedError",
        [PLOG_INVALID_RECORD_ERROR] = "InvalidRecordError",
        [PLOG_RECORD_TOO_LARGE_ERROR] = "RecordTooLargeError",
        [PLOG_CORRUPTION_ERROR] = "CorruptionError",
        [PLOG_CORRUPT_RANGE_ERROR] = "CorruptRangeError",
        [PLOG_LOCK_TIMEOUT_ERROR] = "LockTimeoutError",
        [PLOG_INVALID_TIMESTAMP_ERROR] = "InvalidTimestampError",
    };
    PyObject *errors = PyImport_ImportModule("pylog.errors"); /* strong */
    if (errors == NULL) {
        return -1;
    }
    int result = 0;
    for (int i = 0; i < PLOG_ERROR_COUNT && result == 0; i++) {
        state->errors[i] = PyObject_GetAttrString(errors, names[i]);
        result = state->errors[i] == NULL ? -1 : 0;
    }
    Py_DECREF(errors);
    return result;
}

static int execute(PyObject *module)
{
    plog_crc32c_initialize();
    if (import_errors((plog_module_state *)PyModule_GetState(module)) < 0) {
        return -1;
    }
    int (*const parts[])(PyObject *) = {
        add_status_constants,       plog_add_record_types,       plog_add_records_types,
        plog_add_block_type,        plog_add_encode_functions,   plog_add_compress_functions,
        plog_add_batch_functions,   plog_add_scanner_type,       plog_add_page_types,
        plog_add_tail_types,        plog_add_reader_type,        plog_add_appender_type,
        plog_add_router_type,       plog_add_counters_type,      plog_add_builder_types,
        plog_add_commit_queue_type, plog_add_producer_functions, plog_add_key_map_type,
        plog_add_compact_type,
    };
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        if (parts[i](module) < 0) {
            return -1;
        }
    }
    return 0;
}

static int traverse(PyObject *module, visitproc visit, void *arg)
{
    plog_module_state *state = (plog_module_state *)PyModule_GetState(module);
    for (int i = 0; i < PLOG_ERROR_COUNT; i++) {
        Py_VISIT(state->errors[i]);
    }
    for (int i = 0; i < PLOG_TYPE_COUNT; i++) {
        Py_VISIT(state->types[i]);
    }
    return 0;
}

static int clear(PyObject *module)
{
    plog_module_state *state = (plog_module_state *)PyModule_GetState(module);
    for (int i = 0; i < PLOG_ERROR_COUNT; i++) {
        Py_CLEAR(state->errors[i]);
    }
    for (int i = 0; i < PLOG_TYPE_COUNT; i++) {
        Py_CLEAR(state->types[i]);
    }
    return 0;
}

static void release(void *module)
{
    plog_module_state *state = (plog_module_state *)PyModule_GetState((PyObject *)module);
    clear((PyObject *)module);
    PyMem_Free(state->spare);
    state->spare = NULL;
}

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, (void *)execute},
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "pylog._native",
    .m_doc = "The C core of pylog: batches, indexes and shared memory.  Its types: _native.pyi.",
    .m_size = sizeof(plog_module_state),
    .m_slots = slots,
    .m_traverse = traverse,
    .m_clear = clear,
    .m_free = release,
};

PyMODINIT_FUNC PyInit__native(void)
{
    return PyModuleDef_Init(&definition);
}
