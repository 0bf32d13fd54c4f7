// The adjoint of convolutions and dense layers: nearly all of the arithmetic of a backward pass.
#pragma once

#include "backward_steps.h"

namespace verifix {
namespace gather {

constexpr int together = 8;  // neighbouring channels of a source that share the loads of coefficients

// Which entries of a node may hold anything but zero: where only a lines step has written to it, those with a slope.
template <class T>
struct Slopes {
    const T *lower, *upper;  // (inputs, entries), null: any may
    int64_t entries;

    VERIFIX_HD bool zero(int64_t input, int64_t entry) const {
        const int64_t at = input * entries + entry;
        return lower[at] == T(0) && upper[at] == T(0);
    }

    // A bit for each of up to 32 entries. All lanes of a warp call this together.
    VERIFIX_HD uint32_t live(int64_t input, int64_t entry, int32_t count, int lane) const {
        const uint32_t all = count >= 32 ? 0xffffffffu : (1u << count) - 1u;
        if (lower == nullptr) return all;
#if defined(__CUDA_ARCH__)
        return __ballot_sync(0xffffffffu, lane < count && !zero(input, entry + lane));
#else
        (void)lane;
        uint32_t bits = 0;
        for (int32_t i = 0; i < count; ++i) bits |= static_cast<uint32_t>(!zero(input, entry + i)) << i;
        return bits;
#endif
    }
};

VERIFIX_HD int32_t lowest_bit(uint32_t bits) {
#if defined(__CUDA_ARCH__)
    return __ffs(static_cast<int>(bits)) - 1;
#else
    return __builtin_ctz(bits);
#endif
}

// The taps of one axis of a convolution: which output positions a position of the source feeds, and through which.
struct Taps {
    int64_t kernel, stride, padding, dilation;

    // The first output position that may be fed, and one past the last, in [begin, end).
    VERIFIX_HD int32_t first(int32_t position, int32_t begin) const {
        const int64_t reach = position + padding - (kernel - 1) * dilation;
        const int64_t found = reach <= 0 ? 0 : (reach + stride - 1) / stride;
        return found > begin ? static_cast<int32_t>(found < INT32_MAX ? found : INT32_MAX) : begin;
    }
    VERIFIX_HD int32_t last(int32_t position, int32_t end) const {
        const int64_t found = (position + padding) / stride + 1;
        return found < end ? static_cast<int32_t>(found) : end;
    }
    // -1 where the output position is not fed.
    VERIFIX_HD int64_t tap(int32_t position, int32_t output) const {
        const int64_t distance = position + padding - output * stride;
        if (distance < 0 || distance % dilation != 0 || distance / dilation >= kernel) return -1;
        return distance / dilation;
    }
};

// The adjoint of a convolution. A dense layer is a convolution of one position, whose channels are all entries.
// An item is `size` neighbouring channels of one position of the source; `wide`: their weights are aligned and complete.
template <class T, int size, bool wide>
struct Convolution {
    Chunk<T> chunk;
    Edge edge;
    bool dense;
    Taps rows, columns;
    int32_t groups, inputs, outputs;  // channels of a group, of the source and of the output
    const T* weight;                  // [output][row tap][column tap][input of the group]
    Slopes<T> slopes;
    const int32_t* positions;  // where the rows are unit vectors on this very node
    T sign;

    struct alignas(16) Pack {
        T values[16 / sizeof(T)];
    };

    // sum += weights * coefficient, for the first `count` of them.
    static VERIFIX_HD void multiply_add(T (&sum)[size], const T* weights, int32_t count, T coefficient) {
        if (wide) {
            constexpr int length = 16 / sizeof(T);
#if defined(__CUDA_ARCH__)
#pragma unroll
#endif
            for (int i = 0; i + length <= size; i += length) {
                const Pack pack = *reinterpret_cast<const Pack*>(weights + i);
                for (int j = 0; j < length; ++j) sum[i + j] += pack.values[j] * coefficient;
            }
        } else {
#if defined(__CUDA_ARCH__)
#pragma unroll
#endif
            for (int i = 0; i < size; ++i) {
                if (i < count) sum[i] += weights[i] * coefficient;
            }
        }
    }

