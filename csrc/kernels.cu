// The GPU's part of a step: noise into an engine's input, local noise between engines, labels, votes.
// Includes only our headers, so nvcc and NVRTC take it, and after host_shim.h any C++ compiler does: its
// arithmetic is tested there.
//
// Arithmetic is written in single roundings (no contraction, whatever the flags), halves are made and read by
// integer arithmetic, sums have a fixed order and atomics are integers: outputs are the same bits on every
// device, run and grid. Every kernel is a grid-stride loop, right for any number of blocks and threads.
#include "grid_gaussian.h"

#if defined(__CUDA_ARCH__)
#define DS_MUL(a, b) __fmul_rn(a, b)
#define DS_ADD(a, b) __fadd_rn(a, b)
#define DS_DIV(a, b) __fdiv_rn(a, b)
#else
#define DS_MUL(a, b) ((a) * (b))
#define DS_ADD(a, b) ((a) + (b))
#define DS_DIV(a, b) ((a) / (b))
#endif

#define DS_KERNEL extern "C" __global__ void
#define DS_EACH(i, count)                                                               \
    for (ds_u64 i = (ds_u64)blockIdx.x * blockDim.x + threadIdx.x; i < (ds_u64)(count); \
         i += (ds_u64)gridDim.x * blockDim.x)

// device/launch.py has the same numbers.
enum { DS_FP32 = 0, DS_FP16 = 1, DS_BF16 = 2 };

union ds_bits {
    float value;
    unsigned int word;
};

DS_HD float ds_float(unsigned int word) {
    ds_bits bits;
    bits.word = word;
    return bits.value;
}

DS_HD unsigned int ds_word(float value) {
    ds_bits bits;
    bits.value = value;
    return bits.word;
}

// Nearest half, ties to even; as IEEE 754 converts, except that every NaN becomes the one quiet NaN of its
// sign.
DS_HD unsigned int ds_to_half(float value) {
    unsigned int word = ds_word(value), sign = word >> 16 & 0x8000u, size = word & 0x7FFFFFFFu;
    if (size >= 0x47800000u) return sign | (size > 0x7F800000u ? 0x7E00u : 0x7C00u);
    if (size < 0x33000000u) return sign;
    if (size < 0x38800000u) {  // a subnormal half: a multiple of 2^-24
        unsigned int drop = 126u - (size >> 23), digits = 0x800000u | (size & 0x7FFFFFu);
        unsigned int kept = digits >> drop, rest = digits & ((1u << drop) - 1u), middle = 1u << (drop - 1u);
        return sign | (kept + (rest > middle || (rest == middle && (kept & 1u)) ? 1u : 0u));
    }
    size -= 0x38000000u;
    return sign | (size + 0xFFFu + (size >> 13 & 1u)) >> 13;
}

DS_HD float ds_from_half(unsigned int half) {
    unsigned int sign = (half & 0x8000u) << 16, exponent = half >> 10 & 31u, digits = half & 1023u;
    if (exponent == 31u) return ds_float(sign | 0x7F800000u | digits << 13);
    if (exponent) return ds_float(sign | (exponent + 112u) << 23 | digits << 13);
    return ds_float(sign | ds_word(DS_MUL((float)digits, 5.9604644775390625e-8f)));
}

DS_HD unsigned int ds_to_bfloat(float value) {
    unsigned int word = ds_word(value);
    if ((word & 0x7FFFFFFFu) > 0x7F800000u) return (word >> 16 & 0x8000u) | 0x7FC0u;
    return (word + 0x7FFFu + (word >> 16 & 1u)) >> 16;
}

DS_HD float ds_load(const void* values, ds_u64 i, int dtype) {
    if (dtype == DS_FP32) return ((const float*)values)[i];
    unsigned int half = ((const unsigned short*)values)[i];
    return dtype == DS_FP16 ? ds_from_half(half) : ds_float(half << 16);
}

