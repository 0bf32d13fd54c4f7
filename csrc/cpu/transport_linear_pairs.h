// What transport_linear.cpp and the kernels of each instruction set share. Plain C types only, see
// abs_median_columns.h.
#pragma once

#include <stdint.h>

namespace verifix {

// Offset (di, dj) of a class; those of class p are first[p] to first[p + 1] - 1.
struct TransportOffset {
    int32_t di, dj;
};

// The pixels of a plane that see an entry of the row other than zero; none where bottom <= top.
struct TransportBox {
    int64_t top, bottom, left, right;
};

template <class T>
struct TransportPairs {
    int64_t channels, height, width, radius;
    int32_t classes;
    const T* x;
    const T* g;
    const int64_t* image;
    const int64_t* row;
    const TransportOffset* offsets;
    const int32_t* first;      // (classes + 1)
    const double* class_cost;  // (classes), ascending from zero
    const double* budget;
    double* upper;
    double* multiplier;
    T* z;
    double* value;
    double* plan_cost;
};

// Memory of one worker: capacity is the number of pixels, rounded up to whole groups of lanes.
template <class T>
struct TransportScratch {
    int64_t capacity;
    T* padded;            // (channels, height + 2 radius, width + 2 radius): the row, minus infinity outside of the image
    T* largest;           // (classes, pixels): the largest entry of the row in each class
    double* mass;         // (capacity): the pixels that have mass and see the row
    double* values;       // (classes, capacity)
    int32_t* place;       // (capacity)
    double* image;        // (pixels), for the maximiser
    double* price;        // (classes)
    TransportBox* boxes;  // (channels)
};

// Pairs [first, last), one set of these functions for each instruction set.
#define VERIFIX_DECLARE(isa)                                                                                 \
    namespace isa {                                                                                          \
    void transport_linear_pairs(const TransportPairs<float>& job, const TransportScratch<float>& scratch,    \
                                int64_t first, int64_t last) noexcept;                                       \
    void transport_linear_pairs(const TransportPairs<double>& job, const TransportScratch<double>& scratch,  \
                                int64_t first, int64_t last) noexcept;                                       \
    }
VERIFIX_DECLARE(base)
VERIFIX_DECLARE(avx2)
VERIFIX_DECLARE(avx512)
#undef VERIFIX_DECLARE

}  // namespace verifix
