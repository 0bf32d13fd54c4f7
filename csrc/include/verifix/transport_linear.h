// The largest value of a linear form over a ball of local transport plans, and a plan that attains it.
//
// For an image x >= 0 of C planes, a form g, and costs of the k x k offsets of a window, the ball is all images that a
// plan makes of x: plan[d, i] >= 0 moves mass from pixel i along offset d inside its plane and the image, rows sum to x,
// and the sum of plan * cost is at most the budget E. Its dual has one variable,
//
//     h(g) = min over lam >= 0 of  lam E + sum_i x_i f_i(lam),   f_i(lam) = max_d (g at i + d, less lam cost_d),
//
// convex and piecewise linear; every lam gives an upper bound. Offsets of equal cost are one class: its largest g is
// found once, and f_i takes a comparison for each class.
//
// Each lam that is tried names a plan, of value V and cost C, whose line V + lam (E - C) is below h. Where the lines of
// the cheapest plan known above the budget and of the dearest one known within it meet is the next lam. The value there
// is that of the mixture of the two plans that spends E: a lower bound, and at the end the maximiser.
//
// Arithmetic is in double, in 32 partial sums whatever the vectors are, so that all implementations agree in every bit.
// How `upper` is made to be one in real arithmetic: see transport_linear_arithmetic.h.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

#include "verifix/isa.h"

namespace verifix {

// T is float or double. Pairs k of an image and a row: which image[k] and which row[k].
template <class T>
struct TransportLinear {
    std::int64_t images, rows, channels, height, width, window, pairs;
    const T* x;                 // (images, channels, height, width)
    const T* g;                 // (rows, channels, height, width)
    const std::int64_t* image;  // (pairs), from 0 to images - 1
    const std::int64_t* row;    // (pairs), from 0 to rows - 1
    const double* cost;         // (window * window), host memory: finite, >= 0, zero at the center
    const double* budget;       // (images)
    double* upper;              // (pairs): at least h(g); NaN where g has a NaN, infinite or NaN where it is infinite
    double* multiplier;         // (pairs): the lam it belongs to; infinite where nothing moves
    T* z;                       // null, or (pairs, channels, height, width): the image of a maximiser
    double* value;              // null, or (pairs): <g, z>
    double* plan_cost;          // null, or (pairs): what the plan costs, at most the budget
};

// Throws std::invalid_argument where a size, a cost, an index or a pointer cannot be, threads < 1, or the processor
// lacks the instructions.
template <class T>
void transport_linear_cpu(const TransportLinear<T>& job, int threads, Isa isa);

// The same on the current CUDA device, enqueued on `stream` (a cudaStream_t); all pointers but `cost` are device memory.
// Does not wait, and so finds NaN where an index is out of range. The window is at most 15; `workspace` has `bytes` for
// as many warps as may run, each with channels * height * width * (sizeof(T) * (costs that differ) + 12) bytes, rounded up
// to 16. Throws std::runtime_error where the launch fails.
template <class T>
void transport_linear_cuda(const TransportLinear<T>& job, void* workspace, std::int64_t bytes, void* stream);

// What every implementation checks first; the number of elements of an image.
template <class T>
std::int64_t check_transport_linear(const TransportLinear<T>& job) {
    const auto refuse = [](const std::string& why) { throw std::invalid_argument("transport_linear: " + why); };
    if (job.images < 0 || job.rows < 0 || job.pairs < 0 || job.channels < 1 || job.height < 1 || job.width < 1) {
        refuse("sizes must be >= 0, and those of an image >= 1");
    }
    if (job.window < 1 || job.window % 2 == 0 || job.window > 255) refuse("the window must be odd, from 1 to 255");
    std::int64_t size = 0, total = 0;
    if (__builtin_mul_overflow(job.channels, job.height, &size) || __builtin_mul_overflow(size, job.width, &size) ||
        size > INT32_MAX / 4 || __builtin_mul_overflow(size, job.images, &total) ||
        __builtin_mul_overflow(size, job.rows, &total) || __builtin_mul_overflow(size, job.pairs, &total)) {
        refuse("too many elements");
    }
    if (job.height > INT32_MAX / 4 - job.window || job.width > INT32_MAX / 4 - job.window) refuse("image too large");
    if (job.pairs > 0 && (job.images == 0 || job.rows == 0)) refuse("pairs of no image or no row");
    const bool primal = job.z != nullptr;
    if (job.pairs > 0 && (job.x == nullptr || job.g == nullptr || job.image == nullptr || job.row == nullptr ||
                          job.cost == nullptr || job.budget == nullptr || job.upper == nullptr ||
                          job.multiplier == nullptr || (job.value == nullptr) == primal ||
                          (job.plan_cost == nullptr) == primal)) {
        refuse("a null pointer");
    }
    return size;
}

}  // namespace verifix
