// Median of absolute values over the middle axis of a contiguous (batch, k, n) array.
//
// For each column (b, j) of the (batch, n) outputs, with |x[b, :, j]| sorted ascending:
//   values[b, j] = element (k - 1) / 2, the lower median for even k;
//   index[b, j] = the smallest i at which |x[b, i, j]| is equal to it.
// Where the column holds a NaN, the value is the canonical quiet NaN and the index the smallest i at which x is NaN.
// Absolute values are compared as integers (their bits order as they do), so no floating-point mode has an effect, and
// all implementations agree in every bit.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

#include "verifix/isa.h"

namespace verifix {

struct AbsMedianShape {
    std::int64_t batch, k, n;
};

// T is float or double. Throws std::invalid_argument where the shape is impossible (negative, k = 0, k >= 2^31, more
// than 2^63 - 1 elements), a pointer is null though there are elements, threads < 1, or the processor lacks the
// instructions.
template <class T>
void abs_median_cpu(const T* x, T* values, std::int64_t* index, AbsMedianShape shape, int threads, Isa isa);

// The same on the current CUDA device, enqueued on `stream` (a cudaStream_t); the pointers are device memory. Does not
// wait. Throws std::runtime_error where the launch fails.
template <class T>
void abs_median_cuda(const T* x, T* values, std::int64_t* index, AbsMedianShape shape, void* stream);

// What both check first.
inline void check_abs_median(const void* x, const void* values, const void* index, AbsMedianShape shape) {
    const auto [batch, k, n] = shape;
    const std::string text = std::to_string(batch) + ", " + std::to_string(k) + ", " + std::to_string(n);
    if (batch < 0 || k < 1 || n < 0 || k > INT32_MAX) {
        throw std::invalid_argument("abs_median: shape (" + text + "): sizes must be >= 0, and k from 1 to 2^31 - 1");
    }
    std::int64_t columns = 0, elements = 0;
    if (__builtin_mul_overflow(batch, n, &columns) || __builtin_mul_overflow(columns, k, &elements)) {
        throw std::invalid_argument("abs_median: shape (" + text + "): more than 2^63 - 1 elements");
    }
    if (columns > 0 && (x == nullptr || values == nullptr || index == nullptr)) {
        throw std::invalid_argument("abs_median: a null pointer with shape (" + text + ")");
    }
}

}  // namespace verifix
