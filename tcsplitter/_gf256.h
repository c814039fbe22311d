/* Sums of products over GF(2^8): what Reed-Solomon costs, a vector at a time.

The field is zfec's, with the polynomial x^8 + x^4 + x^3 + x^2 + 1. gf_combine() fills rows with sums of sources, each multiplied
by a factor per row and source. The factors of a call are few and its bytes many, so a kernel goes through the sources side by
side, keeps the sums of a few rows in registers, and writes each row once. There are four ways to multiply a vector by a constant;
gf_kernels() says at run time which of them this machine has, so that no flag of the compiler decides it.

How to multiply by pshufb: Plank, Greenan, Miller, "Screaming Fast Galois Field Arithmetic Using Intel SIMD Instructions", FAST
2013. Multiplication by a constant is linear over GF(2), hence a matrix of 8 by 8 bits, which is what gf2p8affineqb takes. */

#ifndef TCSPLITTER_GF256_H
#define TCSPLITTER_GF256_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__GNUC__) && defined(__x86_64__)
#include <immintrin.h>
#elif defined(__GNUC__) && defined(__aarch64__)
#include <arm_neon.h>
#endif

/* The loops over rows only vanish where the number of rows is a constant, hence where these functions are inlined. */
#ifdef __GNUC__
#define GF_INLINE static inline __attribute__((always_inline))
#else
#define GF_INLINE static inline
#endif

enum {
    GF_POLYNOMIAL = 0x11d,
    GF_ELEMENTS = 256,
    GF_MAX_SOURCES = 256,
    GF_MAX_ROWS = 256,
    GF_MAX_KERNELS = 3,
    GF_ROWS = 4,                /* at once: more sums would not stay in 16 registers */
    GF_CHUNK = 64,              /* bytes; what a kernel works on is a multiple of it, and it never sees less */
    GF_BLOCK = 16 * 1024        /* bytes of all sources together: they stay in the cache while all rows are made of them */
};

typedef struct {
    const uint8_t *bytes;
    size_t size;
    const uint8_t *factors;     /* one for each row */
} gf_source;

/* Sets bytes begin to end of `together` rows from `first` on, at most GF_ROWS of them. */
typedef void (*gf_run)(
    uint8_t *const *rows, int first, int together, const gf_source *sources, int count, size_t begin, size_t end);

typedef struct {
    const char *name;
    gf_run run;
} gf_kernel;

/* Of each factor: its products with 0x00 to 0x0f, then with 0x00, 0x10 to 0xf0. Any product is the sum of one of each. */
static uint8_t gf_products[GF_ELEMENTS][32];

/* Of each factor: the matrix that multiplies by it, as gf2p8affineqb wants it: bit i of a product is the parity of the operand
and byte 7 - i. */
static uint64_t gf_matrices[GF_ELEMENTS];

static uint8_t gf_double(uint8_t element)
{
    return (uint8_t)(element << 1 ^ (element >> 7) * GF_POLYNOMIAL);
}

/* Fills the tables; to be called once, before all else. */
static void gf_init(void)
{
    for (int factor = 0; factor < GF_ELEMENTS; factor++) {
        uint8_t power = (uint8_t)factor;        /* factor times 2^bit */
        gf_matrices[factor] = 0;
        for (int bit = 0; bit < 8; bit++, power = gf_double(power)) {
            uint8_t *half = gf_products[factor] + (bit < 4 ? 0 : 16);
            int known = 1 << bit % 4;
            for (int i = 0; i < known; i++)
                half[known + i] = half[i] ^ power;
            for (int i = 0; i < 8; i++)
                gf_matrices[factor] |= (uint64_t)(power >> i & 1) << (8 * (7 - i) + bit);
        }
    }
}

/* A kernel out of a function that is inlined for each number of rows. */
#define GF_KERNEL(NAME, TARGET)                                                                                             \
    static TARGET void NAME(                                                                                                \
        uint8_t *const *rows, int first, int together, const gf_source *sources, int count, size_t begin, size_t end)       \
    {                                                                                                                       \
        switch (together) {                                                                                                 \
        case 1: NAME##_rows(rows, first, 1, sources, count, begin, end); break;                                             \
        case 2: NAME##_rows(rows, first, 2, sources, count, begin, end); break;                                             \
        case 3: NAME##_rows(rows, first, 3, sources, count, begin, end); break;                                             \
        default: NAME##_rows(rows, first, GF_ROWS, sources, count, begin, end);                                             \
        }                                                                                                                   \
    }

/* --- Portable: eight bytes to a word, bit by bit, in a form that compilers turn into whatever vectors there are. --- */

enum { GF_WORDS = 2 };  /* compilers keep all sums of so few in registers */

