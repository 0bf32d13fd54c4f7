// Forward passes through one affine step, compiled once for each instruction set: VERIFIX_ISA_NAMESPACE says which.
//
// For dense layers and convolutions outputs are the vector lanes. One sweep over the weights multiplies centers by W, and
// radii and magnitudes by |W|. Every product is rounded before it is added, and the sum over a window runs from its first
// entry to its last, then the bias: results are the same in every bit for every instruction set and number of threads.

#include <stdint.h>
#include <string.h>

#include "forward_tile.h"

namespace verifix {
namespace VERIFIX_ISA_NAMESPACE {
namespace {

#if defined(__AVX512F__)
constexpr int64_t vector_bytes = 64, accumulators = 24;
#elif defined(__AVX2__)
constexpr int64_t vector_bytes = 32, accumulators = 12;
#else
constexpr int64_t vector_bytes = 16, accumulators = 12;
#endif

template <class T>
struct BitsOf;
template <>
struct BitsOf<float> {
    typedef int32_t Type;
};
template <>
struct BitsOf<double> {
    typedef int64_t Type;
};

// What of a step is wanted; the numbers that each entry of a source then has in scratch memory stand side by side.
enum Wanted : int64_t { magnitudes = 1, intervals = 2, both = 3 };  // is also how many numbers: center, radius, magnitude

template <class T, Wanted wanted>
struct Sweep {
    typedef T Vector __attribute__((vector_size(vector_bytes)));
    typedef typename BitsOf<T>::Type Bits;
    typedef Bits BitVector __attribute__((vector_size(vector_bytes)));
    static constexpr int64_t lanes = vector_bytes / sizeof(T), panel = panel_bytes / sizeof(T);
    static constexpr bool has_interval = wanted != magnitudes, has_magnitude = wanted != intervals;

    const ForwardWork<T>& work;
    const ForwardWindows& windows;
    T* const planes;

    static Vector load(const T* from) {
        Vector x;
        memcpy(&x, from, sizeof x);
        return x;
    }

    static Vector absolute(const Vector& x) {
        constexpr Bits sign = Bits(1) << (8 * sizeof(Bits) - 1);
        return (Vector)((BitVector)x & ~sign);
    }

    static T absolute(T x) { return x < T(0) ? -x : x; }

    int64_t inputs_of(int64_t block) const {
        const int64_t rest = work.inputs - block * windows.block;
        return rest < windows.block ? rest : windows.block;
    }

    // Center, radius and magnitude of the planes of a block; padding is and stays zero.
    void fill(int64_t block) const {
        const int64_t right = windows.padded_w - windows.padding_w;
        const int64_t count = (windows.w < right ? windows.w : right) * windows.c;
        for (int64_t i = 0; i < inputs_of(block); ++i) {
            for (int64_t h = 0; h < windows.h && h + windows.padding_h < windows.padded_h; ++h) {
                const int64_t from = (((block * windows.block + i) * windows.h + h) * windows.w) * windows.c;
                const int64_t row = (i * windows.padded_h + h + windows.padding_h) * windows.padded_w + windows.padding_w;
                T* to = planes + row * windows.c * wanted;
#pragma GCC ivdep
                for (int64_t e = 0; e < count; ++e) {
                    if (has_interval) {
                        const T lower = work.lowers[0][from + e], radius = (work.uppers[0][from + e] - lower) / 2;
                        to[e * wanted] = lower + radius;
                        to[e * wanted + 1] = radius;
                    }
                    if (has_magnitude) to[e * wanted + wanted - 1] = work.magnitudes[0][from + e];
                }
            }
        }
    }

    // A few neighbouring vectors of outputs, from `output` of a group on, on the windows [first, last) of a block.
    template <int vectors>
    void sweep(int64_t block, int64_t group, int64_t output, int64_t first, int64_t last) const {
        constexpr int64_t most = accumulators / (wanted * vectors), positions = most < 8 ? most : 8;
        const int64_t padded = (windows.outputs + panel - 1) / panel * panel, size = windows.runs * windows.run_size * panel;
        const T* weights[vectors];
        for (int64_t v = 0; v < vectors; ++v) {
            const int64_t at = group * padded + output + v * lanes;
            weights[v] = work.step->panels + at / panel * size + at % panel;
        }
        for (int64_t at = first; at < last; at += positions) {
            const T* window[positions];
            for (int64_t p = 0; p < positions; ++p) {
                const int64_t own = at + p < last ? at + p : last - 1;
                window[p] = planes + (windows.window_at[own] + group * windows.inputs) * wanted;
            }
            Vector sums[wanted][positions][vectors];
            multiply<positions, vectors>(window, weights, sums);
            const int64_t count = last - at < positions ? last - at : positions;
            store<positions, vectors>(block * windows.block * windows.count + at, count, group, output, sums);
        }
    }

