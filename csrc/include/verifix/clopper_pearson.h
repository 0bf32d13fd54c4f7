// Clopper-Pearson bounds, entry by entry: see verifix/binomial.h for what is computed.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

namespace verifix {

// Entries of each array; successes of trials at a one-sided level.
struct ClopperPearson {
    const std::int64_t *successes, *trials;
    const double* level;
    double *lower, *failure;
    std::int64_t count;
};

// Throws std::invalid_argument where count < 0, a pointer is null though there are entries, or threads < 1.
void clopper_pearson_cpu(const ClopperPearson& job, int threads);

// The same bits on the current CUDA device, enqueued on `stream` (a cudaStream_t); the pointers are device memory. Does
// not wait. Throws std::runtime_error where the launch fails.
void clopper_pearson_cuda(const ClopperPearson& job, void* stream);

// What both check first.
inline void check_clopper_pearson(const ClopperPearson& job) {
    if (job.count < 0) throw std::invalid_argument("clopper_pearson: count = " + std::to_string(job.count));
    if (job.count > 0 && (job.successes == nullptr || job.trials == nullptr || job.level == nullptr ||
                          job.lower == nullptr || job.failure == nullptr)) {
        throw std::invalid_argument("clopper_pearson: a null pointer with count = " + std::to_string(job.count));
    }
}

}  // namespace verifix
