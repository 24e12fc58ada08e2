#include "sampler.h"

#include <algorithm>
#include <atomic>
#include <iterator>
#include <stdexcept>
#include <system_error>
#include <thread>

#include "grid_gaussian.h"

#if (defined(__x86_64__) || defined(_M_X64)) && defined(__GNUC__)
#define DS_X86 1
// GCC 12's own header trips this warning where its intrinsics are inlined (GCC bug 105593).
#if !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>
#endif

#if defined(__GNUC__)
#define DS_INLINE inline __attribute__((always_inline))
#else
#define DS_INLINE inline
#endif

namespace diffsmooth {
namespace {

// Noise is made a strip at a time: small enough that strip and table stay in the first-level cache.
constexpr std::size_t kStrip = 1024;
// One unit of work for a thread: a multiple of kStrip, long enough to hide its bookkeeping.
constexpr std::size_t kUnit = 16 * kStrip;
// Below this many coordinates a thread costs more to start than it saves.
constexpr std::size_t kWorthAThread = 64 * 1024;

// One row's subkey and nonce.
struct Stream {
    ds_chacha_key subkey;
    ds_u64 sample;
};

// A code path: noise for coordinates first, …, first+count−1 (first a multiple of 8), and the two ways to
// apply it.
struct Variant {
    const char* name;
    bool (*available)();
    void (*noise)(const Law&, const Stream&, std::size_t first, std::size_t count, std::int32_t* k);
    void (*scale)(const std::uint8_t* pixels, const std::int32_t* k, std::size_t count, float* out);
    void (*shift)(const float* values, const std::int32_t* k, std::size_t count, float* out);
};

DS_INLINE std::int32_t value_of(const Law& law, ds_u64 word) {
    return ds_grid_value(word, law.table[ds_grid_column(word, law.column_bits)], law.column_bits, law.reach);
}

// What is left over by paths that make several blocks at once.
DS_INLINE void noise_blocks(const Law& law, const Stream& s, std::size_t first, std::size_t count,
                            std::int32_t* k) {
    for (std::size_t i = 0; i < count; i += DS_WORDS_PER_BLOCK) {
        const ds_chacha_block block = ds_chacha(s.subkey, (first + i) / DS_WORDS_PER_BLOCK, s.sample);
        for (std::size_t j = 0; j < DS_WORDS_PER_BLOCK && i + j < count; ++j)
            k[i + j] = value_of(law, ds_chacha_word(block, static_cast<int>(j)));
    }
}

// The words of LANES consecutive blocks from `block` on, x[i] holding word i of each: VECTOR is a vector of
// LANES 32-bit words. Block numbers stay below 2^61, so a lane carries into the high word as the sum does.
#define DS_BLOCKS(VECTOR, LANES, s, block, x, ROTATE)                                     \
    const ds_chacha_block state = ds_chacha_state(s.subkey, block, s.sample);             \
    VECTOR x[16], number[2];                                                              \
    for (int lane = 0; lane < LANES; ++lane) {                                            \
        number[0][lane] = static_cast<ds_u32>(block + static_cast<ds_u64>(lane));         \
        number[1][lane] = static_cast<ds_u32>((block + static_cast<ds_u64>(lane)) >> 32); \
    }                                                                                     \
    for (int i = 0; i < 16; ++i) x[i] = VECTOR{} + state.word[i];                         \
    x[12] = number[0], x[13] = number[1];                                                 \
    DS_CHACHA_ROUNDS(x, ROTATE)                                                           \
    for (int i = 0; i < 16; ++i) x[i] += i == 12 || i == 13 ? number[i - 12] : VECTOR{} + state.word[i];

DS_INLINE void scale_strip(const std::uint8_t* pixels, const std::int32_t* k, std::size_t count, float* out) {
    for (std::size_t i = 0; i < count; ++i) out[i] = ds_scaled_pixel(pixels[i], k[i]);
}

DS_INLINE void shift_strip(const float* values, const std::int32_t* k, std::size_t count, float* out) {
    for (std::size_t i = 0; i < count; ++i) out[i] = ds_shifted_value(values[i], k[i]);
}

// Compiles the two bodies above for one variant's instructions.
#define DS_APPLY(NAME, ATTRIBUTE)                                                                          \
    ATTRIBUTE void scale_##NAME(const std::uint8_t* p, const std::int32_t* k, std::size_t n, float* out) { \
        scale_strip(p, k, n, out);                                                                         \
    }                                                                                                      \
    ATTRIBUTE void shift_##NAME(const float* v, const std::int32_t* k, std::size_t n, float* out) {        \
        shift_strip(v, k, n, out);                                                                         \
    }

