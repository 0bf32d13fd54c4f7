// The kernel of transport_project.cpp, one function for each instruction set: images [first, last) of a job.
#pragma once

#include "verifix/transport_project_job.h"

namespace verifix {

// Pixels with mass are taken in blocks of so many; a block is one number of each of its pixels, side by side.
constexpr int64_t transport_block = 8;

// How many doubles of memory, aligned to 64 bytes, the images of such a shape need.
VERIFIX_INLINE int64_t transport_workspace(TransportShape shape) {
    const int64_t offsets = shape.window * shape.window, pixels = shape.channels * shape.height * shape.width;
    const int64_t blocks = (pixels + transport_block - 1) / transport_block;
    return transport_block * (blocks * (offsets + 2) + offsets);  // rows, x, which pixels; the rows of one block, moved
}

#define VERIFIX_DECLARE(isa)                                                                                     \
    namespace isa {                                                                                              \
    void project_plans(const ProjectPlan<float>& job, int64_t first, int64_t last, double* workspace) noexcept;  \
    void project_plans(const ProjectPlan<double>& job, int64_t first, int64_t last, double* workspace) noexcept; \
    }
VERIFIX_DECLARE(base)
VERIFIX_DECLARE(avx2)
VERIFIX_DECLARE(avx512)
#undef VERIFIX_DECLARE

}  // namespace verifix
