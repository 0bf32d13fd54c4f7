// What interval_image.cpp and the kernels of each instruction set share.
#pragma once

#include <stdint.h>

#include "verifix/interval_image_job.h"

namespace verifix {

// Handles entries [first, last), one set of these functions for each instruction set.
#define VERIFIX_DECLARE(isa)                                                                                    \
    namespace isa {                                                                                             \
    void interval_image_range(const IntervalImage<float>& job, int64_t first, int64_t last) noexcept;           \
    void interval_image_range(const IntervalImage<double>& job, int64_t first, int64_t last) noexcept;          \
    void interval_image_range(const IntervalImageGradient<float>& job, int64_t first, int64_t last) noexcept;   \
    void interval_image_range(const IntervalImageGradient<double>& job, int64_t first, int64_t last) noexcept;  \
    }
VERIFIX_DECLARE(base)
VERIFIX_DECLARE(avx2)
VERIFIX_DECLARE(avx512)
#undef VERIFIX_DECLARE

}  // namespace verifix