DS_APPLY(portable, )

// Four blocks at once, in whatever registers of 16 bytes the architecture has.
typedef ds_u32 Words4 __attribute__((vector_size(16)));

void noise_portable(const Law& law, const Stream& s, std::size_t first, std::size_t count, std::int32_t* k) {
    std::size_t i = 0;
    for (; i + 32 <= count; i += 32) {
        const ds_u64 block = (first + i) / DS_WORDS_PER_BLOCK;
        DS_BLOCKS(Words4, 4, s, block, x, DS_ROTATE)
        for (int lane = 0; lane < 4; ++lane)
            for (int j = 0; j < DS_WORDS_PER_BLOCK; ++j)
                k[i + 8 * lane + j] =
                    value_of(law, static_cast<ds_u64>(x[2 * j + 1][lane]) << 32 | x[2 * j][lane]);
    }
    noise_blocks(law, s, first + i, count - i, k + i);
}
bool always() { return true; }

#if defined(DS_X86)
#define DS_AVX2 __attribute__((target("avx2")))
#define DS_AVX512 __attribute__((target("avx512f,avx512dq,avx512bw,avx512vl")))

DS_APPLY(avx2, DS_AVX2)
DS_APPLY(avx512, DS_AVX512)
bool has_avx2() { return __builtin_cpu_supports("avx2"); }
bool has_avx512() {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
}

typedef ds_u32 Words8 __attribute__((vector_size(32)));
typedef ds_u32 Words16 __attribute__((vector_size(64)));

// Bytes that turn each 32-bit word left by 16 and by 8.
DS_AVX2 DS_INLINE __m256i turned_by_bytes(__m256i x, int bits) {
    const __m256i by16 = _mm256_setr_epi8(2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13, 2, 3, 0, 1, 6,
                                          7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13);
    const __m256i by8 = _mm256_setr_epi8(3, 0, 1, 2, 7, 4, 5, 6, 11, 8, 9, 10, 15, 12, 13, 14, 3, 0, 1, 2, 7,
                                         4, 5, 6, 11, 8, 9, 10, 15, 12, 13, 14);
    return _mm256_shuffle_epi8(x, bits == 16 ? by16 : by8);
}
#define DS_ROTATE8(x, bits) ((bits) % 8 ? DS_ROTATE(x, bits) : (Words8)turned_by_bytes((__m256i)(x), bits))
#define DS_ROTATE16(x, bits) ((Words16)_mm512_rol_epi32((__m512i)(x), bits))

// Four of ds_grid_value, as 64-bit lanes; a comparison without sign by one with it.
DS_AVX2 DS_INLINE __m256i grid_value4(__m256i word, const Law& law) {
    const __m128i bits = _mm_cvtsi32_si128(law.column_bits), rest = _mm_cvtsi32_si128(64 - law.column_bits);
    const __m256i mask = _mm256_set1_epi64x((1LL << law.column_bits) - 1);
    const __m256i sign = _mm256_set1_epi64x(static_cast<long long>(1ULL << 63));
    __m256i column = _mm256_srl_epi64(word, rest);
    __m256i entry = _mm256_i64gather_epi64(reinterpret_cast<const long long*>(law.table), column, 8);
    __m256i low = _mm256_or_si256(_mm256_sll_epi64(word, bits), mask);
    __m256i own = _mm256_cmpgt_epi64(_mm256_xor_si256(entry, sign), _mm256_xor_si256(low, sign));
    __m256i index = _mm256_blendv_epi8(_mm256_and_si256(entry, mask), column, own);
    return _mm256_sub_epi64(index, _mm256_set1_epi64x(law.reach));
}

// Rows of eight words, one a register, become columns.
DS_AVX2 DS_INLINE void turn8(const Words8 in[8], __m256i out[8]) {
    __m256i pair[8], quad[8];
    for (int i = 0; i < 4; ++i) {
        pair[2 * i] = _mm256_unpacklo_epi32((__m256i)in[2 * i], (__m256i)in[2 * i + 1]);
        pair[2 * i + 1] = _mm256_unpackhi_epi32((__m256i)in[2 * i], (__m256i)in[2 * i + 1]);
    }
    for (int i = 0; i < 2; ++i)
        for (int j = 0; j < 2; ++j) {
            quad[4 * i + 2 * j] = _mm256_unpacklo_epi64(pair[4 * i + j], pair[4 * i + j + 2]);
            quad[4 * i + 2 * j + 1] = _mm256_unpackhi_epi64(pair[4 * i + j], pair[4 * i + j + 2]);
        }
    for (int i = 0; i < 4; ++i) {
        out[i] = _mm256_permute2x128_si256(quad[i], quad[4 + i], 0x20);
        out[4 + i] = _mm256_permute2x128_si256(quad[i], quad[4 + i], 0x31);
    }
}

