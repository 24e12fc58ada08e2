// Runs kernels.cu on a processor: include this, then kernels.cu, in a C++ file compiled with
// -ffp-contract=off. Blocks and threads run in turn, so atomics are plain; a launch takes its arguments as
// cuLaunchKernel does.
#ifndef DIFFSMOOTH_HOST_SHIM_H
#define DIFFSMOOTH_HOST_SHIM_H

#include <cstddef>
#include <utility>

#define __global__
#define __align__(bytes) alignas(bytes)

namespace diffsmooth_shim {

struct Index {
    unsigned int x;
};

template <typename... Values, std::size_t... Places>
void call(void (*kernel)(Values...), void** arguments, std::index_sequence<Places...>) {
    kernel(*static_cast<Values*>(arguments[Places])...);
}

}  // namespace diffsmooth_shim

static thread_local diffsmooth_shim::Index gridDim, blockDim, blockIdx, threadIdx;

static inline unsigned long long atomicAdd(unsigned long long* place, unsigned long long value) {
    unsigned long long before = *place;
    *place += value;
    return before;
}

static inline unsigned long long atomicOr(unsigned long long* place, unsigned long long value) {
    unsigned long long before = *place;
    *place |= value;
    return before;
}

static inline void __threadfence_system() {}

namespace diffsmooth_shim {

template <typename... Values>
void launch(void (*kernel)(Values...), unsigned int blocks, unsigned int threads, void** arguments) {
    gridDim.x = blocks;
    blockDim.x = threads;
    for (blockIdx.x = 0; blockIdx.x < blocks; ++blockIdx.x)
        for (threadIdx.x = 0; threadIdx.x < threads; ++threadIdx.x)
            call(kernel, arguments, std::index_sequence_for<Values...>());
}

}  // namespace diffsmooth_shim

#endif
