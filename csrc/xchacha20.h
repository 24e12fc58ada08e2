// XChaCha20 (Bernstein 2008, "ChaCha, a variant of Salsa20", with a 64-bit counter and a 64-bit nonce;
// Arciszewski 2020, draft-irtf-cfrg-xchacha, for HChaCha20): 512 random bits as a pure function of a 256-bit
// key, a 24-byte nonce and a block number. Includes nothing, so g++, nvcc and NVRTC all take it.
//
// The nonce is (phase, image, sample), three little-endian words of 64 bits. HChaCha20 makes one subkey of
// the key, phase and image; ChaCha20 under it, with the sample as nonce, makes the blocks.
#ifndef DIFFSMOOTH_XCHACHA20_H
#define DIFFSMOOTH_XCHACHA20_H

#if defined(__CUDACC__)
#define DS_HD __host__ __device__ __forceinline__
#elif defined(__GNUC__)
#define DS_HD inline __attribute__((always_inline))
#else
#define DS_HD inline
#endif

typedef unsigned int ds_u32;
typedef unsigned long long ds_u64;

// "expand 32-byte k", as little-endian words.
#define DS_CHACHA_0 0x61707865U
#define DS_CHACHA_1 0x3320646eU
#define DS_CHACHA_2 0x79622d32U
#define DS_CHACHA_3 0x6b206574U
#define DS_CHACHA_DOUBLE_ROUNDS 10

// A key or subkey: its bytes as little-endian words.
struct ds_chacha_key {
    ds_u32 word[8];
};

// One block; the bytes of the keystream are these words, little-endian.
struct ds_chacha_block {
    ds_u32 word[16];
};

// The rounds on 16 words `x`; ROTATE(word, bits) turns a word left. Macros, so that a word may be a vector,
// one block a lane, of whatever instructions the surrounding function is compiled for.
#define DS_ROTATE(x, bits) ((x) << (bits) | (x) >> (32 - (bits)))
#define DS_QUARTER_ROUND(a, b, c, d, ROTATE) \
    a += b, d = ROTATE(d ^ a, 16);           \
    c += d, b = ROTATE(b ^ c, 12);           \
    a += b, d = ROTATE(d ^ a, 8);            \
    c += d, b = ROTATE(b ^ c, 7);
#define DS_CHACHA_ROUNDS(x, ROTATE)                        \
    for (int r = 0; r < DS_CHACHA_DOUBLE_ROUNDS; ++r) {    \
        DS_QUARTER_ROUND(x[0], x[4], x[8], x[12], ROTATE)  \
        DS_QUARTER_ROUND(x[1], x[5], x[9], x[13], ROTATE)  \
        DS_QUARTER_ROUND(x[2], x[6], x[10], x[14], ROTATE) \
        DS_QUARTER_ROUND(x[3], x[7], x[11], x[15], ROTATE) \
        DS_QUARTER_ROUND(x[0], x[5], x[10], x[15], ROTATE) \
        DS_QUARTER_ROUND(x[1], x[6], x[11], x[12], ROTATE) \
        DS_QUARTER_ROUND(x[2], x[7], x[8], x[13], ROTATE)  \
        DS_QUARTER_ROUND(x[3], x[4], x[9], x[14], ROTATE)  \
    }

// The state before the rounds: constants, key, and the two words of 64 bits that the last row holds.
DS_HD ds_chacha_block ds_chacha_state(const ds_chacha_key& key, ds_u64 first, ds_u64 second) {
    ds_chacha_block state = {{DS_CHACHA_0, DS_CHACHA_1, DS_CHACHA_2, DS_CHACHA_3}};
    for (int i = 0; i < 8; ++i) state.word[4 + i] = key.word[i];
    state.word[12] = (ds_u32)first, state.word[13] = (ds_u32)(first >> 32);
    state.word[14] = (ds_u32)second, state.word[15] = (ds_u32)(second >> 32);
    return state;
}

// HChaCha20 of the nonce's first 16 bytes: the first and the last row after the rounds, nothing added.
DS_HD ds_chacha_key ds_hchacha(const ds_chacha_key& key, ds_u64 phase, ds_u64 image) {
    ds_chacha_block x = ds_chacha_state(key, phase, image);
    DS_CHACHA_ROUNDS(x.word, DS_ROTATE)
    ds_chacha_key subkey;
    for (int i = 0; i < 4; ++i) subkey.word[i] = x.word[i], subkey.word[4 + i] = x.word[12 + i];
    return subkey;
}

// Block `block` of the keystream under the subkey.
DS_HD ds_chacha_block ds_chacha(const ds_chacha_key& subkey, ds_u64 block, ds_u64 sample) {
    const ds_chacha_block state = ds_chacha_state(subkey, block, sample);
    ds_chacha_block x = state;
    DS_CHACHA_ROUNDS(x.word, DS_ROTATE)
    for (int i = 0; i < 16; ++i) x.word[i] += state.word[i];
    return x;
}

// The j-th word of 64 bits of a block, j = 0 … 7.
DS_HD ds_u64 ds_chacha_word(const ds_chacha_block& block, int j) {
    return (ds_u64)block.word[2 * j + 1] << 32 | block.word[2 * j];
}

#endif