DS_AVX2 void noise_avx2(const Law& law, const Stream& s, std::size_t first, std::size_t count,
                        std::int32_t* k) {
    const __m256i even = _mm256_setr_epi32(0, 2, 4, 6, 0, 2, 4, 6);
    std::size_t i = 0;
    for (; i + 64 <= count; i += 64) {
        const ds_u64 block = (first + i) / DS_WORDS_PER_BLOCK;
        DS_BLOCKS(Words8, 8, s, block, x, DS_ROTATE8)
        for (int half = 0; half < 2; ++half) {
            __m256i words[8];  // words[b]: four 64-bit words of block b
            turn8(x + 8 * half, words);
            for (int b = 0; b < 8; ++b) {
                __m256i value = _mm256_permutevar8x32_epi32(grid_value4(words[b], law), even);
                _mm_storeu_si128(reinterpret_cast<__m128i*>(k + i + 8 * b + 4 * half),
                                 _mm256_castsi256_si128(value));
            }
        }
    }
    noise_blocks(law, s, first + i, count - i, k + i);
}

// Eight of ds_grid_value, as 64-bit lanes.
DS_AVX512 DS_INLINE __m512i grid_value8(__m512i word, const Law& law) {
    const __m128i bits = _mm_cvtsi32_si128(law.column_bits), rest = _mm_cvtsi32_si128(64 - law.column_bits);
    const __m512i mask = _mm512_set1_epi64((1LL << law.column_bits) - 1);
    __m512i column = _mm512_srl_epi64(word, rest);
    __m512i entry = _mm512_i64gather_epi64(column, law.table, 8);
    __m512i low = _mm512_or_si512(_mm512_sll_epi64(word, bits), mask);
    __m512i index =
        _mm512_mask_mov_epi64(_mm512_and_si512(entry, mask), _mm512_cmplt_epu64_mask(low, entry), column);
    return _mm512_sub_epi64(index, _mm512_set1_epi64(law.reach));
}

// Sixteen rows of sixteen words, one a register, become columns: out[b] is block b.
DS_AVX512 DS_INLINE void turn16(const Words16 in[16], __m512i out[16]) {
    __m512i pair[16], quad[16];
    for (int i = 0; i < 8; ++i) {
        pair[2 * i] = _mm512_unpacklo_epi32((__m512i)in[2 * i], (__m512i)in[2 * i + 1]);
        pair[2 * i + 1] = _mm512_unpackhi_epi32((__m512i)in[2 * i], (__m512i)in[2 * i + 1]);
    }
    for (int i = 0; i < 4; ++i)
        for (int j = 0; j < 2; ++j) {
            quad[4 * i + 2 * j] = _mm512_unpacklo_epi64(pair[4 * i + j], pair[4 * i + j + 2]);
            quad[4 * i + 2 * j + 1] = _mm512_unpackhi_epi64(pair[4 * i + j], pair[4 * i + j + 2]);
        }
    for (int c = 0; c < 4; ++c) {  // quad[4i + c] holds, in quarter q, words 4i … 4i + 3 of block 4q + c
        __m512i low01 = _mm512_shuffle_i32x4(quad[c], quad[4 + c], 0x44);
        __m512i high01 = _mm512_shuffle_i32x4(quad[c], quad[4 + c], 0xee);
        __m512i low23 = _mm512_shuffle_i32x4(quad[8 + c], quad[12 + c], 0x44);
        __m512i high23 = _mm512_shuffle_i32x4(quad[8 + c], quad[12 + c], 0xee);
        out[c] = _mm512_shuffle_i32x4(low01, low23, 0x88);
        out[4 + c] = _mm512_shuffle_i32x4(low01, low23, 0xdd);
        out[8 + c] = _mm512_shuffle_i32x4(high01, high23, 0x88);
        out[12 + c] = _mm512_shuffle_i32x4(high01, high23, 0xdd);
    }
}

DS_AVX512 void noise_avx512(const Law& law, const Stream& s, std::size_t first, std::size_t count,
                            std::int32_t* k) {
    std::size_t i = 0;
    for (; i + 128 <= count; i += 128) {
        const ds_u64 block = (first + i) / DS_WORDS_PER_BLOCK;
        DS_BLOCKS(Words16, 16, s, block, x, DS_ROTATE16)
        __m512i words[16];
        turn16(x, words);
        for (int b = 0; b < 16; ++b)
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(k + i + 8 * b),
                                _mm512_cvtepi64_epi32(grid_value8(words[b], law)));
    }
    noise_blocks(law, s, first + i, count - i, k + i);
}
#endif

