// What narrow_adjoint.cpp and the kernels of each instruction set share.
#pragma once

#include <stdint.h>

#include "verifix/narrow_adjoint.h"

namespace verifix {

// Handle images [first, last).
#define VERIFIX_DECLARE(isa)                                                                                             \
    namespace isa {                                                                                                      \
    void narrow_adjoint_images(const NarrowAdjoint<float>& job, int64_t first, int64_t last) noexcept;                   \
    void narrow_adjoint_images(const NarrowAdjoint<double>& job, int64_t first, int64_t last) noexcept;                  \
    void narrow_adjoint_gradient_images(const NarrowAdjointGradient<float>& job, int64_t first, int64_t last) noexcept;  \
    void narrow_adjoint_gradient_images(const NarrowAdjointGradient<double>& job, int64_t first, int64_t last) noexcept; \
    }
VERIFIX_DECLARE(base)
VERIFIX_DECLARE(avx2)
VERIFIX_DECLARE(avx512)
#undef VERIFIX_DECLARE

}  // namespace verifix
