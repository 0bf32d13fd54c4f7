// What the blocks and threads of pull_lines.cu do. It also compiles for the host, where tests run it.
#pragma once

#include <stdint.h>

#include "verifix/inline.h"
#include "verifix/pull_lines.h"

#if defined(__CUDACC__)
#define VERIFIX_PULL_LINES __device__ __forceinline__
#else
#define VERIFIX_PULL_LINES inline
#endif

namespace verifix {

constexpr int pull_lines_threads = 256;  // of a block

// How many neighbouring threads share a row, and so how many partial sums its offset has: by m alone, so that no launch
// changes the order of a sum.
inline int pull_lines_lanes(int64_t m) { return m > 1024 ? pull_lines_threads : 32; }

// Blocks for so many pieces of work; more than that they take in turns.
inline int64_t pull_lines_blocks(int64_t work, int64_t of_block) {
    constexpr int64_t most = 65536;
    const int64_t blocks = (work - 1) / of_block + 1;
    return blocks < most ? blocks : most;
}

template <class T>
VERIFIX_INLINE T line_at(const T* line, int64_t place) {
    return line == nullptr ? T(0) : line[place];
}

// NaN stays, as on the CPU.
template <class T>
VERIFIX_INLINE T positive_part(T a) {
    return a <= T(0) ? T(0) : a;
}
template <class T>
VERIFIX_INLINE T negative_part(T a) {
    return a >= T(0) ? T(0) : a;
}

// Entries lane, lane + lanes, ... of row k: pulled, and their part of the offset.
template <class T>
VERIFIX_INLINE T pull_lines_part(const PullLines<T>& job, int64_t k, int lane, int lanes) {
    const LinesOfImages<T>& of = job.lines;
    const bool slopes = job.pulled != nullptr;
    const bool offsets = !slopes || of.offset_p != nullptr || of.offset_n != nullptr || of.shift != nullptr;
    const int64_t row = k * job.m, line = k / job.r * job.m;
    T total = 0;
    for (int64_t j = lane; j < job.m; j += lanes) {
        const T value = job.rows[row + j], p = positive_part(value), n = negative_part(value);
        if (offsets) total += line_at(of.offset_p, line + j) * p + line_at(of.offset_n, line + j) * n;
        if (slopes) {
            const T pulled = line_at(of.slope_p, line + j) * p + line_at(of.slope_n, line + j) * n;
            job.pulled[row + j] = pulled;
            if (offsets) total += pulled * line_at(of.shift, j);
        }
    }
    return total;
}

// As many rows as a block has threads for, from row `first`. `partial` has a number for each thread of the block, and
// block.each(reach, body) runs body(thread) for all of them, after which each group of `reach` neighbours sees what its
// members wrote.
template <class T, class Block>
VERIFIX_PULL_LINES void pull_lines_rows(const PullLines<T>& job, int lanes, int64_t first, T* partial, const Block& block) {
    const int64_t rows = job.n * job.r;
    block.each(lanes, [&](int thread) {
        const int64_t k = first + thread / lanes;
        partial[thread] = k < rows ? pull_lines_part(job, k, thread % lanes, lanes) : T(0);
    });
    for (int width = lanes / 2; width > 0; width /= 2) {
        block.each(2 * width, [&](int thread) {
            if (thread % lanes < width) partial[thread] += partial[thread + width];
        });
    }
    block.each(1, [&](int thread) {
        const int64_t k = first + thread / lanes;
        if (thread % lanes == 0 && k < rows) job.offset[k] = partial[thread];
    });
}

template <class T>
inline bool wants_lines(const PullLinesGradient<T>& job) {
    return job.of_slope_p != nullptr || job.of_slope_n != nullptr || job.of_offset_p != nullptr ||
           job.of_offset_n != nullptr || job.of_shift != nullptr;
}

// Entry j of image i, through all rows; `at` is i m + j. The same operations in the same order as csrc/cpu/pull_lines.inl.
template <class T>
VERIFIX_INLINE void pull_lines_gradient_item(const PullLinesGradient<T>& job, int64_t at) {
    const int64_t i = at / job.m, j = at % job.m;
    const T slope_p = line_at(job.lines.slope_p, at), offset_p = line_at(job.lines.offset_p, at);
    const T slope_n = line_at(job.lines.slope_n, at), offset_n = line_at(job.lines.offset_n, at);
    const T shift = line_at(job.lines.shift, j);
    T of_slope_p = 0, of_slope_n = 0, of_offset_p = 0, of_offset_n = 0;
    for (int64_t k = i * job.r; k < (i + 1) * job.r; ++k) {
        const int64_t place = k * job.m + j;
        const T value = job.rows[place], of_offset = job.of_offset[k];
        const T of_pulled = line_at(job.of_pulled, place) + shift * of_offset;
        if (job.of_rows != nullptr) {
            const T p = slope_p * of_pulled + offset_p * of_offset, n = slope_n * of_pulled + offset_n * of_offset;
            job.of_rows[place] = value >= T(0) ? p : n;
        }
        const T up = positive_part(value), down = negative_part(value);
        of_slope_p += up * of_pulled, of_slope_n += down * of_pulled;
        of_offset_p += up * of_offset, of_offset_n += down * of_offset;
    }
    if (job.of_slope_p != nullptr) job.of_slope_p[at] = of_slope_p;
    if (job.of_slope_n != nullptr) job.of_slope_n[at] = of_slope_n;
    if (job.of_offset_p != nullptr) job.of_offset_p[at] = of_offset_p;
    if (job.of_offset_n != nullptr) job.of_offset_n[at] = of_offset_n;
    if (job.of_shift != nullptr) job.of_shift[at] = slope_p * of_offset_p + slope_n * of_offset_n;
}

// A thread of so many takes one entry, and then every one that lies so many further on.
template <class T>
VERIFIX_INLINE void pull_lines_gradient_thread(const PullLinesGradient<T>& job, int64_t thread, int64_t threads) {
    for (int64_t at = thread; at < job.n * job.m; at += threads) pull_lines_gradient_item(job, at);
}

}  // namespace verifix
