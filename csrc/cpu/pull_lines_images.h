// What pull_lines.cpp and the kernels of each instruction set share.
#pragma once

#include <stdint.h>

#include "verifix/pull_lines.h"

namespace verifix {

// Handle images [first, last).
#define VERIFIX_DECLARE(isa)                                                                                    \
    namespace isa {                                                                                             \
    void pull_lines_images(const PullLines<float>& job, int64_t first, int64_t last) noexcept;                  \
    void pull_lines_images(const PullLines<double>& job, int64_t first, int64_t last) noexcept;                 \
    void pull_lines_gradient_images(const PullLinesGradient<float>& job, int64_t first, int64_t last) noexcept;  \
    void pull_lines_gradient_images(const PullLinesGradient<double>& job, int64_t first, int64_t last) noexcept; \
    }
VERIFIX_DECLARE(base)
VERIFIX_DECLARE(avx2)
VERIFIX_DECLARE(avx512)
#undef VERIFIX_DECLARE

}  // namespace verifix
