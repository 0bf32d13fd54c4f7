// What relu_lines.cpp and the kernels of each instruction set share.
#pragma once

#include <stdint.h>

#include "verifix/relu_lines.h"

namespace verifix {

// Handle entries [first, last).
#define VERIFIX_DECLARE(isa)                                                                             \
    namespace isa {                                                                                      \
    void relu_lines_range(const ReluLines<float>& job, int64_t first, int64_t last) noexcept;            \
    void relu_lines_range(const ReluLines<double>& job, int64_t first, int64_t last) noexcept;           \
    void relu_lines_range(const ReluLinesGradient<float>& job, int64_t first, int64_t last) noexcept;    \
    void relu_lines_range(const ReluLinesGradient<double>& job, int64_t first, int64_t last) noexcept;   \
    }
VERIFIX_DECLARE(base)
VERIFIX_DECLARE(avx2)
VERIFIX_DECLARE(avx512)
#undef VERIFIX_DECLARE

}  // namespace verifix
