// The kernels of noise.cpp, one set of functions for each instruction set: rows [first, last) of a job.
#pragma once

#include "verifix/noise_job.h"

namespace verifix {

#define VERIFIX_DECLARE(isa)                                                                   \
    namespace isa {                                                                            \
    void noise_rows(const AddNoise<float>& job, int64_t first, int64_t last) noexcept;         \
    void noise_rows(const AddNoise<double>& job, int64_t first, int64_t last) noexcept;        \
    void noise_rows(const AddLatticeNoise<float>& job, int64_t first, int64_t last) noexcept;  \
    void noise_rows(const AddLatticeNoise<double>& job, int64_t first, int64_t last) noexcept; \
    void noise_rows(const KeepOrReplace<float>& job, int64_t first, int64_t last) noexcept;    \
    void noise_rows(const KeepOrReplace<double>& job, int64_t first, int64_t last) noexcept;   \
    void noise_rows(const RandomWords& job, int64_t first, int64_t last) noexcept;             \
    }
VERIFIX_DECLARE(base)
VERIFIX_DECLARE(avx2)
VERIFIX_DECLARE(avx512)
#undef VERIFIX_DECLARE

}  // namespace verifix
