// Fills rows of grid-Gaussian noise on the CPU. Knows pointers and sizes, nothing of Python.
#ifndef DIFFSMOOTH_SAMPLER_H
#define DIFFSMOOTH_SAMPLER_H

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace diffsmooth {

// The packed alias table of grid_gaussian.h: 2^column_bits entries.
struct Law {
    const std::uint64_t* table;
    int column_bits;
    int reach;
};

// Row r draws from the nonce (phases[r], images[r], samples[r]) under the key.
struct Rows {
    std::uint32_t key[8];  // its 32 bytes as little-endian words
    const std::uint64_t* phases;
    const std::uint64_t* images;
    const std::uint64_t* samples;
    std::size_t count;  // how many rows
};

// How to run. Neither field changes a bit of the output.
struct Execution {
    unsigned threads;     // 0: one a processor
    std::string variant;  // empty: the first of variants()
};

// The code paths this processor can run, fastest first ("avx512", "avx2", "portable").
std::vector<std::string> variants();

// All outputs are [rows, dimension], C order. `source` maps an output row to its row of pixels or values;
// null: r to r.
void grid_noise(const Law& law, const Rows& rows, std::size_t dimension, std::int32_t* out,
                const Execution& how);
void noisy_images(const Law& law, const Rows& rows, std::size_t dimension, const std::uint8_t* pixels,
                  const std::int64_t* source, float* out, const Execution& how);
void add_noise(const Law& law, const Rows& rows, std::size_t dimension, const float* values,
               const std::int64_t* source, float* out, const Execution& how);

}  // namespace diffsmooth

#endif
