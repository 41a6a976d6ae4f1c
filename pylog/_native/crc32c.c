/* CRC-32C four ways.  The polynomial is 0x1EDC6F41; in all registers here bits are reflected, so
 * the highest power of x stands in bit 0 and the constant is 0x82F63B78.
 */
#include "crc32c.h"

#include <pthread.h>

#if defined(__x86_64__) && !defined(PLOG_PORTABLE)
#define PLOG_HAS_SSE42 1
#include <cpuid.h>
#include <immintrin.h>
#if !defined(bit_PCLMUL)
#define bit_PCLMUL bit_PCLMULQDQ /* clang's name */
#endif
#elif defined(__aarch64__) && !defined(PLOG_PORTABLE) &&                                           \
    (defined(__linux__) || defined(__ARM_FEATURE_CRC32))
#define PLOG_HAS_ARMV8 1
#include <arm_acle.h>
#if defined(__linux__)
#include <sys/auxv.h>
#endif
#endif

typedef uint32_t (*crc_function)(uint32_t crc, const uint8_t *data, size_t len);

/* ---- tables: slicing by eight.  Source: Kounavis and Berry, Intel, 2005. */

static uint32_t slices[8][256];

static void build_slices(void)
{
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t crc = byte;
        for (int bit = 0; bit < 8; bit++) {
            crc = (crc >> 1) ^ (0x82F63B78u & (0 - (crc & 1)));
        }
        slices[0][byte] = crc;
    }
    for (int slice = 1; slice < 8; slice++) {
        for (uint32_t byte = 0; byte < 256; byte++) {
            uint32_t before = slices[slice - 1][byte];
            slices[slice][byte] = (before >> 8) ^ slices[0][before & 0xff];
        }
    }
}

static uint32_t crc_by_table(uint32_t crc, const uint8_t *data, size_t len)
{
    crc = ~crc;
    for (; len >= 8; data += 8, len -= 8) {
        uint32_t low = crc ^ ((uint32_t)data[0] | (uint32_t)data[1] << 8 | (uint32_t)data[2] << 16 |
                              (uint32_t)data[3] << 24);
        crc = slices[7][low & 0xff] ^ slices[6][low >> 8 & 0xff] ^ slices[5][low >> 16 & 0xff] ^
              slices[4][low >> 24] ^ slices[3][data[4]] ^ slices[2][data[5]] ^ slices[1][data[6]] ^
              slices[0][data[7]];
    }
    for (; len > 0; data++, len--) {
        crc = (crc >> 8) ^ slices[0][(crc ^ *data) & 0xff];
    }
    return ~crc;
}

#if defined(PLOG_HAS_SSE42)
/* ---- SSE4.2: the crc32 instruction takes 8 bytes with a latency of three cycles but can start
 * every cycle, so three streams are computed side by side and then combined.
 *
 * Combining: n zero words behind a stream multiply its register by x^(64 n) modulo P.  A carry-less
 * product of two reflected registers comes out multiplied by x, and crc32(0, product) reduces it
 * while multiplying by x^32, so the factor needed is x^(64 n - 33).
 * Source: Gopal and others, Intel, 2011; the single factor per length as in corsix/fast-crc32. */

#if defined(__clang__)
#define PLOG_TARGET_SSE42 __attribute__((target("sse4.2,crc32,pclmul")))
#else
#define PLOG_TARGET_SSE42 __attribute__((target("sse4.2,pclmul")))
#endif

/* Words (8 bytes) of one stream per round.  With 256 the combination costs one or two hundredths
 * of the round, and the streams stay within a few pages; below 4 it costs what it gains.  170 bytes
 * take 12 ns with these, 20 ns with a minimum of 8 (measured on a Xeon of 2023). */
enum { MAX_STREAM_WORDS = 256, MIN_STREAM_WORDS = 4 };

static uint64_t shift_factors[2 * MAX_STREAM_WORDS + 1];

PLOG_TARGET_SSE42 static void build_shift_factors(void)
{
    shift_factors[1] = 1; /* x^31 */
    for (int n = 2; n <= 2 * MAX_STREAM_WORDS; n++) {
        shift_factors[n] = _mm_crc32_u64(shift_factors[n - 1], 0);
    }
}

static inline uint64_t load_word(const uint8_t *p)
{
    uint64_t word;
    memcpy(&word, p, sizeof word);
    return word;
}

