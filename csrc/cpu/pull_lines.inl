// Rows through lines, compiled once for each instruction set: VERIFIX_ISA_NAMESPACE says which.
//
// Lanes are entries of a row: 64 bytes of them whatever the vectors of the machine, so that sums have the same order.

#include <stdint.h>
#include <string.h>

#include <type_traits>

#include "pull_lines_images.h"

namespace verifix {
namespace VERIFIX_ISA_NAMESPACE {
namespace {

template <class T>
struct Pull {
    typedef T Vector __attribute__((vector_size(64)));
    static constexpr int64_t lanes = 64 / static_cast<int64_t>(sizeof(T));
    static constexpr int64_t block = 16 * lanes;  // entries whose lines stay in the nearest cache for all rows
    static constexpr int64_t group = 16;          // rows whose sums are kept at a time
    static constexpr T zeros[block] = {};         // in place of a line that is not there

    // Entries that the last lanes are short of are zeros.
    template <bool whole>
    static Vector load(const T* numbers, int64_t count) {
        Vector result{};
        memcpy(&result, numbers, whole ? sizeof result : static_cast<size_t>(count) * sizeof(T));
        return result;
    }

    template <bool whole>
    static void store(T* numbers, const Vector& values, int64_t count) {
        memcpy(numbers, &values, whole ? sizeof values : static_cast<size_t>(count) * sizeof(T));
    }

    // Lanes of [0, size): all but the last ones whole.
    template <class Step>
    static inline __attribute__((always_inline)) void each(int64_t size, const Step& step) {
        int64_t j = 0;
        for (; j + lanes <= size; j += lanes) step(std::true_type{}, j);
        if (j < size) step(std::false_type{}, j);
    }

    static LinesOfImages<T> lines_at(const LinesOfImages<T>& of, int64_t line, int64_t begin) {
        const auto at = [](const T* numbers, int64_t place) { return numbers == nullptr ? zeros : numbers + place; };
        return {at(of.slope_p, line), at(of.offset_p, line), at(of.slope_n, line), at(of.offset_n, line), at(of.shift, begin)};
    }

    static Vector positive(const Vector& a) { return a <= T(0) ? Vector{} : a; }  // NaN stays
    static Vector negative(const Vector& a) { return a >= T(0) ? Vector{} : a; }

    static T sum(const Vector& lane) {
        T half[lanes];
        memcpy(half, &lane, sizeof half);
        for (int64_t width = lanes / 2; width > 0; width /= 2) {
            for (int64_t i = 0; i < width; ++i) half[i] += half[i + width];
        }
        return half[0];
    }

    template <bool slopes, bool offsets>
    static Vector part_of_row(const T* a, const LinesOfImages<T>& lines, int64_t size, T* pulled, Vector total) {
        each(size, [&](auto whole, int64_t j) {
            constexpr bool all = decltype(whole)::value;
            const int64_t count = size - j;
            const Vector value = load<all>(a + j, count), p = positive(value), n = negative(value);
            if (offsets) total += load<all>(lines.offset_p + j, count) * p + load<all>(lines.offset_n + j, count) * n;
            if (slopes) {
                const Vector slope = load<all>(lines.slope_p + j, count) * p + load<all>(lines.slope_n + j, count) * n;
                store<all>(pulled + j, slope, count);
                if (offsets) total += slope * load<all>(lines.shift + j, count);
            }
        });
        return total;
    }

    template <bool slopes, bool offsets>
    static void rows_of_image(const PullLines<T>& job, int64_t first, int64_t last, int64_t image) {
        Vector totals[group] = {};
        for (int64_t begin = 0; begin < job.m; begin += block) {
            const int64_t size = block < job.m - begin ? block : job.m - begin;
            const LinesOfImages<T> lines = lines_at(job.lines, image * job.m + begin, begin);
            for (int64_t k = first; k < last; ++k) {
                const int64_t place = k * job.m + begin;
                T* const pulled = slopes ? job.pulled + place : nullptr;
                totals[k - first] = part_of_row<slopes, offsets>(job.rows + place, lines, size, pulled, totals[k - first]);
            }
        }
        for (int64_t k = first; k < last; ++k) job.offset[k] = sum(totals[k - first]);
    }

    static void run(const PullLines<T>& job, int64_t first, int64_t last) {
        const LinesOfImages<T>& of = job.lines;
        const bool offsets = of.offset_p != nullptr || of.offset_n != nullptr || of.shift != nullptr;
        for (int64_t i = first; i < last; ++i) {
            for (int64_t k = i * job.r; k < (i + 1) * job.r; k += group) {
                const int64_t end = k + group < (i + 1) * job.r ? k + group : (i + 1) * job.r;
                if (job.pulled == nullptr) {
                    rows_of_image<false, true>(job, k, end, i);
                } else if (offsets) {
                    rows_of_image<true, true>(job, k, end, i);
                } else {
                    rows_of_image<true, false>(job, k, end, i);
                }
            }
        }
    }

