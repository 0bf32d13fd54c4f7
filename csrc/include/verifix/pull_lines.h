// Coefficient rows pulled back through lines, elementwise, and the gradient of that.
//
// Of rows (n, r, m), lines (n, m) each and a shift (m):
//   pulled = slope_p max(rows, 0) + slope_n min(rows, 0)                                  (n, r, m)
//   offset = sum over m of offset_p max(rows, 0) + offset_n min(rows, 0) + shift pulled   (n, r)
// Arrays are contiguous. A null line or shift is zero; a null result is not wanted. A NaN in a row, or a zero times a line that is
// not finite, makes NaN. In gradients a row's entry of zero is on the side of the positive ones.
//
// On the CPU one image is the work of one thread, and sums have a fixed order: results are the same in every bit for every
// number of threads and every instruction set. The CUDA code gives the same bits but for the offset, whose sums have another
// order, which depends on m alone.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

#include "verifix/isa.h"

namespace verifix {

template <class T>
struct LinesOfImages {
    const T *slope_p, *offset_p, *slope_n, *offset_n;
    const T* shift;  // of all images
};

template <class T>
struct PullLines {
    std::int64_t n, r, m;
    const T* rows;
    LinesOfImages<T> lines;
    T* pulled;
    T* offset;
};

// Gradients of the rows, of the lines, and of the shift by images, (n, m), from those of the results; a null gradient of a
// result is zero.
template <class T>
struct PullLinesGradient {
    std::int64_t n, r, m;
    const T* rows;
    LinesOfImages<T> lines;
    const T* of_pulled;
    const T* of_offset;
    T* of_rows;
    T *of_slope_p, *of_offset_p, *of_slope_n, *of_offset_n;
    T* of_shift;
};

// T is float or double. Throw std::invalid_argument where a size is negative, there are more than 2^63 - 1 elements, rows
// or the offset (of_offset) are null though there are elements, threads < 1, or the processor lacks the instructions.
template <class T>
void pull_lines_cpu(const PullLines<T>& job, int threads, Isa isa);
template <class T>
void pull_lines_gradient_cpu(const PullLinesGradient<T>& job, int threads, Isa isa);

// The same on the current CUDA device, enqueued on `stream` (a cudaStream_t); the pointers are device memory. Do not wait.
// Throw std::runtime_error where the launch fails.
template <class T>
void pull_lines_cuda(const PullLines<T>& job, void* stream);
template <class T>
void pull_lines_gradient_cuda(const PullLinesGradient<T>& job, void* stream);

inline void check_pull_lines(std::int64_t n, std::int64_t r, std::int64_t m, const void* rows, const void* offset) {
    const std::string text = std::to_string(n) + ", " + std::to_string(r) + ", " + std::to_string(m);
    std::int64_t bounds = 0, elements = 0, entries = 0;
    if (n < 0 || r < 0 || m < 0 || __builtin_mul_overflow(n, r, &bounds) || __builtin_mul_overflow(bounds, m, &elements) ||
        __builtin_mul_overflow(n, m, &entries)) {
        throw std::invalid_argument("pull_lines: shape (" + text + "): sizes must be >= 0, and their products below 2^63");
    }
    if ((elements > 0 && rows == nullptr) || (bounds > 0 && offset == nullptr)) {
        throw std::invalid_argument("pull_lines: a null pointer with shape (" + text + ")");
    }
}

}  // namespace verifix
