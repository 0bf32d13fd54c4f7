// Random words made into numbers, in float32 operations that have one right result each (+, -, *, square roots and
// conversions): the same bits for every instruction set and on the device. verifix/kernels/noise_reference.py does the
// same in the same order; docs/smoothing-noise.md bounds the errors.
//
// Without branches, so that a loop over words becomes one over vectors.
#pragma once

#include <stdint.h>
#include <string.h>

#include "verifix/philox.h"

namespace verifix {

VERIFIX_INLINE uint32_t bits_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

VERIFIX_INLINE float float_of(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

// -value where the top bit of `sign` is set.
VERIFIX_INLINE float with_sign(float value, uint32_t sign) { return float_of(bits_of(value) ^ (sign & 0x80000000u)); }

// -log((word + 1/2) / 2^bits) for a word below 2^bits. Above one half, 1 - u is taken from the complement of the word,
// which has all of its bits; below, u = m 2^e with m in [1/2, 1). Both leave -log(1 - t) for t in [0, 1/2] and a
// multiple of log 2, and only add positive terms.
template <int bits>
VERIFIX_INLINE float minus_log(uint32_t word) {
    constexpr uint32_t all = 0xFFFFFFFFu >> (32 - bits);
    constexpr float unit = 1.0f / static_cast<float>(1ull << bits);
    const bool top = (word >> (bits - 1)) != 0;
    const uint32_t k = top ? word ^ all : word;
    const float v = static_cast<float>(static_cast<int32_t>(k)) + 0.5f;
    const uint32_t pattern = bits_of(v);
    const float mantissa = float_of((pattern & 0x7FFFFFu) | 0x3F000000u);
    const int32_t exponent = bits + 126 - static_cast<int32_t>(pattern >> 23);
    const float halvings = static_cast<float>(top ? 0 : exponent);
    const float near = v * unit, far = 1.0f - mantissa;
    const float t = top ? near : far;
    float p = 0x1.9e02e6p+0f;
    p = p * t + -0x1.1776b8p+1f;
    p = p * t + 0x1.af93c0p+0f;
    p = p * t + -0x1.c4760ap-2f;
    p = p * t + 0x1.2c8428p-2f;
    p = p * t + 0x1.79b624p-3f;
    p = p * t + 0x1.010058p-2f;
    p = p * t + 0x1.554f30p-2f;
    return halvings * 0x1.62e430p-1f + (t + (t * t) * (0.5f + t * p));
}

struct Turn {
    float cosine, sine;
};

// cos and sin of (word + 1/2) / 2^32 of a full turn: the quadrant and the rest, from -1 to 1 eighth of a turn, are found
// in integers.
VERIFIX_INLINE Turn turn(uint32_t word) {
    const uint32_t quadrant = (word + 0x20000000u) >> 30;
    const int32_t rest = static_cast<int32_t>(word << 2) + 2;
    const float a = static_cast<float>(rest) * 0x1p-31f;
    const float square = a * a;
    float s = -0x1.2d9302p-15f;
    s = s * square + 0x1.465e92p-9f;
    s = s * square + -0x1.4abbbap-4f;
    s = s * square + 0x1.921fb6p-1f;
    s = a * s;
    float c = 0x1.d99f54p-19f;
    c = c * square + -0x1.55c4eap-12f;
    c = c * square + 0x1.03c1dap-6f;
    c = c * square + -0x1.3bd3ccp-2f;
    c = c * square + 1.0f;
    const uint32_t odd = 0u - (quadrant & 1u), cosine_bits = bits_of(c), sine_bits = bits_of(s);
    const uint32_t exchange = (cosine_bits ^ sine_bits) & odd;
    return {with_sign(float_of(cosine_bits ^ exchange), (quadrant + 1) << 30),
            with_sign(float_of(sine_bits ^ exchange), quadrant << 30)};
}

VERIFIX_INLINE float square_root(float value) {
#if defined(__CUDA_ARCH__)
    return __fsqrt_rn(value);
#else
    return __builtin_sqrtf(value);
#endif
}

struct Pair {
    float first, second;
};

// Two independent standard normal numbers (Box and Muller).
VERIFIX_INLINE Pair normal_pair(uint32_t first, uint32_t second) {
    const float exponential = minus_log<32>(first);
    const float radius = square_root(exponential + exponential);
    const Turn angle = turn(second);
    return {radius * angle.cosine, radius * angle.sine};
}

// Of density exp(-|t|) / 2: the top bit is the sign, the others make an exponential.
VERIFIX_INLINE float laplace_number(uint32_t word) { return with_sign(minus_log<31>(word & 0x7FFFFFFFu), word); }

// Uniform on [-1, 1]: the top bit is the sign, the others k make the size (k + 1/2) / 2^31.
VERIFIX_INLINE float uniform_number(uint32_t word) {
    return with_sign((static_cast<float>(static_cast<int32_t>(word & 0x7FFFFFFFu)) + 0.5f) * 0x1p-31f, word);
}

}  // namespace verifix
