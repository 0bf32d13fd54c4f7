// Counting a piece of the rows of one input, as a block of threads does it; free of CUDA, so that tests run it on the host.
//
// A Block has two functions: each(first, last, body) calls body(i) for those of [first, last) that are a thread's own,
// and returns when all threads have done so, if they share memory; add(count, votes) adds where others add too.
#pragma once

#include "verifix/votes.h"

#if defined(__CUDACC__)
#define VERIFIX_VOTES __device__ __forceinline__
#else
#define VERIFIX_VOTES inline
#endif

namespace verifix {

constexpr std::int64_t votes_rows_of_piece = 4096, votes_most_shared = 4096;

inline std::int64_t votes_pieces(VotesShape shape) { return (shape.count - 1) / votes_rows_of_piece + 1; }

// Whether a block counts in shared memory, `votes` of classes + 1 numbers.
inline bool votes_shared(VotesShape shape) { return shape.classes + 1 <= votes_most_shared; }

// The piece `work` of n * pieces.
template <bool shared, class T, class Block>
VERIFIX_VOTES void count_piece(const Block& block, const T* logits, std::int64_t* counts, const VotesShape& shape,
                               std::int64_t pieces, std::int64_t work, int* votes) {
    const std::int64_t columns = shape.classes + 1;
    const std::int64_t input = work / pieces, first = work % pieces * votes_rows_of_piece;
    const std::int64_t last = first + votes_rows_of_piece < shape.count ? first + votes_rows_of_piece : shape.count;
    const T* const rows = logits + input * shape.count * shape.classes;
    std::int64_t* const total = counts + input * columns;
    if (!shared) {
        block.each(first, last, [&](std::int64_t row) {
            block.add(total + vote(rows + row * shape.classes, shape.classes), 1);
        });
        return;
    }
    block.each(0, columns, [&](std::int64_t c) { votes[c] = 0; });
    block.each(first, last, [&](std::int64_t row) {
        block.add(votes + vote(rows + row * shape.classes, shape.classes), 1);
    });
    block.each(0, columns, [&](std::int64_t c) {
        if (votes[c] != 0) block.add(total + c, votes[c]);
    });
}

}  // namespace verifix
