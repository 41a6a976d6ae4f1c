/* Block: memory for the columns of one read, as a Python buffer. */
#ifndef PLOG_PY_BLOCK_H
#define PLOG_PY_BLOCK_H

#include "py_common.h"

/* A new Block of at least `bytes` bytes, not cleared; *memory lives as long as the object. */
PyObject *plog_block_new(plog_module_state *state, size_t bytes, uint8_t **memory);

#endif