DS_HD unsigned int ds_encode(float value, int dtype) {
    return dtype == DS_FP32 ? ds_word(value) : dtype == DS_FP16 ? ds_to_half(value) : ds_to_bfloat(value);
}

DS_HD void ds_store(void* values, ds_u64 i, float value, int dtype) {
    if (dtype == DS_FP32)
        ((float*)values)[i] = value;
    else
        ((unsigned short*)values)[i] = (unsigned short)ds_encode(value, dtype);
}

struct __align__(16) ds_quad {
    unsigned int word[4];
};

// Four neighbours in one access; i is a multiple of 4 and `values` aligned to 16 bytes.
DS_HD void ds_store4(void* values, ds_u64 i, const float value[4], int dtype) {
    unsigned int w[4];
    for (int j = 0; j < 4; ++j) w[j] = ds_encode(value[j], dtype);
    if (dtype == DS_FP32) {
        ds_quad quad = {{w[0], w[1], w[2], w[3]}};
        ((ds_quad*)values)[i / 4] = quad;
    } else {
        ((ds_u64*)values)[i / 4] = (ds_u64)(w[1] << 16 | w[0]) | (ds_u64)(w[3] << 16 | w[2]) << 32;
    }
}

// Where coordinate i of a row in [C,H,W] order stands in it, in [H,W,C] order if `nhwc`.
DS_HD unsigned int ds_place(unsigned int i, int channels, int area, int nhwc) {
    return nhwc ? i % (unsigned int)area * (unsigned int)channels + i / (unsigned int)area : i;
}

// The noise of coordinates 8·octet … 8·octet + 7.
DS_HD void ds_noise8(const ds_u64* table, int column_bits, int reach, const ds_u32* subkey, ds_u64 sample,
                     ds_u64 octet, int k[8]) {
    ds_chacha_key key;
    for (int i = 0; i < 8; ++i) key.word[i] = subkey[i];
    const ds_chacha_block block = ds_chacha(key, octet, sample);
    for (int j = 0; j < DS_WORDS_PER_BLOCK; ++j) {
        const ds_u64 word = ds_chacha_word(block, j);
        k[j] = ds_grid_value(word, table[ds_grid_column(word, column_bits)], column_bits, reach);
    }
}

// In all kernels `words` is [3, rows]: phases, images, samples, the nonce of each row under its key, and
// `subkeys` is [rows, 8], made of the first two by ds_subkeys. A row's coordinates are channels × area, noise
// and pixels in [C,H,W] order; `nhwc` says that an array of floats is not.

// subkeys[r] of the key's 8 words and the row's image, and its phase, or `phase` for all rows where
// `one_phase`.
DS_KERNEL ds_subkeys(const ds_u32* key, const ds_u64* words, ds_u64 rows, int one_phase, ds_u64 phase,
                     ds_u32* out) {
    ds_chacha_key whole;
    for (int i = 0; i < 8; ++i) whole.word[i] = key[i];
    DS_EACH(row, rows) {
        const ds_chacha_key made = ds_hchacha(whole, one_phase ? phase : words[row], words[rows + row]);
        for (int i = 0; i < 8; ++i) out[8 * row + i] = made.word[i];
    }
}

// out [rows, count]: the noise in units of 1/255.
DS_KERNEL ds_grid_noise(const ds_u64* table, int column_bits, int reach, const ds_u32* subkeys,
                        const ds_u64* words, ds_u64 rows, ds_u64 count, int* out) {
    const ds_u64 octets = (count + 7) / 8;
    DS_EACH(i, rows * octets) {
        const ds_u64 row = i / octets, octet = i % octets;
        int k[8];
        ds_noise8(table, column_bits, reach, subkeys + 8 * row, words[2 * rows + row], octet, k);
        for (int j = 0; j < 8; ++j)
            if (8 * octet + j < count) out[row * count + 8 * octet + j] = k[j];
    }
}

