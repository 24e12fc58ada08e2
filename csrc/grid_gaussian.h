// The grid Gaussian: one integer k from 64 random bits, by an exact alias table (built in noise/law.py).
// Includes nothing but xchacha20.h, so g++, nvcc and NVRTC all take it.
//
// The table has 2^b columns. Entry i holds (threshold_i << b) | alias_i: column i gives i where the word's
// low 64-b bits are below threshold_i, and alias_i elsewhere; k is that number minus `reach`, the largest k.
// A column that always gives i has alias_i = i, so thresholds never need more than 64-b bits.
#ifndef DIFFSMOOTH_GRID_GAUSSIAN_H
#define DIFFSMOOTH_GRID_GAUSSIAN_H

#include "xchacha20.h"

// Changes when any bit of the noise, or the table's layout, does; noise/counters.py holds the same number.
#define DS_NOISE_VERSION 2

// Coordinate i of a row is word i % 8 of block i / 8.
#define DS_WORDS_PER_BLOCK 8

DS_HD ds_u64 ds_grid_column(ds_u64 word, int column_bits) { return word >> (64 - column_bits); }

// `entry` is the table's at ds_grid_column(word). With the low b bits all set, the comparison is true exactly
// where the word's low bits are below the threshold, whatever the alias stored under it.
DS_HD int ds_grid_value(ds_u64 word, ds_u64 entry, int column_bits, int reach) {
    ds_u64 mask = (1ULL << column_bits) - 1;
    ds_u64 index = ((word << column_bits) | mask) < entry ? ds_grid_column(word, column_bits) : entry & mask;
    return (int)index - reach;
}

// [0,1] is a scale here, not a range: nothing is ever clipped. Both are IEEE divisions, never reciprocals.
DS_HD float ds_scaled_pixel(unsigned char pixel, int k) {
#if defined(__CUDA_ARCH__)
    return __fdiv_rn((float)((int)pixel + k), 255.0f);
#else
    return (float)((int)pixel + k) / 255.0f;
#endif
}

DS_HD float ds_shifted_value(float value, int k) {
#if defined(__CUDA_ARCH__)
    return __fadd_rn(value, __fdiv_rn((float)k, 255.0f));
#else
    return value + (float)k / 255.0f;
#endif
}

#endif
