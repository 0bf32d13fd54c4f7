// The lines of ReLU on intervals, and their gradient. With low = min(lower, 0), high = max(upper, 0), width = high - low:
//   slope  = high / width (0 where that is 0), of the chord above;  offset = -slope low, of the same
//   steep  = 1 where high > -low, else 0: the slope below, through the origin, with the smaller area
// A bound that is not known, or a width that overflows, makes NaN. In gradients a bound of zero is on the side of those of
// undecided units. Entries are independent: results are the same in every bit for every number of threads and every
// instruction set.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

#include "verifix/isa.h"

namespace verifix {

template <class T>
struct ReluLines {
    std::int64_t count;
    const T *lower, *upper;
    T *slope, *offset, *steep;
};

// From the gradients of slope and offset; that of steep is zero.
template <class T>
struct ReluLinesGradient {
    std::int64_t count;
    const T *lower, *upper, *of_slope, *of_offset;
    T *of_lower, *of_upper;
};

// T is float or double. Throw std::invalid_argument where the count is negative, a pointer is null though there are entries,
// threads < 1, or the processor lacks the instructions.
template <class T>
void relu_lines_cpu(const ReluLines<T>& job, int threads, Isa isa);
template <class T>
void relu_lines_gradient_cpu(const ReluLinesGradient<T>& job, int threads, Isa isa);

}  // namespace verifix
