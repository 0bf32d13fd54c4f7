// The adjoint of a convolution of few input channels, and its gradients.
//
// Channels lie last: rows are (n, height, width, channels), results (n, out_height, out_width, inputs). With taps (a, b, k)
// in [taps_h] x [taps_w] x [inputs], at most 64 of them, and pixels of the padding left out,
//   result[i, stride_h y + a - padding_h, stride_w x + b - padding_w, k] += rows[i, y, x, :] . weight[:, a, b, k].
// A block is 64 bytes of numbers; channels are whole blocks.
// One image is the work of one thread, and sums have a fixed order: results are the same in every bit for every number of
// threads and every instruction set.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

#include "verifix/isa.h"

namespace verifix {

struct NarrowShape {
    std::int64_t n, height, width, channels;  // of the rows
    std::int64_t out_height, out_width, inputs;
    std::int64_t taps_h, taps_w, stride_h, stride_w, padding_h, padding_w;
};

inline constexpr std::int64_t most_narrow_taps = 64;

// The weight is (channels, taps), with zeros up to whole blocks of taps.
template <class T>
struct NarrowAdjoint {
    NarrowShape shape;
    const T *rows, *weight;
    T* result;
};

// The weight is (taps, channels). Gradients of the rows, and of the weight by images, (n, taps, channels): null where not
// wanted.
template <class T>
struct NarrowAdjointGradient {
    NarrowShape shape;
    const T *rows, *weight, *of_result;
    T *of_rows, *of_weight;
};

// T is float or double. Throw std::invalid_argument where a size is below 1 (n: below 0) or 2^28 and more, a padding is
// negative, there are too many taps, channels are no whole blocks, there are 2^63 elements or more, a pointer is null,
// threads < 1, or the processor lacks the instructions.
template <class T>
void narrow_adjoint_cpu(const NarrowAdjoint<T>& job, int threads, Isa isa);
template <class T>
void narrow_adjoint_gradient_cpu(const NarrowAdjointGradient<T>& job, int threads, Isa isa);

template <class T>
void check_narrow(const NarrowShape& s) {
    const std::int64_t least[] = {s.height,     s.width,  s.channels, s.out_height, s.out_width,
                                  s.inputs,     s.taps_h, s.taps_w,   s.stride_h,   s.stride_w};
    const std::int64_t most = std::int64_t{1} << 28;
    bool good = s.n >= 0 && s.padding_h >= 0 && s.padding_w >= 0 && s.padding_h < most && s.padding_w < most;
    for (const std::int64_t size : least) good = good && size >= 1 && size < most;
    const auto fits = [](std::int64_t a, std::int64_t b, std::int64_t c, std::int64_t d) {
        std::int64_t product = a;
        return !__builtin_mul_overflow(product, b, &product) && !__builtin_mul_overflow(product, c, &product) &&
               !__builtin_mul_overflow(product, d, &product);
    };
    if (!good || !fits(s.n, s.height, s.width, s.channels) || !fits(s.n, s.out_height, s.out_width, s.inputs) ||
        !fits(s.n, most_narrow_taps, s.channels, 1)) {
        throw std::invalid_argument("narrow_adjoint: sizes must be >= 1 (n and padding >= 0), below 2^28, products below 2^63");
    }
    if (!fits(s.taps_h, s.taps_w, s.inputs, 1) || s.taps_h * s.taps_w * s.inputs > most_narrow_taps) {
        throw std::invalid_argument("narrow_adjoint: more than " + std::to_string(most_narrow_taps) + " taps");
    }
    if (s.channels % (64 / static_cast<std::int64_t>(sizeof(T))) != 0) {
        throw std::invalid_argument("narrow_adjoint: " + std::to_string(s.channels) + " channels: must be blocks of 64 bytes");
    }
}

}  // namespace verifix