const Variant kVariants[] = {
#if defined(DS_X86)
    {"avx512", has_avx512, noise_avx512, scale_avx512, shift_avx512},
    {"avx2", has_avx2, noise_avx2, scale_avx2, shift_avx2},
#endif
    {"portable", always, noise_portable, scale_portable, shift_portable},
};

const Variant& choose(const std::string& name) {
    for (const Variant& v : kVariants)
        if ((name.empty() || name == v.name) && v.available()) return v;
    throw std::invalid_argument("variant is '" + name + "', which this processor cannot run: leave it empty");
}

// Runs work(0), …, work(units − 1), each once, on this thread and up to threads − 1 more.
template <typename Work>
void run_units(std::size_t units, unsigned threads, const Work& work) {
    std::atomic<std::size_t> next{0};
    auto drain = [&] {
        for (std::size_t u = next++; u < units; u = next++) work(u);
    };
    std::vector<std::thread> helpers;
    helpers.reserve(threads);
    try {
        while (helpers.size() + 1 < threads) helpers.emplace_back(drain);
    } catch (const std::system_error&) {
        // The system gives no more threads: those there are do the work, with the same result.
    }
    drain();
    for (std::thread& helper : helpers) helper.join();
}

// Calls apply(row, first, count, k) for every strip of every row, k its noise.
template <typename Apply>
void for_each_strip(const Law& law, const Rows& rows, std::size_t dimension, const Variant& variant,
                    unsigned threads, const Apply& apply) {
    const std::size_t units_per_row = (dimension + kUnit - 1) / kUnit, units = rows.count * units_per_row;
    const std::size_t worth = std::max<std::size_t>(1, rows.count * dimension / kWorthAThread);
    if (threads == 0) threads = std::max(1u, std::thread::hardware_concurrency());
    threads = static_cast<unsigned>(std::min<std::size_t>({threads, worth, std::max<std::size_t>(1, units)}));
    ds_chacha_key key;
    std::copy(std::begin(rows.key), std::end(rows.key), key.word);
    run_units(units, threads, [&](std::size_t unit) {
        const std::size_t row = unit / units_per_row, begin = unit % units_per_row * kUnit;
        const std::size_t end = std::min(dimension, begin + kUnit);
        const Stream stream{ds_hchacha(key, rows.phases[row], rows.images[row]), rows.samples[row]};
        alignas(64) std::int32_t k[kStrip];
        for (std::size_t first = begin; first < end; first += kStrip) {
            const std::size_t count = std::min(kStrip, end - first);
            variant.noise(law, stream, first, count, k);
            apply(row, first, count, k);
        }
    });
}

}  // namespace

std::vector<std::string> variants() {
    std::vector<std::string> names;
    for (const Variant& v : kVariants)
        if (v.available()) names.emplace_back(v.name);
    return names;
}

void grid_noise(const Law& law, const Rows& rows, std::size_t dimension, std::int32_t* out,
                const Execution& how) {
    auto copy = [=](std::size_t row, std::size_t first, std::size_t count, const std::int32_t* k) {
        std::copy(k, k + count, out + row * dimension + first);
    };
    for_each_strip(law, rows, dimension, choose(how.variant), how.threads, copy);
}

void noisy_images(const Law& law, const Rows& rows, std::size_t dimension, const std::uint8_t* pixels,
                  const std::int64_t* source, float* out, const Execution& how) {
    const Variant& variant = choose(how.variant);
    auto scale = [=, &variant](std::size_t row, std::size_t first, std::size_t count, const std::int32_t* k) {
        const std::size_t from = source ? static_cast<std::size_t>(source[row]) : row;
        variant.scale(pixels + from * dimension + first, k, count, out + row * dimension + first);
    };
    for_each_strip(law, rows, dimension, variant, how.threads, scale);
}

void add_noise(const Law& law, const Rows& rows, std::size_t dimension, const float* values,
               const std::int64_t* source, float* out, const Execution& how) {
    const Variant& variant = choose(how.variant);
    auto shift = [=, &variant](std::size_t row, std::size_t first, std::size_t count, const std::int32_t* k) {
        const std::size_t from = source ? static_cast<std::size_t>(source[row]) : row;
        variant.shift(values + from * dimension + first, k, count, out + row * dimension + first);
    };
    for_each_strip(law, rows, dimension, variant, how.threads, shift);
}

}  // namespace diffsmooth