    VERIFIX_HD void operator()(int32_t pair, int32_t item, int lane) const {
        Coefficients<T> source = chunk.coefficients(pair, edge.source, edge.to, lane);
        const Coefficients<T> output = chunk.coefficients(pair, edge.node, edge.from, lane);
        if (dense && output.entries() == 0) return nothing(source, item);
        if (dense) source = {{0, 1, 0, 1}, {inputs, 1, 1}, source.values};  // an output that is there reaches all
        const int32_t blocks_of_group = (inputs - 1) / size + 1, blocks = blocks_of_group * groups;
        if (item >= area(source.window) * blocks) return;
        const Place at = place(source.window, blocks, item);
        const int32_t group = at.c / blocks_of_group, channel = at.c % blocks_of_group * size;
        const int32_t count = inputs - channel < size ? inputs - channel : size;

        T sum[size];
        for (int i = 0; i < size; ++i) sum[i] = T(0);
        if (positions != nullptr) {
            unit_row(sum, pair, at, group, channel, count, lane);
        } else {
            gather(sum, output, chunk.input(pair), at, group, channel, count, lane);
        }
        T* target = source.at(at.h, at.w, group * inputs + channel);
        for (int i = 0; i < size; ++i) {
            if (i < count) contribute(edge, target + i * lanes, sum[i]);
        }
    }

    // Rows that fell into padding altogether reach nothing, in a window of any size.
    VERIFIX_HD void nothing(const Coefficients<T>& source, int32_t item) const {
        const int64_t end = source.entries();
        for (int64_t i = static_cast<int64_t>(item) * size; edge.first && i < end && i < (static_cast<int64_t>(item) + 1) * size; ++i) {
            source.values[i * lanes] = T(0);
        }
    }

    // The weights of output channel 0 of a group for some input channels.
    VERIFIX_HD const T* weights_at(int32_t group, int64_t row_tap, int64_t column_tap, int32_t channel) const {
        return weight + ((group * static_cast<int64_t>(outputs) * rows.kernel + row_tap) * columns.kernel + column_tap) * inputs + channel;
    }

    VERIFIX_HD void gather(T (&sum)[size], const Coefficients<T>& output, int64_t input, const Place& at, int32_t group,
                           int32_t channel, int32_t count, int lane) const {
        const int64_t next = rows.kernel * columns.kernel * inputs;
        const int32_t last_h = rows.last(at.h, output.window.h1), last_w = columns.last(at.w, output.window.w1);
        for (int32_t h = rows.first(at.h, output.window.h0); h < last_h; ++h) {
            const int64_t row_tap = rows.tap(at.h, h);
            if (row_tap < 0) continue;
            for (int32_t w = columns.first(at.w, output.window.w0); w < last_w; ++w) {
                const int64_t column_tap = columns.tap(at.w, w);
                if (column_tap < 0) continue;
                const T* weights = weights_at(group, row_tap, column_tap, channel);
                const T* coefficients = output.at(h, w, group * outputs);
                const int64_t entry = Place{h, w, group * outputs}.entry(edge.from);
                for (int32_t o = 0; o < outputs; o += 32) {
                    const int32_t rest = outputs - o < 32 ? outputs - o : 32;
                    for (uint32_t bits = slopes.live(input, entry + o, rest, lane); bits != 0; bits &= bits - 1) {
                        const int64_t channel_out = o + lowest_bit(bits);
                        multiply_add(sum, weights + channel_out * next, count, coefficients[channel_out * lanes]);
                    }
                }
            }
        }
    }

    // The same for rows that are unit vectors on the output: one weight each.
    VERIFIX_HD void unit_row(T (&sum)[size], int32_t pair, const Place& at, int32_t group, int32_t channel,
                             int32_t count, int lane) const {
        const Rows group_rows = chunk.rows(pair);
        if (lane >= group_rows.count) return;
        const Place unit = place(edge.from, positions[group_rows.first + lane]);
        const int64_t row_tap = rows.tap(at.h, unit.h), column_tap = columns.tap(at.w, unit.w);
        if (row_tap < 0 || column_tap < 0 || unit.c / outputs != group) return;
        const T* weights = weights_at(group, row_tap, column_tap, channel) + unit.c % outputs * (rows.kernel * columns.kernel * inputs);
        multiply_add(sum, weights, count, sign);
    }
};

}  // namespace gather
}  // namespace verifix
