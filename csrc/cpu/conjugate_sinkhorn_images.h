// What conjugate_sinkhorn.cpp and the kernels of each instruction set share. Plain C types only, as in abs_median_columns.h.
#pragma once

#include <stdint.h>

#include "verifix/conjugate_sinkhorn_step.h"
#include "verifix/sinkhorn_job.h"

namespace verifix {

// Planes of g and of the result have a border of the window's radius. Pixels with mass are gathered, in their order.
struct ConjugateLayout {
    int64_t channels, rows, columns, radius;
    int64_t stride, plane;  // from row to row, from channel to channel, where borders count
    int64_t capacity;       // of gathered pixels, in whole groups of lanes
};

// The offsets of a window in classes of equal cost; the center is the first of all.
struct ConjugateWindow {
    int64_t classes;
    const double* cost;    // of a class, ascending
    const int32_t* first;  // where each begins in steps; one more at the end
    const int64_t* steps;  // from a pixel, where borders count
};

// Memory of one thread.
struct ConjugateMemory {
    double *g, *z;               // planes with borders
    int64_t* place;              // of gathered pixels in them
    double *mass, *top;          // of gathered pixels: x, the largest g of the window,
    double *level, *row, *near;  // the largest level, x over the sum of shares, and what is in one offset
    double *most, *free, *sum;   // of each class: the largest g, its free level, and the sum of shares relative to that
    double* price;               // of each class
};

// Whether another plan is needed: conjugate_next, compiled once, for the plain machine.
bool conjugate_search(ConjugateSearch& search, double cost, double slope, double budget, double tolerance,
                      int64_t max_sweeps) noexcept;

// One image, one set of these functions for each instruction set.
#define VERIFIX_DECLARE(isa)                                                                                      \
    namespace isa {                                                                                               \
    void conjugate_image(const ConjugateSinkhorn<float>& job, int64_t image, const ConjugateLayout& layout,       \
                         const ConjugateWindow& window, const ConjugateMemory& memory) noexcept;                  \
    void conjugate_image(const ConjugateSinkhorn<double>& job, int64_t image, const ConjugateLayout& layout,      \
                         const ConjugateWindow& window, const ConjugateMemory& memory) noexcept;                  \
    }
VERIFIX_DECLARE(base)
VERIFIX_DECLARE(avx2)
VERIFIX_DECLARE(avx512)
#undef VERIFIX_DECLARE

}  // namespace verifix
