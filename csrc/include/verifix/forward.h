// Forward passes through one affine step of a plan: intervals, and magnitudes (what |W| and |b| make of absolute values).
#pragma once

#include <cstdint>
#include <vector>

namespace verifix {

// Bounds of the sources of a step, for `inputs` inputs, and where the bounds of its output go. All in the stored order.
template <class T>
struct ForwardRequest {
    std::int32_t node = 0;  // the output of the step
    std::int64_t inputs = 0;
    // One pointer to (inputs, entries) for each source; empty where intervals, or magnitudes, are not wanted.
    std::vector<const T*> lowers, uppers, magnitudes;
    T* lower = nullptr;  // (inputs, entries of the node)
    T* upper = nullptr;
    T* magnitude = nullptr;
    T quantum = T(0);  // added to every magnitude
};

}  // namespace verifix