// out[r] = (pixels[source[r]] + noise of row r) / 255.
DS_KERNEL ds_noisy_images(const ds_u64* table, int column_bits, int reach, const ds_u32* subkeys,
                          const ds_u64* words, const unsigned char* pixels, const long long* source,
                          ds_u64 rows, int channels, int area, void* out, int dtype, int nhwc) {
    const unsigned int size = (unsigned int)channels * (unsigned int)area, octets = (size + 7) / 8;
    DS_EACH(i, rows * octets) {
        const ds_u64 row = i / octets;
        const unsigned int first = 8 * (unsigned int)(i % octets);
        const unsigned char* from = pixels + (ds_u64)source[row] * size;
        int k[8];
        float value[8];
        ds_noise8(table, column_bits, reach, subkeys + 8 * row, words[2 * rows + row], first / 8, k);
        for (int j = 0; j < 8; ++j)
            value[j] = first + j < size ? ds_scaled_pixel(from[first + j], k[j]) : 0.0f;
        if (!nhwc && size % 8 == 0) {
            ds_store4(out, row * size + first, value, dtype);
            ds_store4(out, row * size + first + 4, value + 4, dtype);
        } else {
            for (int j = 0; j < 8; ++j)
                if (first + j < size)
                    ds_store(out, row * size + ds_place(first + j, channels, area, nhwc), value[j], dtype);
        }
    }
}

// out[j, r] = values[r] + noise[j], j < copies; noise [copies, channels × area] fp32, or null for none: a
// conversion.
DS_KERNEL ds_add_fixed_noise(const void* values, int dtype, int nhwc, const float* noise, ds_u64 copies,
                             ds_u64 rows, int channels, int area, void* out, int out_dtype, int out_nhwc) {
    const unsigned int size = (unsigned int)channels * (unsigned int)area;
    DS_EACH(i, copies * rows * size) {
        const ds_u64 at = i / size, copy = at / rows, row = at % rows;
        const unsigned int coordinate = (unsigned int)(i % size);
        float value = ds_load(values, row * size + ds_place(coordinate, channels, area, nhwc), dtype);
        if (noise) value = DS_ADD(value, noise[copy * size + coordinate]);
        ds_store(out, at * size + ds_place(coordinate, channels, area, out_nhwc), value, out_dtype);
    }
}

// out[j, r] = values[r] + noise of copy first + j of `of` copies of row r, j < copies: sample word
// (phase + 1)·2^56 + sample·of + copy (noise/counters.py), phase and image as in `subkeys`.
DS_KERNEL ds_add_fresh_noise(const ds_u64* table, int column_bits, int reach, const ds_u32* subkeys,
                             const ds_u64* words, ds_u64 of, ds_u64 first_copy, const void* values, int dtype,
                             int nhwc, ds_u64 copies, ds_u64 rows, int channels, int area, void* out,
                             int out_dtype, int out_nhwc) {
    const unsigned int size = (unsigned int)channels * (unsigned int)area, octets = (size + 7) / 8;
    DS_EACH(i, copies * rows * octets) {
        const ds_u64 at = i / octets, copy = first_copy + at / rows, row = at % rows;
        const unsigned int first = 8 * (unsigned int)(i % octets);
        const ds_u64 sample = ((words[row] + 1) << 56) + words[2 * rows + row] * of + copy;
        int k[8];
        ds_noise8(table, column_bits, reach, subkeys + 8 * row, sample, first / 8, k);
        for (int j = 0; j < 8; ++j)
            if (first + j < size) {
                float value = ds_load(values, row * size + ds_place(first + j, channels, area, nhwc), dtype);
                ds_store(out, at * size + ds_place(first + j, channels, area, out_nhwc),
                         ds_shifted_value(value, k[j]), out_dtype);
            }
    }
}

DS_HD long long ds_argmax(const void* scores, ds_u64 from, int classes, int dtype) {
    long long best = 0;
    float highest = ds_load(scores, from, dtype);
    for (int c = 1; c < classes; ++c) {
        float score = ds_load(scores, from + c, dtype);
        if (score > highest) {
            highest = score;
            best = c;
        }
    }
    return best;
}