GF_INLINE void gf_portable_rows(
    uint8_t *const *rows, int first, int together, const gf_source *sources, int count, size_t begin, size_t end)
{
    const uint64_t ones = 0x0101010101010101;
    for (size_t at = begin; at < end; at += 8 * GF_WORDS) {
        uint64_t sums[GF_ROWS][GF_WORDS] = {{0}};
        for (int s = 0; s < count; s++) {
            uint64_t words[GF_WORDS];
            memcpy(words, sources[s].bytes + at, 8 * GF_WORDS);
            for (int bit = 0; bit < 8; bit++)
                for (int row = 0; row < together; row++) {
                    uint64_t power = ones * gf_products[sources[s].factors[first + row]][(bit < 4 ? 0 : 16) + (1 << bit % 4)];
                    for (int w = 0; w < GF_WORDS; w++) {
                        uint64_t set = words[w] >> bit & ones;
                        sums[row][w] ^= ((set << 8) - set) & power;     /* bytes of ones where the bit is set */
                    }
                }
        }
        for (int row = 0; row < together; row++)
            memcpy(rows[first + row] + at, sums[row], 8 * GF_WORDS);
    }
}

GF_KERNEL(gf_portable, )

#if defined(__GNUC__) && defined(__x86_64__)

/* --- AVX2: pshufb looks up 32 products at once. --- */

#define GF_AVX2 __attribute__((target("avx2")))

GF_INLINE GF_AVX2 void gf_avx2_rows(
    uint8_t *const *rows, int first, int together, const gf_source *sources, int count, size_t begin, size_t end)
{
    const __m256i nibble = _mm256_set1_epi8(0x0f);
    for (size_t at = begin; at < end; at += 32) {
        __m256i sums[GF_ROWS];
        for (int row = 0; row < together; row++)
            sums[row] = _mm256_setzero_si256();
        for (int s = 0; s < count; s++) {
            __m256i bytes = _mm256_loadu_si256((const __m256i *)(sources[s].bytes + at));
            __m256i low = _mm256_and_si256(bytes, nibble);
            __m256i high = _mm256_and_si256(_mm256_srli_epi64(bytes, 4), nibble);
            for (int row = 0; row < together; row++) {
                const __m128i *products = (const __m128i *)gf_products[sources[s].factors[first + row]];
                __m256i of_low = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_loadu_si128(products)), low);
                __m256i of_high = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_loadu_si128(products + 1)), high);
                sums[row] = _mm256_xor_si256(sums[row], _mm256_xor_si256(of_low, of_high));
            }
        }
        for (int row = 0; row < together; row++)
            _mm256_storeu_si256((__m256i *)(rows[first + row] + at), sums[row]);
    }
}

GF_KERNEL(gf_avx2, GF_AVX2)

/* --- GFNI: an instruction multiplies 32 bytes by a matrix. AVX-512 does 64, at half the rate, so nothing is won by it. --- */

#define GF_GFNI __attribute__((target("avx2,gfni")))

GF_INLINE GF_GFNI void gf_gfni_rows(
    uint8_t *const *rows, int first, int together, const gf_source *sources, int count, size_t begin, size_t end)
{
    for (size_t at = begin; at < end; at += GF_CHUNK) {
        __m256i sums[GF_ROWS][2];
        for (int row = 0; row < together; row++)
            sums[row][0] = sums[row][1] = _mm256_setzero_si256();
        for (int s = 0; s < count; s++) {
            const __m256i *bytes = (const __m256i *)(sources[s].bytes + at);
            __m256i front = _mm256_loadu_si256(bytes), back = _mm256_loadu_si256(bytes + 1);
            for (int row = 0; row < together; row++) {
                __m256i matrix = _mm256_set1_epi64x((long long)gf_matrices[sources[s].factors[first + row]]);
                sums[row][0] = _mm256_xor_si256(sums[row][0], _mm256_gf2p8affine_epi64_epi8(front, matrix, 0));
                sums[row][1] = _mm256_xor_si256(sums[row][1], _mm256_gf2p8affine_epi64_epi8(back, matrix, 0));
            }
        }
        for (int row = 0; row < together; row++) {
            _mm256_storeu_si256((__m256i *)(rows[first + row] + at), sums[row][0]);
            _mm256_storeu_si256((__m256i *)(rows[first + row] + at) + 1, sums[row][1]);
        }
    }
}

GF_KERNEL(gf_gfni, GF_GFNI)

#elif defined(__GNUC__) && defined(__aarch64__)

/* --- NEON: tbl looks up 16 products at once. --- */

