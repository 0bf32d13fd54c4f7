// The loops themselves, compiled once for each instruction set: VERIFIX_ISA_NAMESPACE says which. Entries are independent
// and without branches; the compiler makes vectors of them.

#include <stdint.h>

#include "relu_lines_range.h"

namespace verifix {
namespace VERIFIX_ISA_NAMESPACE {
namespace {

template <class T>
void run(const ReluLines<T>& job, int64_t first, int64_t last) noexcept {
    const T *__restrict lower = job.lower, *__restrict upper = job.upper;
    T *__restrict slope = job.slope, *__restrict offset = job.offset, *__restrict steep = job.steep;
    for (int64_t i = first; i < last; ++i) {
        const T low = lower[i] > T(0) ? T(0) : lower[i], high = upper[i] < T(0) ? T(0) : upper[i];  // NaN stays
        const T width = high - low;
        const T share = high / (width == T(0) ? T(1) : width) + (width - width);
        slope[i] = share;
        offset[i] = -share * low;
        steep[i] = high > -low ? T(1) : T(0);
    }
}

template <class T>
void run(const ReluLinesGradient<T>& job, int64_t first, int64_t last) noexcept {
    const T *__restrict lower = job.lower, *__restrict upper = job.upper;
    const T *__restrict of_slope = job.of_slope, *__restrict of_offset = job.of_offset;
    T *__restrict of_lower = job.of_lower, *__restrict of_upper = job.of_upper;
    for (int64_t i = first; i < last; ++i) {
        const T low = lower[i] > T(0) ? T(0) : lower[i], high = upper[i] < T(0) ? T(0) : upper[i];
        const T width = high - low, divisor = width == T(0) ? T(1) : width, share = high / divisor;
        const T of_high = (of_slope[i] - of_offset[i] * low) / divisor, moved = of_high * share;
        of_lower[i] = lower[i] <= T(0) ? moved - of_offset[i] * share : T(0);
        of_upper[i] = upper[i] >= T(0) ? of_high - moved : T(0);
    }
}

}  // namespace

void relu_lines_range(const ReluLines<float>& job, int64_t first, int64_t last) noexcept { run(job, first, last); }
void relu_lines_range(const ReluLines<double>& job, int64_t first, int64_t last) noexcept { run(job, first, last); }
void relu_lines_range(const ReluLinesGradient<float>& job, int64_t first, int64_t last) noexcept { run(job, first, last); }
void relu_lines_range(const ReluLinesGradient<double>& job, int64_t first, int64_t last) noexcept { run(job, first, last); }

}  // namespace VERIFIX_ISA_NAMESPACE
}  // namespace verifix