// labels[r] = the highest of scores[r, classes], ties to the lowest class.
DS_KERNEL ds_winners(const void* scores, int dtype, ds_u64 rows, int classes, long long* labels) {
    DS_EACH(row, rows) labels[row] = ds_argmax(scores, row * classes, classes, dtype);
}

// e^x for x ≤ 0, within 2^-22 of it relatively; 0 from −75 down, so that no share of up to 2^16 classes is
// subnormal. Cody and Waite's reduction, Taylor's polynomial.
DS_HD float ds_exp(float x) {
    if (!(x > -75.0f)) return 0.0f;
    const float magic = 12582912.0f;  // 1.5·2^23: adding it rounds to an integer
    float shifted = DS_ADD(DS_MUL(x, 1.44269504f), magic), n = DS_ADD(shifted, -magic);
    float r = DS_ADD(DS_ADD(x, DS_MUL(n, -0.693359375f)), DS_MUL(n, 2.12194440e-4f));
    const float factor[7] = {1.9841270e-4f, 1.3888889e-3f, 8.3333333e-3f, 4.1666667e-2f,
                             1.6666667e-1f, 0.5f,          1.0f};
    float sum = factor[0];
    for (int i = 1; i < 7; ++i) sum = DS_ADD(DS_MUL(sum, r), factor[i]);
    sum = DS_ADD(DS_MUL(sum, r), 1.0f);
    return DS_MUL(sum, ds_float((unsigned int)((int)n + 127) << 23));
}

// total[r] = (carry ? total[r] : 0) + softmax(logits[0, r]) + … + softmax(logits[copies − 1, r]), each sum in
// that order; labels[r] = the highest of total[r], ties to the lowest class, unless `labels` is null.
DS_KERNEL ds_soft_votes(const void* logits, int dtype, ds_u64 copies, ds_u64 rows, int classes, int carry,
                        float* total, long long* labels) {
    DS_EACH(row, rows) {
        float* sums = total + row * classes;
        for (ds_u64 copy = 0; copy < copies; ++copy) {
            const ds_u64 from = (copy * rows + row) * classes;
            const float highest = ds_load(logits, from + ds_argmax(logits, from, classes, dtype), dtype);
            float norm = 0.0f;
            for (int c = 0; c < classes; ++c)
                norm = DS_ADD(norm, ds_exp(DS_ADD(ds_load(logits, from + c, dtype), -highest)));
            for (int c = 0; c < classes; ++c) {
                float share = DS_DIV(ds_exp(DS_ADD(ds_load(logits, from + c, dtype), -highest)), norm);
                sums[c] = carry || copy ? DS_ADD(sums[c], share) : share;
            }
        }
        if (labels) labels[row] = ds_argmax(sums, 0, classes, DS_FP32);
    }
}

// counts[slots[r], labels[r]] += 1 for each row; a slot below 0 is padding, which does not vote.
DS_KERNEL ds_count_votes(const long long* labels, const int* slots, ds_u64 rows, int bins, ds_u64* counts) {
    DS_EACH(row, rows) {
        const int slot = slots[row];
        if (slot >= 0) atomicAdd(&counts[(ds_u64)slot * bins + labels[row]], 1ULL);
    }
}

// Sets bit `bit` of *flags where any value is NaN or infinite.
DS_KERNEL ds_find_nonfinite(const void* values, int dtype, ds_u64 count, int bit, ds_u64* flags) {
    int found = 0;
    DS_EACH(i, count) found |= (ds_word(ds_load(values, i, dtype)) & 0x7F800000u) == 0x7F800000u;
    if (found) atomicOr(flags, 1ULL << bit);
}

// Tells the host how far a step has come, in memory that it can read after the device has failed.
DS_KERNEL ds_mark(int* place, int stage) {
    if (blockIdx.x == 0 && threadIdx.x == 0) {
        *(volatile int*)place = stage;
        __threadfence_system();
    }
}
