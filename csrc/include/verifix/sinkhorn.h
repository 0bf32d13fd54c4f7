// Projected and conjugate Sinkhorn: entropic projection onto the local Wasserstein ball (Wong's thesis, algorithm 8), and
// entropic linear maximisation over it (section 5.1.6), image by image.
//
// Images are (channels, rows, columns), divided by their mass; lambda is for those. docs/wasserstein-sinkhorn.md derives
// the iteration; sinkhorn_step.h has its arithmetic.
#pragma once

#include <cmath>
#include <cstdint>
#include <stdexcept>
#include <string>

#include "verifix/isa.h"
#include "verifix/sinkhorn_job.h"

namespace verifix {

// T is float or double. Throws std::invalid_argument where the shape is impossible (negative, an even window, more than
// 2^40 elements with their borders), a pointer is null though there are images, a cost is not finite, negative, zero but
// at the center or not zero there, the rule is out of range, threads < 1, or the processor lacks the instructions.
template <class T>
void projected_sinkhorn_cpu(const Sinkhorn<T>& job, int threads, Isa isa);

// The same on the current CUDA device, enqueued on `stream` (a cudaStream_t); all pointers are device memory, and so is
// `workspace`, of sinkhorn_workspace bytes. Images get NaN for costs that cannot be. Does not wait. Throws
// std::runtime_error where the launch fails.
std::int64_t sinkhorn_workspace(const SinkhornShape& shape);
template <class T>
void projected_sinkhorn_cuda(const Sinkhorn<T>& job, void* workspace, void* stream);

// Conjugate Sinkhorn, by the same rules; classes of costs have at most 2^40 elements together.
template <class T>
void conjugate_sinkhorn_cpu(const ConjugateSinkhorn<T>& job, int threads, Isa isa);
template <class T>
void conjugate_sinkhorn_cuda(const ConjugateSinkhorn<T>& job, void* workspace, void* stream);

inline std::string sinkhorn_text(const SinkhornShape& shape) {
    const auto [images, channels, rows, columns, window] = shape;
    return "shape (" + std::to_string(images) + ", " + std::to_string(channels) + ", " + std::to_string(rows) + ", " +
           std::to_string(columns) + "), window " + std::to_string(window);
}

inline void check_sinkhorn_shape(const SinkhornShape& shape) {
    const auto [images, channels, rows, columns, window] = shape;
    if (images < 0 || channels < 0 || rows < 0 || columns < 0 || window < 1 || window % 2 == 0 || window > 1023) {
        throw std::invalid_argument("sinkhorn: " + sinkhorn_text(shape) +
                                    ": sizes must be >= 0, windows odd and below 1024");
    }
    std::int64_t size = 0;
    if (__builtin_mul_overflow(rows + window, columns + window + 16, &size) ||
        __builtin_mul_overflow(size, channels, &size) || __builtin_mul_overflow(size, images, &size) ||
        size > std::int64_t{1} << 40) {
        throw std::invalid_argument("sinkhorn: " + sinkhorn_text(shape) + ": more than 2^40 elements");
    }
}

inline void check_sinkhorn_costs(const double* costs, std::int64_t window) {
    const std::int64_t offsets = window * window;
    for (std::int64_t d = 0; d < offsets; ++d) {
        const double cost = costs[d];
        if (!(d == offsets / 2 ? cost == 0 : cost > 0 && std::isfinite(cost))) {
            throw std::invalid_argument("sinkhorn: cost " + std::to_string(cost) + " of offset " + std::to_string(d) +
                                        ": must be 0 at the center and positive elsewhere");
        }
    }
}

// What all check first; false where there is nothing to do. Costs are looked at where they can be.
template <class T>
bool check_sinkhorn(const Sinkhorn<T>& job, bool costs_on_host) {
    check_sinkhorn_shape(job.shape);
    const SinkhornRule& rule = job.rule;
    const bool good = rule.regularisation > 0 && std::isfinite(rule.regularisation) && rule.tolerance >= 0 &&
                      rule.max_sweeps >= 0 && rule.relaxation > 0 && rule.relaxation < 2 && rule.momentum >= 0 &&
                      rule.momentum < 1;
    if (!good) throw std::invalid_argument("sinkhorn: regularisation, tolerance, sweeps, relaxation or momentum");
    if (job.shape.images == 0) return false;
    if (job.cost == nullptr || job.budget == nullptr || job.column_residual == nullptr || job.plan_cost == nullptr ||
        job.multiplier == nullptr || job.sweeps == nullptr || job.converged == nullptr ||
        (job.shape.channels * job.shape.rows * job.shape.columns > 0 &&
         (job.x == nullptr || job.w == nullptr || job.z == nullptr))) {
        throw std::invalid_argument("sinkhorn: a null pointer with " + sinkhorn_text(job.shape));
    }
    if (costs_on_host) check_sinkhorn_costs(job.cost, job.shape.window);
    return true;
}

template <class T>
bool check_sinkhorn(const ConjugateSinkhorn<T>& job, bool costs_on_host) {
    check_sinkhorn_shape(job.shape);
    const bool good = job.regularisation > 0 && std::isfinite(job.regularisation) && job.tolerance >= 0 &&
                      std::isfinite(job.tolerance) && job.max_sweeps >= 0;
    if (!good) throw std::invalid_argument("sinkhorn: regularisation, tolerance or sweeps");
    if (job.shape.images == 0) return false;
    if (job.cost == nullptr || job.budget == nullptr || job.value == nullptr || job.upper == nullptr ||
        job.plan_cost == nullptr || job.multiplier == nullptr || job.sweeps == nullptr || job.converged == nullptr ||
        (job.shape.channels * job.shape.rows * job.shape.columns > 0 &&
         (job.x == nullptr || job.g == nullptr || job.z == nullptr))) {
        throw std::invalid_argument("sinkhorn: a null pointer with " + sinkhorn_text(job.shape));
    }
    if (costs_on_host) check_sinkhorn_costs(job.cost, job.shape.window);
    return true;
}

// Whether costs depend on the distances along rows and along columns alone.
inline bool symmetric_costs(const double* cost, std::int64_t window) {
    const auto at = [&](std::int64_t i, std::int64_t j) { return cost[i * window + j]; };
    for (std::int64_t i = 0; i < window; ++i) {
        for (std::int64_t j = 0; j < window; ++j) {
            if (at(i, j) != at(window - 1 - i, j) || at(i, j) != at(i, window - 1 - j)) return false;
        }
    }
    return true;
}

}  // namespace verifix
