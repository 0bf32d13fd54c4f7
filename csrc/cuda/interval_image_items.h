// What a thread of interval_image.cu does. It also compiles for the host, where tests run it.
#pragma once

#include <stdint.h>

#include "verifix/interval_image_job.h"

namespace verifix {

constexpr int interval_image_threads = 256;  // of a block

VERIFIX_INLINE int64_t interval_image_blocks(int64_t count) {
    constexpr int64_t most = 65536;
    const int64_t blocks = (count - 1) / interval_image_threads + 1;
    return blocks < most ? blocks : most;
}

template <class T>
VERIFIX_INLINE void interval_image_item(const IntervalImage<T>& job, int64_t i) {
    const ImageOfBox<T> found = image_of_box(job.midpoint[i], job.radius[i], job.left, job.right);
    job.image_midpoint[i] = found.midpoint;
    job.image_radius[i] = found.radius;
    job.pieces[i] = found.pieces;
    if (job.lower != nullptr) {
        job.lower[i] = found.lower;
        job.upper[i] = found.upper;
    }
}

template <class T>
VERIFIX_INLINE void interval_image_item(const IntervalImageGradient<T>& job, int64_t i) {
    const bool images = job.image_midpoint != nullptr, bounds = job.lower != nullptr;
    const GradientOfBox<T> found =
        gradient_of_box(job.pieces[i], images ? job.image_midpoint[i] : T(0), images ? job.image_radius[i] : T(0),
                        bounds ? job.lower[i] : T(0), bounds ? job.upper[i] : T(0), job.left, job.right);
    job.midpoint[i] = found.midpoint;
    job.radius[i] = found.radius;
}

// A thread of so many takes one entry, and then every one that lies so many further on.
template <class Job>
VERIFIX_INLINE void interval_image_thread(const Job& job, int64_t thread, int64_t threads) {
    for (int64_t i = thread; i < job.count; i += threads) interval_image_item(job, i);
}

}  // namespace verifix