GF_INLINE void gf_neon_rows(
    uint8_t *const *rows, int first, int together, const gf_source *sources, int count, size_t begin, size_t end)
{
    for (size_t at = begin; at < end; at += 32) {
        uint8x16_t sums[GF_ROWS][2];
        for (int row = 0; row < together; row++)
            sums[row][0] = sums[row][1] = vdupq_n_u8(0);
        for (int s = 0; s < count; s++)
            for (int half = 0; half < 2; half++) {
                uint8x16_t bytes = vld1q_u8(sources[s].bytes + at + 16 * half);
                uint8x16_t low = vandq_u8(bytes, vdupq_n_u8(0x0f)), high = vshrq_n_u8(bytes, 4);
                for (int row = 0; row < together; row++) {
                    const uint8_t *products = gf_products[sources[s].factors[first + row]];
                    uint8x16_t of_low = vqtbl1q_u8(vld1q_u8(products), low);
                    uint8x16_t of_high = vqtbl1q_u8(vld1q_u8(products + 16), high);
                    sums[row][half] = veorq_u8(sums[row][half], veorq_u8(of_low, of_high));
                }
            }
        for (int row = 0; row < together; row++) {
            vst1q_u8(rows[first + row] + at, sums[row][0]);
            vst1q_u8(rows[first + row] + at + 16, sums[row][1]);
        }
    }
}

GF_KERNEL(gf_neon, )

#endif

/* Fills `found` with the kernels of this machine, the fastest first, and returns how many there are: at least one. */
static int gf_kernels(gf_kernel found[GF_MAX_KERNELS])
{
    int count = 0;
#if defined(__GNUC__) && defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("gfni") && __builtin_cpu_supports("avx2"))
        found[count++] = (gf_kernel){"gfni", gf_gfni};
    if (__builtin_cpu_supports("avx2"))
        found[count++] = (gf_kernel){"avx2", gf_avx2};
#elif defined(__GNUC__) && defined(__aarch64__)
    found[count++] = (gf_kernel){"neon", gf_neon};
#endif
    found[count++] = (gf_kernel){"portable", gf_portable};
    return count;
}

/* The longest first. Most stripes are in order but for their last shot, so this takes one pass. */
static void gf_sort(gf_source *sources, int count)
{
    for (int next = 1; next < count; next++) {
        gf_source source = sources[next];
        int place = next;
        for (; place > 0 && sources[place - 1].size < source.size; place--)
            sources[place] = sources[place - 1];
        sources[place] = source;
    }
}

static void gf_all_rows(
    gf_run run, uint8_t *const *rows, int row_count, const gf_source *sources, int count, size_t begin, size_t end)
{
    for (int first = 0; first < row_count; first += GF_ROWS)
        run(rows, first, row_count - first < GF_ROWS ? row_count - first : GF_ROWS, sources, count, begin, end);
}

/* At most a chunk, in which a source or the rows may end: by way of copies that are whole. */
static void gf_edge(
    gf_run run, uint8_t *const *rows, int row_count, const gf_source *sources, int count, size_t begin, size_t end)
{
    gf_source copies[GF_MAX_SOURCES];
    uint8_t copied[GF_MAX_SOURCES][GF_CHUNK], sums[GF_MAX_ROWS][GF_CHUNK], *made[GF_MAX_ROWS];

    for (int s = 0; s < count; s++) {
        size_t size = (sources[s].size < end ? sources[s].size : end) - begin;
        memcpy(copied[s], sources[s].bytes + begin, size);
        memset(copied[s] + size, 0, GF_CHUNK - size);
        copies[s] = (gf_source){copied[s], GF_CHUNK, sources[s].factors};
    }
    for (int row = 0; row < row_count; row++)
        made[row] = sums[row];
    gf_all_rows(run, made, row_count, copies, count, 0, GF_CHUNK);
    for (int row = 0; row < row_count; row++)
        memcpy(rows[row] + begin, sums[row], end - begin);
}

/* Sets `size` bytes of each row to the sum of the sources, each multiplied by its factor for that row. Behind its end, which is
not beyond `size`, a source counts as zeros. Sorts the sources. */
static void gf_combine(gf_run run, uint8_t *const *rows, int row_count, size_t size, gf_source *sources, int count)
{
    gf_sort(sources, count);
    for (size_t begin = 0, end; begin < size; begin = end) {
        while (count > 0 && sources[count - 1].size <= begin)
            count--;
        size_t left = (count > 0 ? sources[count - 1].size : size) - begin;
        size_t block = (GF_BLOCK / (count + 1) / GF_CHUNK + 1) * GF_CHUNK;
        if (left >= GF_CHUNK) {
            end = begin + (left < block ? left / GF_CHUNK * GF_CHUNK : block);
            gf_all_rows(run, rows, row_count, sources, count, begin, end);
        } else {
            end = size - begin < GF_CHUNK ? size : begin + GF_CHUNK;
            gf_edge(run, rows, row_count, sources, count, begin, end);
        }
    }
}

#endif
