// What sinkhorn.cpp and the kernels of each instruction set share. Plain C types only, as in abs_median_columns.h.
#pragma once

#include <stdint.h>

#include "verifix/sinkhorn_job.h"

namespace verifix {

// Columns are handled in blocks of so many lanes, whatever the width of vectors, so that sums have one order.
constexpr int64_t sinkhorn_lanes = 16;
constexpr int64_t sinkhorn_special_radius = 3;  // windows up to 7 x 7 of symmetric costs have code of their own

// Memory of one image: planes with a border of zeros of the window's radius. The border right of a row is the one left of
// the next.
struct SinkhornLayout {
    int64_t channels, rows, columns, radius;
    int64_t blocks, stride, plane;  // of columns; from row to row; from channel to channel
    int64_t origin;                 // of the first pixel in its plane
    int64_t elements;               // of all
};

// v, u, x, target, exponent and velocity have a plane for each channel; a window has planes for one.
constexpr int64_t sinkhorn_fields = 6, sinkhorn_window_planes = 2 * sinkhorn_special_radius + 1;

static inline SinkhornLayout sinkhorn_layout(const SinkhornShape& shape) {
    const int64_t radius = shape.window / 2;
    const int64_t blocks = (shape.columns + sinkhorn_lanes - 1) / sinkhorn_lanes;
    const int64_t stride = (shape.columns + radius + sinkhorn_lanes - 1) / sinkhorn_lanes * sinkhorn_lanes;
    const int64_t plane = (shape.rows + 2 * radius + 2) * stride, weights = 4 * shape.window * shape.window;
    const int64_t elements = (sinkhorn_fields * shape.channels + sinkhorn_window_planes) * plane +
                             blocks * sinkhorn_lanes + (weights + sinkhorn_lanes - 1) / sinkhorn_lanes * sinkhorn_lanes;
    return {shape.channels, shape.rows, shape.columns, radius, blocks, stride, plane, (radius + 1) * stride, elements};
}

// Memory of one thread, all on the boundary of a vector; `narrow` is null where T is double.
template <class T>
struct SinkhornMemory {
    T* narrow;
    double* wide;
};

// One image, one set of these functions for each instruction set. `symmetric`: costs are, and the window is small.
#define VERIFIX_DECLARE(isa)                                                                            \
    namespace isa {                                                                                     \
    void sinkhorn_image(const Sinkhorn<float>& job, int64_t image, bool symmetric,                      \
                        const SinkhornMemory<float>& memory) noexcept;                                  \
    void sinkhorn_image(const Sinkhorn<double>& job, int64_t image, bool symmetric,                     \
                        const SinkhornMemory<double>& memory) noexcept;                                 \
    }
VERIFIX_DECLARE(base)
VERIFIX_DECLARE(avx2)
VERIFIX_DECLARE(avx512)
#undef VERIFIX_DECLARE

}  // namespace verifix
