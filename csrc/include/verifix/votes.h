// Counting the answers of a classifier on noisy copies.
//
// A row of logits votes for its largest entry, the first among equals; a row with a NaN votes for `classes`, the last of
// the classes + 1 columns of counts.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

#include "verifix/inline.h"

namespace verifix {

struct VotesShape {
    std::int64_t n, count, classes;
};

// Adds the votes of contiguous logits (n, count, classes) to counts (n, classes + 1). T is float or double. Throws
// std::invalid_argument where the shape is impossible (negative, no class, more than 2^63 - 1 elements), a pointer is
// null though there are elements, or threads < 1.
template <class T>
void add_votes_cpu(const T* logits, std::int64_t* counts, VotesShape shape, int threads);

// The same on the current CUDA device, enqueued on `stream` (a cudaStream_t); the pointers are device memory. Does not
// wait. Throws std::runtime_error where the launch fails.
template <class T>
void add_votes_cuda(const T* logits, std::int64_t* counts, VotesShape shape, void* stream);

// What one row votes for.
template <class T>
VERIFIX_INLINE std::int64_t vote(const T* row, std::int64_t classes) {
    std::int64_t top = 0;
    T largest = row[0];
    bool invalid = largest != largest;
    for (std::int64_t c = 1; c < classes; ++c) {
        const T value = row[c];
        invalid |= value != value;
        top = value > largest ? c : top;
        largest = value > largest ? value : largest;
    }
    return invalid ? classes : top;
}

// What both check first; false where there is nothing to count.
inline bool check_votes(const void* logits, const void* counts, VotesShape shape) {
    const auto [n, count, classes] = shape;
    const std::string text = std::to_string(n) + ", " + std::to_string(count) + ", " + std::to_string(classes);
    if (n < 0 || count < 0 || classes < 1) {
        throw std::invalid_argument("add_votes: shape (" + text + "): sizes must be >= 0, and classes >= 1");
    }
    std::int64_t rows = 0, elements = 0;
    if (classes == INT64_MAX || __builtin_mul_overflow(n, count, &rows) ||
        __builtin_mul_overflow(rows, classes + 1, &elements)) {
        throw std::invalid_argument("add_votes: shape (" + text + "): more than 2^63 - 1 elements");
    }
    if (rows > 0 && (logits == nullptr || counts == nullptr)) {
        throw std::invalid_argument("add_votes: a null pointer with shape (" + text + ")");
    }
    return rows > 0;
}

}  // namespace verifix
