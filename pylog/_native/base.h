/* The ground of the C core: statuses, borrowed bytes, big-endian loads and stores.
 *
 * Knows: memory.  Must not know: Python, files, clocks.  Nothing here allocates or locks.
 * Kafka's integers are big-endian and signed unless a name says otherwise.
 */
#ifndef PLOG_BASE_H
#define PLOG_BASE_H

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if !defined(__GNUC__) && !defined(__clang__)
#error                                                                                             \
    "pylog needs GCC or Clang: it uses their byte swaps, checked arithmetic and target attributes"
#endif

static_assert(sizeof(size_t) == 8, "positions of 64 bits are computed in size_t");

/* What a core function came to.  Python sees these numbers as constants, so none is negative. */
typedef enum {
    PLOG_OK = 0,
    PLOG_END,        /* all bytes given were consumed */
    PLOG_INCOMPLETE, /* a plausible batch continues past the bytes given */
    PLOG_ZEROS,      /* a length field of zero: the end of a zero-filled file */
    PLOG_BAD_LENGTH,
    PLOG_BAD_MAGIC,
    PLOG_BAD_CRC,
    PLOG_BAD_OFFSET,
    PLOG_BAD_COUNT,
    PLOG_BAD_RECORD,
    PLOG_LIMIT,     /* stopped where the caller asked */
    PLOG_NO_ROOM,   /* the memory, the window or the index given is too small */
    PLOG_STALE,     /* the log end offset is not the expected one */
    PLOG_NOT_OPEN,  /* the partition is FAILED, or the handle is of another segment */
    PLOG_TOO_LARGE, /* a record does not fit into any batch that is allowed */
    PLOG_OVERFLOW,  /* a sum does not fit into its type */
    PLOG_TIMED_OUT,
    PLOG_INTERRUPTED, /* a signal arrived: its handler may have set a Python error */
    PLOG_OWNER_DIED,
    PLOG_SYSTEM, /* errno says what */
} plog_status;

/* Bytes that somebody else owns.  A length of -1 is Kafka's null, which is not the empty value. */
typedef struct {
    const uint8_t *data; /* borrowed */
    int32_t len;
} plog_bytes;

static inline uint16_t plog_load_u16(const uint8_t *p)
{
    uint16_t value;
    memcpy(&value, p, sizeof value);
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    value = __builtin_bswap16(value);
#endif
    return value;
}

static inline uint32_t plog_load_u32(const uint8_t *p)
{
    uint32_t value;
    memcpy(&value, p, sizeof value);
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    value = __builtin_bswap32(value);
#endif
    return value;
}

static inline uint64_t plog_load_u64(const uint8_t *p)
{
    uint64_t value;
    memcpy(&value, p, sizeof value);
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    value = __builtin_bswap64(value);
#endif
    return value;
}

static inline int16_t plog_load_i16(const uint8_t *p)
{
    return (int16_t)plog_load_u16(p);
}

static inline int32_t plog_load_i32(const uint8_t *p)
{
    return (int32_t)plog_load_u32(p);
}

static inline int64_t plog_load_i64(const uint8_t *p)
{
    return (int64_t)plog_load_u64(p);
}

static inline void plog_store_u16(uint8_t *p, uint16_t value)
{
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    value = __builtin_bswap16(value);
#endif
    memcpy(p, &value, sizeof value);
}

static inline void plog_store_u32(uint8_t *p, uint32_t value)
{
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    value = __builtin_bswap32(value);
#endif
    memcpy(p, &value, sizeof value);
}

static inline void plog_store_u64(uint8_t *p, uint64_t value)
{
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    value = __builtin_bswap64(value);
#endif
    memcpy(p, &value, sizeof value);
}

static inline void plog_store_i16(uint8_t *p, int16_t value)
{
    plog_store_u16(p, (uint16_t)value);
}

static inline void plog_store_i32(uint8_t *p, int32_t value)
{
    plog_store_u32(p, (uint32_t)value);
}

static inline void plog_store_i64(uint8_t *p, int64_t value)
{
    plog_store_u64(p, (uint64_t)value);
}

#endif
