// The loops themselves, compiled once for each instruction set: VERIFIX_ISA_NAMESPACE says which. Entries are independent
// and without branches; the compiler makes vectors of them.

#include <stdint.h>

#include "interval_image_range.h"

namespace verifix {
namespace VERIFIX_ISA_NAMESPACE {
namespace {

template <bool bounds, class T>
void images(const IntervalImage<T>& job, int64_t first, int64_t last) noexcept {
    const T *__restrict midpoint = job.midpoint, *__restrict radius = job.radius;
    T *__restrict image_midpoint = job.image_midpoint, *__restrict image_radius = job.image_radius;
    T *__restrict lower = job.lower, *__restrict upper = job.upper;
    uint8_t* __restrict pieces = job.pieces;
    const T left = job.left, right = job.right;
    for (int64_t i = first; i < last; ++i) {
        const ImageOfBox<T> found = image_of_box(midpoint[i], radius[i], left, right);
        image_midpoint[i] = found.midpoint;
        image_radius[i] = found.radius;
        pieces[i] = found.pieces;
        if (bounds) {
            lower[i] = found.lower;
            upper[i] = found.upper;
        }
    }
}

template <bool images, bool bounds, class T>
void gradients(const IntervalImageGradient<T>& job, int64_t first, int64_t last) noexcept {
    const T *__restrict image_midpoint = job.image_midpoint, *__restrict image_radius = job.image_radius;
    const T *__restrict lower = job.lower, *__restrict upper = job.upper;
    const uint8_t* __restrict pieces = job.pieces;
    T *__restrict midpoint = job.midpoint, *__restrict radius = job.radius;
    const T left = job.left, right = job.right, zero = T(0);
    for (int64_t i = first; i < last; ++i) {
        const GradientOfBox<T> found =
            gradient_of_box(pieces[i], images ? image_midpoint[i] : zero, images ? image_radius[i] : zero,
                            bounds ? lower[i] : zero, bounds ? upper[i] : zero, left, right);
        midpoint[i] = found.midpoint;
        radius[i] = found.radius;
    }
}

template <class T>
void run(const IntervalImage<T>& job, int64_t first, int64_t last) noexcept {
    job.lower == nullptr ? images<false>(job, first, last) : images<true>(job, first, last);
}

template <class T>
void run(const IntervalImageGradient<T>& job, int64_t first, int64_t last) noexcept {
    if (job.lower == nullptr) return gradients<true, false>(job, first, last);
    job.image_midpoint == nullptr ? gradients<false, true>(job, first, last) : gradients<true, true>(job, first, last);
}

}  // namespace

void interval_image_range(const IntervalImage<float>& job, int64_t first, int64_t last) noexcept {
    run(job, first, last);
}
void interval_image_range(const IntervalImage<double>& job, int64_t first, int64_t last) noexcept {
    run(job, first, last);
}
void interval_image_range(const IntervalImageGradient<float>& job, int64_t first, int64_t last) noexcept {
    run(job, first, last);
}
void interval_image_range(const IntervalImageGradient<double>& job, int64_t first, int64_t last) noexcept {
    run(job, first, last);
}

}  // namespace VERIFIX_ISA_NAMESPACE
}  // namespace verifix

#undef VERIFIX_ISA_NAMESPACE
