// Rows through lines, compiled once for each instruction set: VERIFIX_ISA_NAMESPACE says which.
//
// Lanes are entries of a row: 64 bytes of them whatever the vectors of the machine, so that sums have the same order.

#include <stdint.h>
#include <string.h>

#include "pull_lines_images.h"

namespace verifix {
namespace VERIFIX_ISA_NAMESPACE {
namespace {

template <class T>
struct Pull {
    typedef T Vector __attribute__((vector_size(64)));
    static constexpr int64_t lanes = 64 / static_cast<int64_t>(sizeof(T));
    static constexpr int64_t block = 16 * lanes;  // entries whose gradients are summed over the rows together

    // Entries that a block of lanes is short of are zeros.
    static Vector load(const T* numbers, int64_t count) {
        Vector result{};
        if (numbers == nullptr) return result;
        if (count >= lanes) {
            memcpy(&result, numbers, sizeof result);
        } else {
            memcpy(&result, numbers, static_cast<size_t>(count) * sizeof(T));
        }
        return result;
    }

    static void store(T* numbers, const Vector& values, int64_t count) {
        if (count >= lanes) {
            memcpy(numbers, &values, sizeof values);
        } else {
            memcpy(numbers, &values, static_cast<size_t>(count) * sizeof(T));
        }
    }

    static const T* at(const T* numbers, int64_t place) { return numbers == nullptr ? nullptr : numbers + place; }

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
    static void row(const T* a, const LinesOfImages<T>& lines, int64_t m, T* pulled, T* offset) {
        Vector total{};
        for (int64_t j = 0; j < m; j += lanes) {
            const int64_t count = m - j;
            const Vector value = load(a + j, count), p = positive(value), n = negative(value);
            if (offsets) total += load(at(lines.offset_p, j), count) * p + load(at(lines.offset_n, j), count) * n;
            if (slopes) {
                const Vector slope = load(at(lines.slope_p, j), count) * p + load(at(lines.slope_n, j), count) * n;
                store(pulled + j, slope, count);
                if (offsets) total += slope * load(at(lines.shift, j), count);
            }
        }
        *offset = sum(total);
    }

    static void run(const PullLines<T>& job, int64_t first, int64_t last) {
        const int64_t m = job.m;
        for (int64_t i = first; i < last; ++i) {
            const LinesOfImages<T>& of = job.lines;
            const LinesOfImages<T> lines{at(of.slope_p, i * m), at(of.offset_p, i * m), at(of.slope_n, i * m),
                                         at(of.offset_n, i * m), of.shift};
            const bool offsets = lines.offset_p != nullptr || lines.offset_n != nullptr || lines.shift != nullptr;
            for (int64_t k = i * job.r; k < (i + 1) * job.r; ++k) {
                const T* const a = job.rows + k * m;
                if (job.pulled == nullptr) {
                    row<false, true>(a, lines, m, nullptr, job.offset + k);
                } else if (offsets) {
                    row<true, true>(a, lines, m, job.pulled + k * m, job.offset + k);
                } else {
                    row<true, false>(a, lines, m, job.pulled + k * m, job.offset + k);
                }
            }
        }
    }

    // Sums over the rows, for a block of entries.
    struct Sums {
        Vector of[block / lanes];
    };

    template <bool of_lines>
    static void gradient_of_block(const PullLinesGradient<T>& job, int64_t i, int64_t begin, int64_t end) {
        const int64_t m = job.m, line = i * m + begin, size = end - begin;
        Sums slope_p, slope_n, offset_p, offset_n;
        if (of_lines) {
            memset(&slope_p, 0, sizeof slope_p), memset(&slope_n, 0, sizeof slope_n);
            memset(&offset_p, 0, sizeof offset_p), memset(&offset_n, 0, sizeof offset_n);
        }
        const LinesOfImages<T>& of = job.lines;
        const LinesOfImages<T> lines{at(of.slope_p, line), at(of.offset_p, line), at(of.slope_n, line),
                                     at(of.offset_n, line), at(of.shift, begin)};
        for (int64_t k = i * job.r; k < (i + 1) * job.r; ++k) {
            const Vector of_offset = Vector{} + job.of_offset[k];
            const T *const a = job.rows + k * m + begin, *const g = at(job.of_pulled, k * m + begin);
            for (int64_t j = 0, v = 0; j < size; j += lanes, ++v) {
                const int64_t count = size - j;
                const Vector value = load(a + j, count);
                const Vector of_pulled = load(at(g, j), count) + load(at(lines.shift, j), count) * of_offset;
                const Vector p = load(at(lines.slope_p, j), count) * of_pulled + load(at(lines.offset_p, j), count) * of_offset;
                const Vector n = load(at(lines.slope_n, j), count) * of_pulled + load(at(lines.offset_n, j), count) * of_offset;
                if (job.of_rows != nullptr) store(job.of_rows + k * m + begin + j, value >= T(0) ? p : n, count);
                if (of_lines) {
                    const Vector up = positive(value), down = negative(value);
                    slope_p.of[v] += up * of_pulled, slope_n.of[v] += down * of_pulled;
                    offset_p.of[v] += up * of_offset, offset_n.of[v] += down * of_offset;
                }
            }
        }
        const auto write = [&](T* target, const Sums& sums) {
            for (int64_t j = 0; of_lines && target != nullptr && j < size; j += lanes) {
                store(target + line + j, sums.of[j / lanes], size - j);
            }
        };
        write(job.of_slope_p, slope_p), write(job.of_slope_n, slope_n);
        write(job.of_offset_p, offset_p), write(job.of_offset_n, offset_n);
        if (of_lines && job.of_shift != nullptr) {  // the pulled rows' sum, by the lines that made them
            for (int64_t j = 0, v = 0; j < size; j += lanes, ++v) {
                const Vector up = load(at(lines.slope_p, j), size - j), down = load(at(lines.slope_n, j), size - j);
                offset_p.of[v] = up * offset_p.of[v] + down * offset_n.of[v];
            }
            write(job.of_shift, offset_p);
        }
    }

    static void run(const PullLinesGradient<T>& job, int64_t first, int64_t last) {
        const bool of_lines = job.of_slope_p != nullptr || job.of_slope_n != nullptr || job.of_offset_p != nullptr ||
                              job.of_offset_n != nullptr || job.of_shift != nullptr;
        for (int64_t i = first; i < last; ++i) {
            for (int64_t begin = 0; begin < job.m; begin += block) {
                const int64_t end = begin + block < job.m ? begin + block : job.m;
                if (of_lines) {
                    gradient_of_block<true>(job, i, begin, end);
                } else {
                    gradient_of_block<false>(job, i, begin, end);
                }
            }
        }
    }
};

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