    template <int64_t positions, int64_t vectors>
    void multiply(const T* const* window, const T* const* weights, Vector (&result)[wanted][positions][vectors]) const {
        Vector sums[wanted][positions][vectors];
        memset(&sums, 0, sizeof sums);
        int64_t entry = 0;
        for (int64_t r = 0; r < windows.runs; ++r) {
            const int64_t from = windows.run_at[r] * wanted;
            for (int64_t k = 0; k < windows.run_size; ++k, ++entry) {
                Vector weight[vectors], size[vectors];
#pragma GCC unroll 8
                for (int64_t v = 0; v < vectors; ++v) {
                    weight[v] = load(weights[v] + entry * panel);
                    size[v] = absolute(weight[v]);
                }
#pragma GCC unroll 8
                for (int64_t p = 0; p < positions; ++p) {
                    const T* x = window[p] + from + k * wanted;
#pragma GCC unroll 8
                    for (int64_t v = 0; v < vectors; ++v) {
                        if (has_interval) {
                            sums[0][p][v] += weight[v] * x[0];
                            sums[1][p][v] += size[v] * x[1];
                        }
                        if (has_magnitude) sums[wanted - 1][p][v] += size[v] * x[wanted - 1];
                    }
                }
            }
        }
        memcpy(&result, &sums, sizeof sums);
    }

    // Windows of the first dimension are neighbours in the output as well.
    template <int64_t positions, int64_t vectors>
    void store(int64_t at, int64_t count, int64_t group, int64_t output, const Vector (&sums)[wanted][positions][vectors]) const {
        const int64_t padded = (windows.outputs + panel - 1) / panel * panel;
        for (int64_t v = 0; v < vectors; ++v) {
            const int64_t channel = output + v * lanes, rest = windows.outputs - channel;
            const size_t bytes = static_cast<size_t>(rest < lanes ? rest : lanes) * sizeof(T);
            const Vector bias = load(work.step->panel_bias + group * padded + channel);
            for (int64_t p = 0; p < count; ++p) {
                const int64_t to = (at + p) * work.step->c + group * windows.outputs + channel;
                if (has_interval) {
                    const Vector center = sums[0][p][v] + bias, spread = sums[1][p][v];
                    const Vector lower = center - spread, upper = center + spread;
                    memcpy(work.lower + to, &lower, bytes);
                    memcpy(work.upper + to, &upper, bytes);
                }
                if (has_magnitude) {
                    const Vector size = (sums[wanted - 1][p][v] + absolute(bias)) + work.quantum;
                    memcpy(work.magnitude + to, &size, bytes);
                }
            }
        }
    }

    void run(int64_t first, int64_t last) const {
        const int64_t panels = (windows.outputs + panel - 1) / panel, parts = (panels + panels_together - 1) / panels_together;
        const int64_t chunks = (windows.block * windows.count + windows_together - 1) / windows_together;
        if (windows.padding_h > 0 || windows.padding_w > 0) {
            memset(planes, 0, static_cast<size_t>(windows.block * windows.plane * wanted) * sizeof(T));
        }
        int64_t filled = -1;
        for (int64_t item = first; item < last; ++item) {
            const int64_t chunk = item % chunks, part = item / chunks % parts, group = item / chunks / parts % windows.groups;
            const int64_t block = item / chunks / parts / windows.groups, all = inputs_of(block) * windows.count;
            const int64_t begin = chunk * windows_together, end = begin + windows_together < all ? begin + windows_together : all;
            if (begin >= end) continue;
            if (block != filled) fill(filled = block);
            int64_t output = part * panels_together * panel;
            const int64_t next = output + panels_together * panel, stop = next < windows.outputs ? next : windows.outputs;
            for (; output + lanes < stop; output += 2 * lanes) sweep<2>(block, group, output, begin, end);
            if (output < stop) sweep<1>(block, group, output, begin, end);
        }
    }
};

// Steps that have some entries of their sources in each entry of the output.
template <class T, Wanted wanted>
struct EntryByEntry {
    static constexpr bool has_interval = wanted != magnitudes, has_magnitude = wanted != intervals;
    const ForwardWork<T>& work;

    static T absolute(T x) { return x < T(0) ? -x : x; }

    // Output entry `to` is factor times entry `from` of a source, and a constant.
    void one(int64_t to, int32_t source, int64_t from, T factor, T constant, T constant_size) const {
        if (has_interval) {
            const T lower = work.lowers[source][from], radius = (work.uppers[source][from] - lower) / 2;
            put(to, factor * (lower + radius) + constant, absolute(factor) * radius);
        }
        if (has_magnitude) put_magnitude(to, absolute(factor) * work.magnitudes[source][from] + constant_size);
    }

    void put(int64_t to, T center, T spread) const {
        work.lower[to] = center - spread;
        work.upper[to] = center + spread;
    }

    void put_magnitude(int64_t to, T size) const { work.magnitude[to] = size + work.quantum; }