PLOG_TARGET_SSE42 static uint64_t crc_three_streams(uint64_t crc, const uint8_t *data, size_t words)
{
    const uint8_t *second = data + 8 * words, *third = second + 8 * words;
    uint64_t a = crc, b = 0, c = 0;
    for (size_t i = 0; i < 8 * words; i += 8) {
        a = _mm_crc32_u64(a, load_word(data + i));
        b = _mm_crc32_u64(b, load_word(second + i));
        c = _mm_crc32_u64(c, load_word(third + i));
    }
    __m128i product_a = _mm_clmulepi64_si128(
        _mm_cvtsi64_si128((int64_t)a), _mm_cvtsi64_si128((int64_t)shift_factors[2 * words]), 0);
    __m128i product_b = _mm_clmulepi64_si128(_mm_cvtsi64_si128((int64_t)b),
                                             _mm_cvtsi64_si128((int64_t)shift_factors[words]), 0);
    uint64_t product = (uint64_t)_mm_cvtsi128_si64(_mm_xor_si128(product_a, product_b));
    return _mm_crc32_u64(0, product) ^ c;
}

PLOG_TARGET_SSE42 static uint32_t crc_by_sse42(uint32_t start, const uint8_t *data, size_t len)
{
    uint64_t crc = ~start;
    while (len >= 24 * MIN_STREAM_WORDS) {
        size_t words = len / 24;
        words = words < MAX_STREAM_WORDS ? words : MAX_STREAM_WORDS;
        crc = crc_three_streams(crc, data, words);
        data += 24 * words;
        len -= 24 * words;
    }
    for (; len >= 8; data += 8, len -= 8) {
        crc = _mm_crc32_u64(crc, load_word(data));
    }
    uint32_t last = (uint32_t)crc;
    if (len & 4) {
        uint32_t word;
        memcpy(&word, data, sizeof word);
        last = _mm_crc32_u32(last, word);
        data += 4;
    }
    if (len & 2) {
        uint16_t word;
        memcpy(&word, data, sizeof word);
        last = _mm_crc32_u16(last, word);
        data += 2;
    }
    return ~(len & 1 ? _mm_crc32_u8(last, *data) : last);
}

static bool has_sse42(void)
{
    /* Asked directly: __builtin_cpu_supports says no under some compilers' runtimes. */
    unsigned eax, ebx, ecx, edx;
    return __get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx & bit_SSE4_2) && (ecx & bit_PCLMUL);
}

/* ---- AVX-512: 256 bytes a step, by folding.  16 bytes, read as a polynomial, are multiplied by
 * x^d modulo P and added to the 16 bytes that stand d bits behind them; what is left at the end has
 * the same remainder as all there was.
 *
 * The high half of 16 bytes has to be multiplied by x^(d + 64), the low half by x^d, and a
 * carry-less product of two reflected registers comes out multiplied by x: so the factors are
 * x^(d + 63) and x^(d - 1).  They have 32 bits, and stand in the upper half of theirs.
 * Source: Gopal and others, Intel, 2009. */

#define PLOG_TARGET_AVX512                                                                         \
    __attribute__((target("sse4.2,pclmul,avx512f,avx512vl,avx512dq,vpclmulqdq")))

/* Shorter ones are left to the three streams, which then take less time (measured). */
enum { STEP_BYTES = 256, MIN_FOLDED_BYTES = 1024 };

typedef struct {
    uint64_t high, low; /* halves of 16 reflected bytes: the first one has the higher powers */
} fold_factors;

static fold_factors fold_256, fold_64, fold_16;

/* x^(31 + 32 n) modulo P, in the upper half of a register. */
PLOG_TARGET_SSE42 static uint64_t power_of_x(int n)
{
    uint32_t power = 1; /* x^31 */
    for (int i = 0; i < n; i++) {
        power = _mm_crc32_u32(power, 0);
    }
    return (uint64_t)power << 32;
}

static fold_factors fold_factors_for(int bytes)
{
    return (fold_factors){power_of_x(bytes / 4 + 1), power_of_x(bytes / 4 - 1)};
}

static void build_fold_factors(void)
{
    fold_256 = fold_factors_for(256);
    fold_64 = fold_factors_for(64);
    fold_16 = fold_factors_for(16);
}

PLOG_TARGET_AVX512 static inline __m512i fold(__m512i folded, __m512i factors, __m512i next)
{
    return _mm512_ternarylogic_epi64(_mm512_clmulepi64_epi128(folded, factors, 0x00),
                                     _mm512_clmulepi64_epi128(folded, factors, 0x11), next,
                                     0x96); /* the sum of all three */
}

PLOG_TARGET_AVX512 static inline __m128i fold_lane(__m128i folded, __m128i factors, __m128i next)
{
    return _mm_xor_si128(_mm_xor_si128(_mm_clmulepi64_si128(folded, factors, 0x00),
                                       _mm_clmulepi64_si128(folded, factors, 0x11)),
                         next);
}

PLOG_TARGET_AVX512 static inline __m512i factors_of(fold_factors factors)
{
    return _mm512_broadcast_i64x2(_mm_set_epi64x((int64_t)factors.low, (int64_t)factors.high));
}

