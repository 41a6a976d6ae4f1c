/* Records.columns(): all records of a range as arrays, in one pass.
 *
 * Positions count from the start of the data that is returned with them: the buffer as it was
 * given, or, as soon as one batch is compressed, new bytes in which all payloads stand in a row.
 */
#include "py_block.h"
#include "py_records.h"

/* One batch of the range. */
typedef struct {
    plog_batch_walk walk;   /* its header, and its place for an error */
    plog_source *source;    /* strong */
    const uint8_t *records; /* borrowed: of source, later of the joined bytes */
    size_t len;
} part;

typedef struct {
    part *parts; /* owned */
    size_t count, capacity, rows;
    bool is_joined;
} part_list;

static void free_parts(part_list *list)
{
    for (size_t i = 0; i < list->count; i++) {
        plog_source_release(list->parts[i].source);
    }
    PyMem_Free(list->parts);
}

static int add_part(part_list *list, const plog_records *records, const plog_batch_walk *walk)
{
    if (list->count == list->capacity) {
        size_t capacity = list->capacity == 0 ? 16 : 2 * list->capacity;
        part *parts = PyMem_Realloc(list->parts, capacity * sizeof *parts);
        if (parts == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        list->parts = parts;
        list->capacity = capacity;
    }
    part *added = &list->parts[list->count];
    added->walk = *walk;
    added->source = plog_batch_records(records, walk, &added->records, &added->len);
    if (added->source == NULL) {
        return -1;
    }
    list->count++;
    /* A compressed batch may claim any count; its records cannot be shorter than this. */
    if ((size_t)walk->header.count > added->len / PLOG_RECORD_MIN_BYTES) {
        return plog_raise_bad_batch(records, walk, PLOG_BAD_COUNT);
    }
    list->rows += (size_t)walk->header.count;
    list->is_joined |= added->source != records->source;
    return 0;
}

static int collect_parts(part_list *list, const plog_records *records)
{
    plog_batch_walk walk;
    int step;
    plog_batch_walk_begin(&walk, records);
    while ((step = plog_batch_walk_next(&walk, records)) > 0) {
        if (add_part(list, records, &walk) < 0) {
            return -1;
        }
    }
    return step;
}

/* Copy all payloads into new bytes and let the parts point there. */
static PyObject *join_parts(part_list *list)
{
    size_t total = 0;
    for (size_t i = 0; i < list->count; i++) {
        total += list->parts[i].len;
    }
    PyObject *joined = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)total);
    uint8_t *next = joined == NULL ? NULL : (uint8_t *)PyBytes_AsString(joined);
    for (size_t i = 0; i < list->count && joined != NULL; i++) {
        part *moved = &list->parts[i];
        if (moved->len > 0) {
            memcpy(next, moved->records, moved->len);
        }
        moved->records = next;
        next += moved->len;
        Py_CLEAR(moved->source);
    }
    return joined;
}

enum { COLUMN_COUNT = 6 };
static const size_t column_bytes[COLUMN_COUNT] = {8, 8, 8, 4, 8, 4};

/* Where a column begins in a block for so many rows: those of 8 bytes come first. */
static size_t column_position(int column, size_t rows)
{
    static const size_t bytes_before[COLUMN_COUNT] = {0, 8, 16, 32, 24, 36};
    return bytes_before[column] * rows;
}

static PyObject *make_block(plog_module_state *state, size_t rows, plog_columns *columns)
{
    uint8_t *memory = NULL;
    PyObject *block = plog_block_new(state, rows * 40, &memory);
    if (block == NULL) {
        return NULL;
    }
    *columns = (plog_columns){
        .offsets = (void *)(memory + column_position(0, rows)),
        .timestamps = (void *)(memory + column_position(1, rows)),
        .key_positions = (void *)(memory + column_position(2, rows)),
        .key_lengths = (void *)(memory + column_position(3, rows)),
        .value_positions = (void *)(memory + column_position(4, rows)),
        .value_lengths = (void *)(memory + column_position(5, rows)),
        .capacity = rows,
    };
    return block;
}

/* (six columns as memoryviews of the block, data) */
static PyObject *make_result(PyObject *block, const plog_columns *columns, PyObject *data)
{
    PyObject *whole = PyMemoryView_FromObject(block);                        /* strong */
    PyObject *result = whole == NULL ? NULL : PyTuple_New(COLUMN_COUNT + 1); /* strong */
    for (int i = 0; i < COLUMN_COUNT && result != NULL; i++) {
        const size_t start = column_position(i, columns->capacity);
        const size_t end = start + columns->count * column_bytes[i];
        PyObject *column = PySequence_GetSlice(whole, (Py_ssize_t)start, (Py_ssize_t)end);
        if (column == NULL || PyTuple_SetItem(result, i, column) < 0) {
            Py_CLEAR(result);
        }
    }
    if (result != NULL && PyTuple_SetItem(result, COLUMN_COUNT, Py_NewRef(data)) < 0) {
        Py_CLEAR(result);
    }
    Py_XDECREF(whole);
    return result;
}

/* Needs no GIL.  Returns the index of the part that broke the format, or the count of parts. */
static size_t fill(plog_columns *columns, const part_list *list, const plog_records *records,
                   const uint8_t *origin, plog_status *status)
{
    for (size_t i = 0; i < list->count; i++) {
        const part *next = &list->parts[i];
        plog_record_cursor cursor;
        plog_record_cursor_begin(&cursor, &next->walk.header, next->records, next->len);
        *status = plog_columns_append(columns, &cursor, origin, records->first_offset,
                                      records->end_offset);
        if (*status != PLOG_OK) {
            return i;
        }
    }
    return list->count;
}

static int fill_arrays(plog_columns *columns, const part_list *list, const plog_records *records,
                       const uint8_t *origin)
{
    plog_status status = PLOG_OK;
    size_t reached;
    if (records->end - records->start > PLOG_GIL_BYTES) {
        Py_BEGIN_ALLOW_THREADS reached = fill(columns, list, records, origin, &status);
        Py_END_ALLOW_THREADS
    } else {
        reached = fill(columns, list, records, origin, &status);
    }
    if (reached == list->count) {
        return 0;
    }
    return plog_raise_bad_batch(records, &list->parts[reached].walk, status);
}

PyObject *plog_records_columns(PyObject *object, PyObject *unused)
{
    (void)unused;
    const plog_records *self = (const plog_records *)object;
    part_list list = {NULL, 0, 0, 0, false};
    plog_columns columns = {0};
    PyObject *block = NULL; /* strong */
    PyObject *data = NULL;  /* strong */
    PyObject *result = NULL;
    if (collect_parts(&list, self) < 0) {
        goto done;
    }
    data = list.is_joined ? join_parts(&list) : Py_NewRef(self->data);
    block = data == NULL ? NULL : make_block(plog_state_of(object), list.rows, &columns);
    if (block == NULL) {
        goto done;
    }
    const uint8_t *origin =
        list.is_joined ? (const uint8_t *)PyBytes_AsString(data) : self->source->view.buf;
    if (fill_arrays(&columns, &list, self, origin) < 0) {
        goto done;
    }
    result = make_result(block, &columns, data);
done:
    Py_XDECREF(block);
    Py_XDECREF(data);
    free_parts(&list);
    return result;
}
