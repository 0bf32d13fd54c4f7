// Boxes as midpoint and radius, before and after an increasing function of two linear pieces that meet at zero (ReLU,
// leaky ReLU), and the gradient of that.
//
// With l = m - r and u = m + r, elementwise: the image is [h(l), h(u)], h(z) = left z for z < 0, else right z, given as
// radius (h(u) - h(l)) / 2 and midpoint h(l) + radius. An l of +inf and a u of -inf, which no network reaches, are NaN:
// something overflowed. All implementations agree in every bit but those of NaN.
#pragma once

#include <stdint.h>

#include <stdexcept>
#include <string>

#include "verifix/interval_image_job.h"
#include "verifix/isa.h"

namespace verifix {

// Throw std::invalid_argument where count is negative, a pointer is null that may not be, a slope is negative or not
// finite, threads < 1, or the processor lacks the instructions. Defined for float and double.
template <class T>
void interval_image_cpu(const IntervalImage<T>& job, int threads, Isa isa);
template <class T>
void interval_image_gradient_cpu(const IntervalImageGradient<T>& job, int threads, Isa isa);

// The same on the current CUDA device, enqueued on `stream` (a cudaStream_t); the pointers are device memory. Do not
// wait. Throw std::runtime_error where the launch fails.
template <class T>
void interval_image_cuda(const IntervalImage<T>& job, void* stream);
template <class T>
void interval_image_gradient_cuda(const IntervalImageGradient<T>& job, void* stream);

// What all check first; false where there is nothing to do.
template <class T>
bool check_interval_image(const char* name, std::int64_t count, T left, T right, bool null, bool unpaired) {
    const std::string text = std::string(name) + ": ";
    if (count < 0) throw std::invalid_argument(text + "count = " + std::to_string(count) + ": must be >= 0");
    for (const T slope : {left, right}) {
        if (!(slope >= T(0) && slope - slope == T(0))) {
            throw std::invalid_argument(text + "slope = " + std::to_string(slope) + ": must be finite and >= 0");
        }
    }
    if (count > 0 && null) throw std::invalid_argument(text + "a null pointer for " + std::to_string(count) + " entries");
    if (unpaired) throw std::invalid_argument(text + "one of a pair of pointers is null");
    return count > 0;
}

template <class T>
bool check_job(const IntervalImage<T>& job) {
    const bool null = job.midpoint == nullptr || job.radius == nullptr || job.image_midpoint == nullptr ||
                      job.image_radius == nullptr || job.pieces == nullptr;
    const bool unpaired = (job.lower == nullptr) != (job.upper == nullptr);
    return check_interval_image("interval_image", job.count, job.left, job.right, null, unpaired);
}

template <class T>
bool check_job(const IntervalImageGradient<T>& job) {
    const bool null = job.pieces == nullptr || job.midpoint == nullptr || job.radius == nullptr ||
                      (job.image_midpoint == nullptr && job.lower == nullptr);
    const bool unpaired = (job.lower == nullptr) != (job.upper == nullptr) ||
                          (job.image_midpoint == nullptr) != (job.image_radius == nullptr);
    return check_interval_image("interval_image_gradient", job.count, job.left, job.right, null, unpaired);
}

}  // namespace verifix
