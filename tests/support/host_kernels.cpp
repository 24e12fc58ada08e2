// csrc/kernels.cu for a processor, behind one function that takes a kernel's name and cuLaunchKernel's
// arguments.
#include <cstring>

#include "../../csrc/host_shim.h"
#include "../../csrc/kernels.cu"

extern "C" int host_launch(const char* name, unsigned int blocks, unsigned int threads, void** arguments) {
#define DS_ENTRY(kernel)                                             \
    if (!std::strcmp(name, #kernel)) {                               \
        diffsmooth_shim::launch(kernel, blocks, threads, arguments); \
        return 0;                                                    \
    }
    DS_ENTRY(ds_subkeys)
    DS_ENTRY(ds_grid_noise)
    DS_ENTRY(ds_noisy_images)
    DS_ENTRY(ds_add_fixed_noise)
    DS_ENTRY(ds_add_fresh_noise)
    DS_ENTRY(ds_winners)
    DS_ENTRY(ds_soft_votes)
    DS_ENTRY(ds_count_votes)
    DS_ENTRY(ds_find_nonfinite)
    DS_ENTRY(ds_mark)
    return 1;
}

// The halves' conversions by themselves.
extern "C" unsigned int host_encode(float value, int dtype) { return ds_encode(value, dtype); }
extern "C" float host_load(const void* values, unsigned long long i, int dtype) {
    return ds_load(values, i, dtype);
}
extern "C" float host_exp(float x) { return ds_exp(x); }
