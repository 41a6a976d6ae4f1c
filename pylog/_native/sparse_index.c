/* Lower-bound search over packed entries: see sparse_index.h. */
#include "sparse_index.h"

int64_t plog_lookup_offset(const uint8_t *entries, size_t count, int64_t target)
{
    size_t low = 0, high = count; /* entries below low are <= target, from high on they are not */
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        /* Unsigned: a damaged entry below zero would pass for "no entry", which nobody checks. */
        if ((int64_t)plog_load_u32(entries + middle * PLOG_OFFSET_ENTRY_BYTES) <= target) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return (int64_t)low - 1;
}

int64_t plog_lookup_timestamp(const uint8_t *entries, size_t count, int64_t target)
{
    size_t low = 0, high = count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (plog_load_i64(entries + middle * PLOG_TIME_ENTRY_BYTES) <= target) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return (int64_t)low - 1;
}