    // Sums over the rows, for a block of entries.
    struct Sums {
        Vector of[block / lanes];
    };

    template <bool of_rows, bool of_lines>
    static void gradient_of_block(const PullLinesGradient<T>& job, int64_t i, int64_t begin, int64_t size) {
        const int64_t m = job.m, line = i * m + begin;
        Sums slope_p, slope_n, offset_p, offset_n;
        if (of_lines) {
            memset(&slope_p, 0, sizeof slope_p), memset(&slope_n, 0, sizeof slope_n);
            memset(&offset_p, 0, sizeof offset_p), memset(&offset_n, 0, sizeof offset_n);
        }
        const LinesOfImages<T> lines = lines_at(job.lines, line, begin);
        for (int64_t k = i * job.r; k < (i + 1) * job.r; ++k) {
            const Vector of_offset = Vector{} + job.of_offset[k];
            const T* const a = job.rows + k * m + begin;
            const T* const g = job.of_pulled == nullptr ? zeros : job.of_pulled + k * m + begin;
            T* const to = of_rows ? job.of_rows + k * m + begin : nullptr;
            each(size, [&](auto whole, int64_t j) {
                constexpr bool all = decltype(whole)::value;
                const int64_t count = size - j;
                const Vector value = load<all>(a + j, count);
                const Vector of_pulled = load<all>(g + j, count) + load<all>(lines.shift + j, count) * of_offset;
                if (of_rows) {
                    const Vector p = load<all>(lines.slope_p + j, count) * of_pulled + load<all>(lines.offset_p + j, count) * of_offset;
                    const Vector n = load<all>(lines.slope_n + j, count) * of_pulled + load<all>(lines.offset_n + j, count) * of_offset;
                    store<all>(to + j, value >= T(0) ? p : n, count);
                }
                if (of_lines) {
                    const Vector up = positive(value), down = negative(value);
                    const int64_t v = j / lanes;
                    slope_p.of[v] += up * of_pulled, slope_n.of[v] += down * of_pulled;
                    offset_p.of[v] += up * of_offset, offset_n.of[v] += down * of_offset;
                }
            });
        }
        if (!of_lines) return;
        const auto write = [&](T* target, const Sums& sums) {
            if (target == nullptr) return;
            each(size, [&](auto whole, int64_t j) { store<decltype(whole)::value>(target + line + j, sums.of[j / lanes], size - j); });
        };
        write(job.of_slope_p, slope_p), write(job.of_slope_n, slope_n);
        write(job.of_offset_p, offset_p), write(job.of_offset_n, offset_n);
        if (job.of_shift == nullptr) return;
        each(size, [&](auto whole, int64_t j) {  // the pulled rows' sum, by the lines that made them
            constexpr bool all = decltype(whole)::value;
            const Vector up = load<all>(lines.slope_p + j, size - j), down = load<all>(lines.slope_n + j, size - j);
            offset_p.of[j / lanes] = up * offset_p.of[j / lanes] + down * offset_n.of[j / lanes];
        });
        write(job.of_shift, offset_p);
    }

    static void run(const PullLinesGradient<T>& job, int64_t first, int64_t last) {
        const bool of_rows = job.of_rows != nullptr;
        const bool of_lines = job.of_slope_p != nullptr || job.of_slope_n != nullptr || job.of_offset_p != nullptr ||
                              job.of_offset_n != nullptr || job.of_shift != nullptr;
        for (int64_t i = first; i < last; ++i) {
            for (int64_t begin = 0; begin < job.m; begin += block) {
                const int64_t size = block < job.m - begin ? block : job.m - begin;
                if (of_rows && of_lines) {
                    gradient_of_block<true, true>(job, i, begin, size);
                } else if (of_rows) {
                    gradient_of_block<true, false>(job, i, begin, size);
                } else if (of_lines) {
                    gradient_of_block<false, true>(job, i, begin, size);
                }
            }
        }
    }
};

template <class T>
constexpr T Pull<T>::zeros[];

}  // namespace

void pull_lines_images(const PullLines<float>& job, int64_t first, int64_t last) noexcept { Pull<float>::run(job, first, last); }
void pull_lines_images(const PullLines<double>& job, int64_t first, int64_t last) noexcept { Pull<double>::run(job, first, last); }
void pull_lines_gradient_images(const PullLinesGradient<float>& job, int64_t first, int64_t last) noexcept {
    Pull<float>::run(job, first, last);
}
void pull_lines_gradient_images(const PullLinesGradient<double>& job, int64_t first, int64_t last) noexcept {
    Pull<double>::run(job, first, last);
}

}  // namespace VERIFIX_ISA_NAMESPACE
}  // namespace verifix
