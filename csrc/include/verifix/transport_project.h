// Transport plans of images: the nearest feasible one, the image that one makes, and the adjoint of that. See
// verifix/kernels/transport_project.py for what is promised; all implementations agree in every bit.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

#include "verifix/isa.h"
#include "verifix/transport_project_job.h"

namespace verifix {

// T is float or double. All throw std::invalid_argument where the shape is impossible (a negative size, an even window,
// more than 2^63 - 1 entries), a pointer is null though there are entries, threads < 1, or the processor lacks the
// instructions.
template <class T>
void project_plan_cpu(const ProjectPlan<T>& job, int threads, Isa isa);
template <class T>
void plan_image_cpu(const T* plan, T* image, TransportShape shape, int threads);
template <class T>
void plan_gradient_cpu(const T* image, T* plan, TransportShape shape, int threads);

// The same on the current CUDA device, enqueued on `stream` (a cudaStream_t); the pointers are device memory. They do not
// wait. They throw std::runtime_error where the launch fails.
template <class T>
void project_plan_cuda(const ProjectPlan<T>& job, void* stream);
template <class T>
void plan_image_cuda(const T* plan, T* image, TransportShape shape, void* stream);
template <class T>
void plan_gradient_cuda(const T* image, T* plan, TransportShape shape, void* stream);

// How many entries the plans have; throws where that is impossible.
inline std::int64_t transport_entries(TransportShape shape) {
    const auto [n, channels, window, height, width] = shape;
    const std::string text = std::to_string(n) + ", " + std::to_string(channels) + ", window " +
                             std::to_string(window) + ", " + std::to_string(height) + ", " + std::to_string(width);
    if (n < 0 || channels < 0 || height < 0 || width < 0 || window < 1 || window % 2 == 0) {
        throw std::invalid_argument("transport plan: shape (" + text + "): sizes must be >= 0, and the window odd");
    }
    std::int64_t entries = 1;
    for (const std::int64_t size : {n, channels, window, window, height, width}) {
        if (__builtin_mul_overflow(entries, size, &entries)) {
            throw std::invalid_argument("transport plan: shape (" + text + "): more than 2^63 - 1 entries");
        }
    }
    return entries;
}

// What all check first; false where there is nothing to do.
inline bool check_plan_image(const void* plan, const void* image, TransportShape shape) {
    const bool any = transport_entries(shape) > 0;
    if (any && (plan == nullptr || image == nullptr)) throw std::invalid_argument("transport plan: a null pointer");
    return any;
}

template <class T>
bool check_project_plan(const ProjectPlan<T>& job) {
    transport_entries(job.shape);
    if (job.shape.n == 0) return false;
    if (job.cost == nullptr || job.budget == nullptr || job.multiplier == nullptr) {
        throw std::invalid_argument("project_plan: a null pointer");
    }
    if (check_plan_image(job.plan, job.x, job.shape) && job.out == nullptr) {
        throw std::invalid_argument("project_plan: a null pointer");
    }
    return true;
}

}  // namespace verifix
