// Backward bound passes on CUDA: the plan and the request of backward.h, on a stream.
//
// Pointers that the plan is given (but those to offsets and indices of sparse steps and planes) and those of the request
// are of the device; the plan borrows its weights, which must outlive it. A schedule says which rows go together and where
// their coefficients are; it is made once for all passes from the same rows of a node. The caller copies its tables to the
// device, and gives memory to work in: nothing is allocated here, and nothing waits for the device.
#pragma once

#include <cstdint>
#include <vector>

#include "verifix/backward.h"

namespace verifix {

template <class T>
class BackwardSchedule {
public:
    // For unit rows, their positions in the order of the rows (on the host); null where rows are given by coefficients.
    // Where each of so many inputs has its own rows, row_offsets (on the host) says where they begin; else it is null.
    // Throws std::invalid_argument for what does not fit the plan, which must outlive the schedule.
    BackwardSchedule(const Plan<T>& plan, int start, std::int64_t rows, const std::int64_t* positions, std::int64_t inputs,
                     const std::int64_t* row_offsets);
    ~BackwardSchedule();
    BackwardSchedule(BackwardSchedule&&) noexcept;

    const std::vector<std::uint8_t>& tables() const;

    // A pair is an input and up to 32 rows. Work is cut so that the memory given is enough for the pairs in it.
    std::int64_t pairs(std::int64_t inputs) const;
    std::int64_t bytes_per_pair() const;

    struct Parts;  // csrc/cuda/backward_schedule.h
    const Parts& parts() const { return *parts_; }

private:
    std::unique_ptr<Parts> parts_;
};

struct BackwardMemory {
    const void* tables;  // a copy of the schedule's, aligned to 16 bytes
    void* workspace;     // aligned to 16 bytes
    std::int64_t bytes;  // of the workspace; for one pair at least
};

// The start, the rows, their positions and offsets are those of the schedule. Throws std::invalid_argument for a
// request that does not fit, and std::runtime_error where a launch fails.
template <class T>
void backward_cuda(const BackwardSchedule<T>& schedule, const BackwardRequest<T>& request, const BackwardMemory& memory,
                   void* stream);

}  // namespace verifix
