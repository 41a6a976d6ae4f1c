/* KeyMap, shared by the file that fills it and the file that filters by it. */
#ifndef PLOG_PY_KEY_MAP_H
#define PLOG_PY_KEY_MAP_H

#include "py_common.h"

#include "compact.h"

typedef struct {
    PyObject_HEAD plog_collector collector; /* owns the memory of its map's slots */
    PyObject *decompress;                   /* strong: a callable, or NULL */
    size_t max_slots;
    unsigned doublings;   /* that are left: there are max_slots >> doublings slots now */
    int64_t first_offset; /* from here on to next_offset all records were taken in */
    uint8_t *marks;       /* owned: of [first_offset, marks_end), see plog_filter; NULL: none yet */
    int64_t marks_end;
    bool is_full, is_busy;
} plog_py_key_map;

/* The map to use with the GIL released, or NULL with RuntimeError: another thread does.  Every
 * success is followed by plog_key_map_give_back. */
plog_py_key_map *plog_key_map_take(PyObject *object);

static inline void plog_key_map_give_back(plog_py_key_map *map)
{
    map->is_busy = false;
}

/* The marks of all that was taken in, for as long as nothing more is; NULL: they would take more
 * than an eighth of the map's memory.  The map is taken. */
const uint8_t *plog_key_map_marks(plog_py_key_map *map);

/* Decompress the payload of the batch at `position` of `data`, the object that `batch` lies in.
 * A bytes-like object, strong, whose bytes are in `view` until it is released; NULL with an error.
 */
PyObject *plog_decompressed(const plog_module_state *state, PyObject *decompress, PyObject *data,
                            size_t position, const plog_batch_header *header, Py_buffer *view);

/* Set CorruptRangeError for the batch at `data`, of which the first `len` bytes are there; what no
 * header can be read of begins at `next_offset`. */
void plog_raise_damaged(const plog_module_state *state, const uint8_t *data, size_t len,
                        int64_t next_offset, plog_status status);

#endif