PLOG_TARGET_AVX512 static uint32_t crc_by_avx512(uint32_t start, const uint8_t *data, size_t len)
{
    if (len < MIN_FOLDED_BYTES) {
        return crc_by_sse42(start, data, len);
    }
    __m512i a = _mm512_loadu_si512(data), b = _mm512_loadu_si512(data + 64);
    __m512i c = _mm512_loadu_si512(data + 128), d = _mm512_loadu_si512(data + 192);
    a = _mm512_xor_si512(a, _mm512_zextsi128_si512(_mm_cvtsi32_si128((int32_t)~start)));
    const __m512i by_256 = factors_of(fold_256), by_64 = factors_of(fold_64);
    for (data += STEP_BYTES, len -= STEP_BYTES; len >= STEP_BYTES;
         data += STEP_BYTES, len -= STEP_BYTES) {
        a = fold(a, by_256, _mm512_loadu_si512(data));
        b = fold(b, by_256, _mm512_loadu_si512(data + 64));
        c = fold(c, by_256, _mm512_loadu_si512(data + 128));
        d = fold(d, by_256, _mm512_loadu_si512(data + 192));
    }
    d = fold(fold(fold(a, by_64, b), by_64, c), by_64, d);
    const __m128i by_16 = _mm512_castsi512_si128(factors_of(fold_16));
    __m128i rest = _mm512_castsi512_si128(d);
    rest = fold_lane(rest, by_16, _mm512_extracti64x2_epi64(d, 1));
    rest = fold_lane(rest, by_16, _mm512_extracti64x2_epi64(d, 2));
    rest = fold_lane(rest, by_16, _mm512_extracti64x2_epi64(d, 3));
    uint64_t crc = _mm_crc32_u64(0, (uint64_t)_mm_extract_epi64(rest, 0));
    crc = _mm_crc32_u64(crc, (uint64_t)_mm_extract_epi64(rest, 1));
    /* Else all SSE code after this waits for the upper parts, which compilers forget before a jump:
     * 140 ns here alone (measured). */
    _mm256_zeroupper();
    return crc_by_sse42(~(uint32_t)crc, data, len);
}

static bool has_avx512(void)
{
    /* A no that is wrong costs only time, a yes is sure: the system saves the registers, too. */
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("vpclmulqdq");
}
#endif

#if defined(PLOG_HAS_ARMV8)
/* ---- ARMv8: one stream; its cores pipeline the instruction well enough for 8 GB/s or more. */

#if defined(__clang__)
#define PLOG_TARGET_CRC __attribute__((target("crc")))
#else
#define PLOG_TARGET_CRC __attribute__((target("+crc")))
#endif

PLOG_TARGET_CRC static uint32_t crc_by_armv8(uint32_t crc, const uint8_t *data, size_t len)
{
    crc = ~crc;
    for (; len >= 8; data += 8, len -= 8) {
        uint64_t word;
        memcpy(&word, data, sizeof word);
        crc = __crc32cd(crc, word);
    }
    for (; len > 0; data++, len--) {
        crc = __crc32cb(crc, *data);
    }
    return ~crc;
}

static bool has_armv8_crc(void)
{
#if defined(__linux__)
    const unsigned long hwcap_crc32 = 1ul << 7; /* <asm/hwcap.h>; not all C libraries have it */
    return (getauxval(AT_HWCAP) & hwcap_crc32) != 0;
#else
    return true;
#endif
}
#endif

/* ---- the choice */

static pthread_once_t once = PTHREAD_ONCE_INIT;
static crc_function chosen = crc_by_table;

static struct {
    const char *name;
    crc_function function;
} ways[3];
static size_t way_count;

static void add_way(const char *name, crc_function function)
{
    assert(way_count < sizeof ways / sizeof ways[0]);
    ways[way_count].name = name;
    ways[way_count].function = function;
    way_count++;
    chosen = function;
}

static void initialize(void)
{
    build_slices();
    add_way("table", crc_by_table);
#if defined(PLOG_HAS_SSE42)
    if (has_sse42()) {
        build_shift_factors();
        add_way("sse4.2", crc_by_sse42);
        if (has_avx512()) {
            build_fold_factors();
            add_way("avx512", crc_by_avx512);
        }
    }
#elif defined(PLOG_HAS_ARMV8)
    if (has_armv8_crc()) {
        add_way("armv8", crc_by_armv8);
    }
#endif
}

void plog_crc32c_initialize(void)
{
    pthread_once(&once, initialize);
}

uint32_t plog_crc32c(uint32_t crc, const uint8_t *data, size_t len)
{
    return chosen(crc, data, len);
}

size_t plog_crc32c_way_count(void)
{
    return way_count;
}

const char *plog_crc32c_way_name(size_t way)
{
    return ways[way].name;
}

uint32_t plog_crc32c_by_way(size_t way, uint32_t crc, const uint8_t *data, size_t len)
{
    return ways[way].function(crc, data, len);
}
