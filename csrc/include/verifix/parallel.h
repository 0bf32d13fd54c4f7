// One way to use threads: contiguous ranges of independent items, so results cannot depend on the number of threads.
#pragma once

#include <cstdint>

#if defined(_OPENMP)
#include <omp.h>
#endif

namespace verifix {

// Calls body(first, last) on ranges that together cover [0, count), on at most `threads` threads.
// The body must not throw.
template <class Body>
void parallel_ranges(std::int64_t count, int threads, const Body& body) {
#if defined(_OPENMP)
    if (threads > count) threads = static_cast<int>(count);
    if (threads > 1) {
#pragma omp parallel num_threads(threads)
        {
            const std::int64_t team = omp_get_num_threads();  // may be fewer than asked for
            const std::int64_t rank = omp_get_thread_num();
            const std::int64_t share = count / team, rest = count % team;
            const std::int64_t first = rank * share + (rank < rest ? rank : rest);
            const std::int64_t last = first + share + (rank < rest ? 1 : 0);
            if (first < last) body(first, last);
        }
        return;
    }
#else
    (void)threads;
#endif
    if (count > 0) body(std::int64_t{0}, count);
}

}  // namespace verifix
