#include "verifix/abs_median.h"

#include <vector>

#include "abs_median_columns.h"
#include "verifix/parallel.h"

namespace verifix {
namespace {

// Below this many elements a second thread costs more than it saves.
constexpr std::int64_t elements_worth_a_thread = 16384;

// Batcher's merge exchange for any number of rows (Knuth, The Art of Computer Programming 3, algorithm 5.2.2M), without
// the steps, and the halves of steps, that do not lead to row `rank`.
std::vector<Exchange> selection_network(int rows, int rank) {
    std::vector<Exchange> sort;
    int top = 1;
    while (2 * top < rows) top *= 2;
    for (int p = top; p > 0; p /= 2) {
        for (int q = top, r = 0, distance = p;; distance = q - p, q /= 2, r = p) {
            for (int i = 0; i + distance < rows; ++i) {
                if ((i & p) == r) {
                    sort.push_back(
                        {static_cast<std::uint16_t>(i), static_cast<std::uint16_t>(i + distance), Exchange::both});
                }
            }
            if (q == p) break;
        }
    }
    std::vector<bool> needed(rows, false);
    needed[rank] = true;
    std::vector<Exchange> kept;
    for (auto step = sort.rbegin(); step != sort.rend(); ++step) {
        const int keep = (needed[step->low] ? Exchange::minimum : 0) | (needed[step->high] ? Exchange::maximum : 0);
        if (keep == 0) continue;
        needed[step->low] = needed[step->high] = true;
        kept.push_back({step->low, step->high, static_cast<Exchange::Keep>(keep)});
    }
    return {kept.rbegin(), kept.rend()};
}

template <class T>
void run_tiles(const AbsMedianColumns<T>& job, std::int64_t first, std::int64_t last, Isa isa) noexcept {
    switch (isa) {
#if defined(__x86_64__)
        case Isa::avx512:
            return avx512::abs_median_tiles(job, first, last);
        case Isa::avx2:
            return avx2::abs_median_tiles(job, first, last);
#endif
        default:
            return base::abs_median_tiles(job, first, last);
    }
}

}  // namespace

template <class T>
void abs_median_cpu(const T* x, T* values, std::int64_t* index, AbsMedianShape shape, int threads, Isa isa) {
    check_abs_median(x, values, index, shape);
    if (threads < 1) throw std::invalid_argument("abs_median: threads = " + std::to_string(threads) + ": must be >= 1");
    if (!isa_supported(isa))
        throw std::invalid_argument(std::string("abs_median: this processor lacks ") + isa_name(isa));
    const std::int64_t columns = shape.batch * shape.n;
    if (columns == 0) return;

    std::vector<Exchange> steps;
    if (shape.k <= abs_median_network_rows) {
        steps = selection_network(static_cast<int>(shape.k), static_cast<int>((shape.k - 1) / 2));
    }
    const AbsMedianColumns<T> job{x,       values,  index,        columns,
                                  shape.k, shape.n, steps.data(), static_cast<std::int64_t>(steps.size())};
    constexpr std::int64_t lanes = abs_median_tile_bytes / sizeof(T);
    const std::int64_t tiles = (columns - 1) / lanes + 1;
    if (columns * shape.k < elements_worth_a_thread) threads = 1;
    parallel_ranges(tiles, threads, [&](std::int64_t first, std::int64_t last) { run_tiles(job, first, last, isa); });
}

template void abs_median_cpu(const float*, float*, std::int64_t*, AbsMedianShape, int, Isa);
template void abs_median_cpu(const double*, double*, std::int64_t*, AbsMedianShape, int, Isa);

}  // namespace verifix