    void scaling(int64_t to, int64_t entry, int64_t count) const {
        const Step<T>& step = *work.step;
        const T* size = step.bias_size == nullptr ? step.bias : step.bias_size;
#pragma GCC ivdep
        for (int64_t e = 0; e < count; ++e) {
            const T factor = step.scale == nullptr ? T(1) : step.scale[entry + e];
            const T shift = step.bias == nullptr ? T(0) : step.bias[entry + e];
            one(to + e, 0, to + e, factor, shift, size == nullptr ? T(0) : absolute(size[entry + e]));
        }
    }

    void sum(int64_t to, int64_t count) const {
        const T factor = work.step->factor;
#pragma GCC ivdep
        for (int64_t e = to; e < to + count; ++e) {
            if (has_interval) {
                const T lower = work.lowers[0][e], radius = (work.uppers[0][e] - lower) / 2;
                const T other = work.lowers[1][e], other_radius = (work.uppers[1][e] - other) / 2;
                put(e, (lower + radius) + factor * (other + other_radius), radius + absolute(factor) * other_radius);
            }
            if (has_magnitude) put_magnitude(e, work.magnitudes[0][e] + absolute(factor) * work.magnitudes[1][e]);
        }
    }

    void concatenation(int64_t row) const {
        const Step<T>& step = *work.step;
        for (int64_t w = 0; w < step.w; ++w) {
            int64_t to = (row * step.w + w) * step.c;
            for (int32_t s = 0; s < step.source_count; ++s) {
                const int64_t channels = work.channels[s], from = (row * step.w + w) * channels;
#pragma GCC ivdep
                for (int64_t c = 0; c < channels; ++c) one(to + c, s, from + c, T(1), T(0), T(0));
                to += channels;
            }
        }
    }

    void sparse(int64_t input, int64_t to, int64_t entry, int64_t count) const {
        const Step<T>& step = *work.step;
        const int64_t source = input * work.source_entries;
        for (int64_t e = 0; e < count; ++e) {
            const T constant = step.bias == nullptr ? T(0) : step.bias[entry + e];
            T center = 0, spread = 0, size = 0;
            for (int64_t k = step.offsets[entry + e]; k < step.offsets[entry + e + 1]; ++k) {
                const int64_t from = source + step.index[k];
                const T weight = step.weight[k];
                if (has_interval) {
                    const T lower = work.lowers[0][from], radius = (work.uppers[0][from] - lower) / 2;
                    center += weight * (lower + radius);
                    spread += absolute(weight) * radius;
                }
                if (has_magnitude) size += absolute(weight) * work.magnitudes[0][from];
            }
            if (has_interval) put(to + e, center + constant, spread);
            if (has_magnitude) put_magnitude(to + e, size + absolute(constant));
        }
    }

    void run(int64_t first, int64_t last) const {
        const Step<T>& step = *work.step;
        const int64_t count = step.w * step.c;
        for (int64_t row = first; row < last; ++row) {  // of all planes of all inputs
            const int64_t entry = row % step.h * count;
            if (step.kind == StepKind::scaling) scaling(row * count, entry, count);
            if (step.kind == StepKind::sum) sum(row * count, count);
            if (step.kind == StepKind::concatenation) concatenation(row);
            if (step.kind == StepKind::sparse) sparse(row / step.h, row * count, entry, count);
        }
    }
};

template <class T>
void run_windows(const ForwardWork<T>& work, int64_t first, int64_t last, T* scratch) {
    if (work.lower == nullptr) return Sweep<T, magnitudes>{work, work.windows, scratch}.run(first, last);
    if (work.magnitude == nullptr) return Sweep<T, intervals>{work, work.windows, scratch}.run(first, last);
    Sweep<T, both>{work, work.windows, scratch}.run(first, last);
}

template <class T>
void run_entries(const ForwardWork<T>& work, int64_t first, int64_t last) {
    if (work.lower == nullptr) return EntryByEntry<T, magnitudes>{work}.run(first, last);
    if (work.magnitude == nullptr) return EntryByEntry<T, intervals>{work}.run(first, last);
    EntryByEntry<T, both>{work}.run(first, last);
}

}  // namespace

void forward_windows(const ForwardWork<float>& work, int64_t first, int64_t last, float* scratch) noexcept {
    run_windows(work, first, last, scratch);
}
void forward_windows(const ForwardWork<double>& work, int64_t first, int64_t last, double* scratch) noexcept {
    run_windows(work, first, last, scratch);
}
void forward_entries(const ForwardWork<float>& work, int64_t first, int64_t last) noexcept { run_entries(work, first, last); }
void forward_entries(const ForwardWork<double>& work, int64_t first, int64_t last) noexcept { run_entries(work, first, last); }

}  // namespace VERIFIX_ISA_NAMESPACE
}  // namespace verifix
