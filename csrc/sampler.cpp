#include "sampler.h"

#include <algorithm>
#include <atomic>
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

// One row's counter and round keys.
struct Stream {
    ds_philox_keys keys;
    ds_u64 sample, image, phase;
};

// A code path: noise for coordinates first, …, first+count−1 (first a multiple of 4), and the two ways to
// apply it.
struct Variant {
    const char* name;
    bool (*available)();
    void (*noise)(const Law&, const Stream&, std::size_t first, std::size_t count, std::int32_t* k);
    void (*scale)(const std::uint8_t* pixels, const std::int32_t* k, std::size_t count, float* out);
    void (*shift)(const float* values, const std::int32_t* k, std::size_t count, float* out);
};

DS_INLINE void noise_blocks(const Law& law, const Stream& s, std::size_t first, std::size_t count,
                            std::int32_t* k) {
    const int bits = law.column_bits, reach = law.reach;
    const std::uint64_t* table = law.table;
    ds_u64 block = DS_FIRST_BLOCK + first / DS_WORDS_PER_BLOCK;
    std::size_t i = 0;
    // Rounds depend on each other, blocks do not: two in flight keep the multiplier busy.
    for (; i + 8 <= count; i += 8, block += 2) {
        ds_philox_block a = ds_philox(block, s.sample, s.image, s.phase, s.keys);
        ds_philox_block b = ds_philox(block + 1, s.sample, s.image, s.phase, s.keys);
        for (int j = 0; j < 4; ++j) {
            k[i + j] = ds_grid_value(a.word[j], table[ds_grid_column(a.word[j], bits)], bits, reach);
            k[i + 4 + j] = ds_grid_value(b.word[j], table[ds_grid_column(b.word[j], bits)], bits, reach);
        }
    }
    for (; i < count; i += 4, ++block) {
        ds_philox_block a = ds_philox(block, s.sample, s.image, s.phase, s.keys);
        for (std::size_t j = 0; j < 4 && i + j < count; ++j)
            k[i + j] = ds_grid_value(a.word[j], table[ds_grid_column(a.word[j], bits)], bits, reach);
    }
}

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
void noise_portable(const Law& law, const Stream& s, std::size_t first, std::size_t count, std::int32_t* k) {
    noise_blocks(law, s, first, count, k);
}
bool always() { return true; }

#if defined(DS_X86)
#define DS_AVX512 __attribute__((target("avx512f,avx512dq,avx512bw,avx512vl")))

DS_APPLY(avx512, DS_AVX512)
bool has_avx512() {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
}

struct Product {
    __m512i high, low;
};

// Eight 64 × 64 → 128 bit products by one constant, from 32 × 32 → 64 bit ones.
DS_AVX512 DS_INLINE Product multiply(__m512i x, ds_u64 constant) {
    const __m512i m = _mm512_set1_epi64((long long)constant),
                  m_high = _mm512_set1_epi64((long long)(constant >> 32));
    const __m512i low_half = _mm512_set1_epi64(0xFFFFFFFFLL);
    __m512i x_high = _mm512_srli_epi64(x, 32);
    __m512i t = _mm512_add_epi64(_mm512_mul_epu32(x_high, m), _mm512_srli_epi64(_mm512_mul_epu32(x, m), 32));
    __m512i u = _mm512_add_epi64(_mm512_mul_epu32(x, m_high), _mm512_and_si512(t, low_half));
    __m512i high = _mm512_add_epi64(_mm512_mul_epu32(x_high, m_high), _mm512_srli_epi64(t, 32));
    return {_mm512_add_epi64(high, _mm512_srli_epi64(u, 32)), _mm512_mullo_epi64(x, m)};
}

// Words j of eight consecutive blocks, one block a lane, j = 0 … 3.
struct Words8 {
    __m512i word[4];
};

DS_AVX512 DS_INLINE Words8 philox8(ds_u64 block, const Stream& s) {
    __m512i c0 =
        _mm512_add_epi64(_mm512_set1_epi64((long long)block), _mm512_setr_epi64(0, 1, 2, 3, 4, 5, 6, 7));
    __m512i c1 = _mm512_set1_epi64((long long)s.sample), c2 = _mm512_set1_epi64((long long)s.image);
    __m512i c3 = _mm512_set1_epi64((long long)s.phase);
#if !defined(__clang__)
#pragma GCC unroll 10
#endif
    for (int r = 0; r < DS_PHILOX_ROUNDS; ++r) {
        Product p0 = multiply(c0, DS_PHILOX_M0), p1 = multiply(c2, DS_PHILOX_M1);
        c0 = _mm512_ternarylogic_epi64(p1.high, c1, _mm512_set1_epi64((long long)s.keys.k0[r]),
                                       0x96);  // three-way xor
        c1 = p1.low;
        c2 = _mm512_ternarylogic_epi64(p0.high, c3, _mm512_set1_epi64((long long)s.keys.k1[r]), 0x96);
        c3 = p0.low;
    }
    return {{c0, c1, c2, c3}};
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

// Thirty-two coordinates: the lanes hold blocks and the registers words, so the values are turned before they
// are stored.
DS_AVX512 DS_INLINE void store32(const Words8& w, const Law& law, std::int32_t* k) {
    const __m512i low_half = _mm512_set1_epi64(0xFFFFFFFFLL);
    __m512i v0 = _mm512_and_si512(grid_value8(w.word[0], law), low_half);
    __m512i v2 = _mm512_and_si512(grid_value8(w.word[2], law), low_half);
    __m512i v01 = _mm512_or_si512(v0, _mm512_slli_epi64(grid_value8(w.word[1], law), 32));
    __m512i v23 = _mm512_or_si512(v2, _mm512_slli_epi64(grid_value8(w.word[3], law), 32));
    _mm512_storeu_si512(k, _mm512_permutex2var_epi64(v01, _mm512_setr_epi64(0, 8, 1, 9, 2, 10, 3, 11), v23));
    _mm512_storeu_si512(k + 16,
                        _mm512_permutex2var_epi64(v01, _mm512_setr_epi64(4, 12, 5, 13, 6, 14, 7, 15), v23));
}

DS_AVX512 void noise_avx512(const Law& law, const Stream& s, std::size_t first, std::size_t count,
                            std::int32_t* k) {
    ds_u64 block = DS_FIRST_BLOCK + first / DS_WORDS_PER_BLOCK;
    std::size_t i = 0;
    for (; i + 64 <= count; i += 64, block += 16) {
        Words8 a = philox8(block, s), b = philox8(block + 8, s);
        store32(a, law, k + i);
        store32(b, law, k + i + 32);
    }
    noise_blocks(law, s, first + i, count - i, k + i);
}
#endif

const Variant kVariants[] = {
#if defined(DS_X86)
    {"avx512", has_avx512, noise_avx512, scale_avx512, shift_avx512},
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
    const ds_philox_keys keys = ds_philox_schedule(rows.key_low, rows.key_high);
    run_units(units, threads, [&](std::size_t unit) {
        const std::size_t row = unit / units_per_row, begin = unit % units_per_row * kUnit;
        const std::size_t end = std::min(dimension, begin + kUnit);
        const Stream stream{keys, rows.samples[row], rows.images[row], rows.phases[row]};
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
