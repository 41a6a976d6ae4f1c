/* MurmurHash2 with Kafka's seed, so that a key lands in the partition where Kafka puts it.
 *
 * Source: Austin Appleby's MurmurHash2 (32 bits); seed and use as in Kafka's Utils.murmur2 and
 * BuiltInPartitioner.  Four-byte groups are little-endian.
 */
#ifndef PLOG_MURMUR2_H
#define PLOG_MURMUR2_H

#include "base.h"

static inline uint32_t plog_murmur2(const uint8_t *data, size_t len)
{
    const uint32_t multiplier = 0x5bd1e995, seed = 0x9747b28c;
    uint32_t hash = seed ^ (uint32_t)len;
    for (; len >= 4; data += 4, len -= 4) {
        uint32_t group = (uint32_t)data[0] | (uint32_t)data[1] << 8 | (uint32_t)data[2] << 16 |
                         (uint32_t)data[3] << 24;
        group *= multiplier;
        group ^= group >> 24;
        group *= multiplier;
        hash = (hash * multiplier) ^ group;
    }
    if (len > 0) {
        for (size_t i = 0; i < len; i++) {
            hash ^= (uint32_t)data[i] << (8 * i);
        }
        hash *= multiplier;
    }
    hash ^= hash >> 13;
    hash *= multiplier;
    hash ^= hash >> 15;
    return hash;
}

/* Kafka drops the sign bit instead of taking the absolute value. */
static inline int32_t plog_partition_for_key(const uint8_t *key, size_t len, int32_t partitions)
{
    return (int32_t)(plog_murmur2(key, len) & 0x7fffffff) % partitions;
}

#endif
