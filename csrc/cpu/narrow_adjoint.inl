// The adjoint of convolutions of few input channels, compiled once for each instruction set: VERIFIX_ISA_NAMESPACE says
// which.
//
// Lanes are taps on the way down and channels on the way back: 64 bytes of them whatever the vectors of the machine, so
// that sums have the same order.

#include <stdint.h>
#include <string.h>

#include "narrow_adjoint_images.h"

namespace verifix {
namespace VERIFIX_ISA_NAMESPACE {
namespace {

template <class T>
struct Narrow {
    typedef T Vector __attribute__((vector_size(64)));
    static constexpr int64_t lanes = 64 / static_cast<int64_t>(sizeof(T));
    static constexpr int64_t together = 4;  // places of the rows, for which a weight is read once

    static Vector load(const T* numbers) {
        Vector result;
        memcpy(&result, numbers, sizeof result);
        return result;
    }
    static void store(T* numbers, const Vector& values) { memcpy(numbers, &values, sizeof values); }

    // use(0) to use(count - 1); unrolled where count is what kernels of size 4 have.
    template <class Use>
    static void each(int64_t count, const Use& use) {
        if (count == 4) {
            for (int64_t i = 0; i < 4; ++i) use(i);
        } else {
            for (int64_t i = 0; i < count; ++i) use(i);
        }
    }

    // Calls use(tap, number, count) for the runs of taps of a place whose pixels lie side by side in the result.
    template <class Use>
    static void runs(const NarrowShape& s, int64_t place, const Use& use) {
        const int64_t y = place / s.width * s.stride_h - s.padding_h, x = (place % s.width * s.stride_w - s.padding_w) * s.inputs;
        const int64_t segment = s.taps_w * s.inputs, wide = s.out_width * s.inputs;
        const int64_t begin = x < 0 ? -x : 0, end = x + segment > wide ? wide - x : segment;
        const int64_t top = y < 0 ? -y : 0, bottom = y + s.taps_h > s.out_height ? s.out_height - y : s.taps_h;
        if (begin >= end) return;
        for (int64_t a = top; a < bottom; ++a) use(a * segment + begin, (y + a) * wide + x + begin, end - begin);
    }

    template <int64_t count>
    static void push(const NarrowAdjoint<T>& job, const T* rows, int64_t place, int64_t taps, T* result) {
        const NarrowShape& s = job.shape;
        const int64_t padded = (taps + lanes - 1) / lanes * lanes;
        T sums[count][most_narrow_taps];
        for (int64_t t = 0; t < padded; t += lanes) {
            Vector total[count] = {};
            for (int64_t c = 0; c < s.channels; ++c) {
                const Vector weight = load(job.weight + c * padded + t);
                for (int64_t p = 0; p < count; ++p) total[p] += rows[(place + p) * s.channels + c] * weight;
            }
            for (int64_t p = 0; p < count; ++p) store(sums[p] + t, total[p]);
        }
        for (int64_t p = 0; p < count; ++p) {
            runs(s, place + p, [&](int64_t tap, int64_t number, int64_t length) {
                each(length, [&](int64_t i) { result[number + i] += sums[p][tap + i]; });
            });
        }
    }

    static void run(const NarrowAdjoint<T>& job, int64_t first, int64_t last) {
        const NarrowShape& s = job.shape;
        const int64_t places = s.height * s.width, size = s.out_height * s.out_width * s.inputs;
        const int64_t taps = s.taps_h * s.taps_w * s.inputs;
        for (int64_t i = first; i < last; ++i) {
            T* const result = job.result + i * size;
            const T* const rows = job.rows + i * places * s.channels;
            memset(result, 0, static_cast<size_t>(size) * sizeof(T));
            int64_t place = 0;
            for (; place + together <= places; place += together) push<together>(job, rows, place, taps, result);
            for (; place < places; ++place) push<1>(job, rows, place, taps, result);
        }
    }

    template <int64_t count, bool of_rows, bool of_weight>
    static void pull(const NarrowAdjointGradient<T>& job, int64_t image, int64_t place, int64_t taps) {
        const NarrowShape& s = job.shape;
        const int64_t first = image * s.height * s.width + place;
        const T* const gradient = job.of_result + image * s.out_height * s.out_width * s.inputs;
        T seen[count][most_narrow_taps];
        for (int64_t p = 0; p < count; ++p) {
            memset(seen[p], 0, static_cast<size_t>(taps) * sizeof(T));
            runs(s, place + p, [&](int64_t tap, int64_t number, int64_t length) {
                each(length, [&](int64_t i) { seen[p][tap + i] = gradient[number + i]; });
            });
        }
        for (int64_t c = 0; c < s.channels; c += lanes) {
            Vector row[count], total[count] = {};
            for (int64_t p = 0; of_weight && p < count; ++p) row[p] = load(job.rows + (first + p) * s.channels + c);
            for (int64_t t = 0; t < taps; ++t) {
                if (of_rows) {
                    const Vector weight = load(job.weight + t * s.channels + c);
                    for (int64_t p = 0; p < count; ++p) total[p] += seen[p][t] * weight;
                }
                if (of_weight) {
                    T* const target = job.of_weight + (image * taps + t) * s.channels + c;
                    Vector sum = load(target);
                    for (int64_t p = 0; p < count; ++p) sum += seen[p][t] * row[p];
                    store(target, sum);
                }
            }
            for (int64_t p = 0; of_rows && p < count; ++p) store(job.of_rows + (first + p) * s.channels + c, total[p]);
        }
    }

    template <bool of_rows, bool of_weight>
    static void run(const NarrowAdjointGradient<T>& job, int64_t first, int64_t last) {
        const NarrowShape& s = job.shape;
        const int64_t places = s.height * s.width, taps = s.taps_h * s.taps_w * s.inputs, size = taps * s.channels;
        for (int64_t i = first; i < last; ++i) {
            if (of_weight) memset(job.of_weight + i * size, 0, static_cast<size_t>(size) * sizeof(T));
            int64_t place = 0;
            for (; place + together <= places; place += together) pull<together, of_rows, of_weight>(job, i, place, taps);
            for (; place < places; ++place) pull<1, of_rows, of_weight>(job, i, place, taps);
        }
    }

    static void run(const NarrowAdjointGradient<T>& job, int64_t first, int64_t last) {
        if (job.of_rows != nullptr && job.of_weight != nullptr) return run<true, true>(job, first, last);
        if (job.of_rows != nullptr) return run<true, false>(job, first, last);
        if (job.of_weight != nullptr) run<false, true>(job, first, last);
    }
};

}  // namespace

void narrow_adjoint_images(const NarrowAdjoint<float>& job, int64_t first, int64_t last) noexcept {
    Narrow<float>::run(job, first, last);
}
void narrow_adjoint_images(const NarrowAdjoint<double>& job, int64_t first, int64_t last) noexcept {
    Narrow<double>::run(job, first, last);
}
void narrow_adjoint_gradient_images(const NarrowAdjointGradient<float>& job, int64_t first, int64_t last) noexcept {
    Narrow<float>::run(job, first, last);
}
void narrow_adjoint_gradient_images(const NarrowAdjointGradient<double>& job, int64_t first, int64_t last) noexcept {
    Narrow<double>::run(job, first, last);
}

}  // namespace VERIFIX_ISA_NAMESPACE
}  // namespace verifix
