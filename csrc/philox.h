// Philox4x64-10 (Salmon, Moraes, Dror, Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3"): 256 random
// bits as a pure function of a 256-bit counter and a 128-bit key. Includes nothing, so g++, nvcc and NVRTC
// all take it.
#ifndef DIFFSMOOTH_PHILOX_H
#define DIFFSMOOTH_PHILOX_H

#if defined(__CUDACC__)
#define DS_HD __host__ __device__ __forceinline__
#elif defined(__GNUC__)
#define DS_HD inline __attribute__((always_inline))
#else
#define DS_HD inline
#endif

typedef unsigned long long ds_u64;

#define DS_PHILOX_ROUNDS 10
#define DS_PHILOX_M0 0xD2E7470EE14C6C93ULL
#define DS_PHILOX_M1 0xCA5A826395121157ULL
#define DS_PHILOX_W0 0x9E3779B97F4A7C15ULL
#define DS_PHILOX_W1 0xBB67AE8584CAA73BULL

struct ds_philox_block {
    ds_u64 word[4];
};

// Round keys of one key; computed once, used for every counter under it.
struct ds_philox_keys {
    ds_u64 k0[DS_PHILOX_ROUNDS];
    ds_u64 k1[DS_PHILOX_ROUNDS];
};

DS_HD ds_u64 ds_mulhi64(ds_u64 a, ds_u64 b) {
#if defined(__CUDA_ARCH__)
    return __umul64hi(a, b);
#elif defined(__SIZEOF_INT128__)
    __extension__ typedef unsigned __int128 u128;
    return (ds_u64)(((u128)a * b) >> 64);
#else
    ds_u64 a0 = a & 0xFFFFFFFFULL, a1 = a >> 32, b0 = b & 0xFFFFFFFFULL, b1 = b >> 32;
    ds_u64 t = a1 * b0 + ((a0 * b0) >> 32);
    ds_u64 u = a0 * b1 + (t & 0xFFFFFFFFULL);
    return a1 * b1 + (t >> 32) + (u >> 32);
#endif
}

// The key is one 128-bit integer: k0 its low word, k1 its high word.
DS_HD ds_philox_keys ds_philox_schedule(ds_u64 k0, ds_u64 k1) {
    ds_philox_keys keys;
    for (int r = 0; r < DS_PHILOX_ROUNDS; ++r) {
        keys.k0[r] = k0 + (ds_u64)r * DS_PHILOX_W0;
        keys.k1[r] = k1 + (ds_u64)r * DS_PHILOX_W1;
    }
    return keys;
}

// The four words of counter (c0, c1, c2, c3), in the order numpy.random.Philox gives them out.
DS_HD ds_philox_block ds_philox(ds_u64 c0, ds_u64 c1, ds_u64 c2, ds_u64 c3, const ds_philox_keys& keys) {
#if defined(__GNUC__) && !defined(__clang__) && !defined(__CUDACC__)
#pragma GCC unroll 10
#endif
    for (int r = 0; r < DS_PHILOX_ROUNDS; ++r) {
        ds_u64 hi0 = ds_mulhi64(DS_PHILOX_M0, c0), lo0 = DS_PHILOX_M0 * c0;
        ds_u64 hi1 = ds_mulhi64(DS_PHILOX_M1, c2), lo1 = DS_PHILOX_M1 * c2;
        c0 = hi1 ^ c1 ^ keys.k0[r];
        c1 = lo1;
        c2 = hi0 ^ c3 ^ keys.k1[r];
        c3 = lo0;
    }
    ds_philox_block block = {{c0, c1, c2, c3}};
    return block;
}

#endif
