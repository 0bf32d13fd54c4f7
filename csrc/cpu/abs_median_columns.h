// What abs_median.cpp and the kernels of each instruction set share. Plain C types only: inline functions of the C++
// library would be compiled with the wider instruction set and could replace the plain copy when linking.
#pragma once

#include <stdint.h>

namespace verifix {

// One step of a selection network: puts rows low < high of a tile in order, and keeps what later steps need of them.
struct Exchange {
    enum Keep : uint16_t { minimum = 1, maximum = 2, both = 3 };
    uint16_t low, high;
    Keep keep;
};

// Columns are the (batch, n) outputs in memory order; the kernel handles them in tiles of this many bytes of lanes.
constexpr int64_t abs_median_tile_bytes = 256;
// Up to this k a selection network is used (its steps are given); above it the median is found bit by bit, by counting.
constexpr int64_t abs_median_network_rows = 256;

template <class T>
struct AbsMedianColumns {
    const T* x;
    T* values;
    int64_t* index;
    int64_t columns, k, n;
    const Exchange* steps;
    int64_t step_count;
};

// Handles tiles [first, last), one set of these functions for each instruction set.
#define VERIFIX_DECLARE(isa)                                                                          \
    namespace isa {                                                                                   \
    void abs_median_tiles(const AbsMedianColumns<float>& job, int64_t first, int64_t last) noexcept;  \
    void abs_median_tiles(const AbsMedianColumns<double>& job, int64_t first, int64_t last) noexcept; \
    }
VERIFIX_DECLARE(base)
VERIFIX_DECLARE(avx2)
VERIFIX_DECLARE(avx512)
#undef VERIFIX_DECLARE

}  // namespace verifix
