// Sums over all entries of a node, for one pair and one lane: constants, and the minimum over the input's set.
//
// Part p adds up entries p, p + parts, p + 2 parts and so on, and the parts are added in their order.
#pragma once

#include "backward_steps.h"

namespace verifix {
namespace gather {

template <class T>
struct Sums {
    T below, above;
};

template <class T>
VERIFIX_HD void add(Sums<T>& total, const Sums<T>& part) {
    total.below += part.below;
    total.above += part.above;
}

// The larger one; NaN stays.
template <class T>
VERIFIX_HD T larger(T a, T b) {
    return b > a || b != b ? b : a;
}

// Calls body(place, coefficient) for the entries of one part of a node.
template <class T, class Body>
VERIFIX_HD void for_each_of_part(const Coefficients<T>& rows, int32_t part, const Body& body) {
    if (rows.values == nullptr) return;
    const int32_t count = rows.entries();
    for (int32_t i = part; i < count; i += parts) {
        body(place(rows.window, rows.plane.c, i), rows.values[static_cast<int64_t>(i) * lanes]);
    }
}

// What a step adds to both bounds: coefficients times bias.
template <class T>
struct Bias {
    Chunk<T> chunk;
    int32_t node;
    Plane plane;
    bool per_entry;  // else per channel
    const T* bias;

    VERIFIX_HD Sums<T> part(int32_t pair, int32_t part, int lane) const {
        T sum = T(0);
        for_each_of_part(chunk.coefficients(pair, node, plane, lane), part,
                         [&](const Place& at, T a) { sum += bias[per_entry ? at.entry(plane) : at.c] * a; });
        return {sum, sum};
    }
    static VERIFIX_HD void combine(Sums<T>& total, const Sums<T>& part) { add(total, part); }
    VERIFIX_HD void finish(int32_t pair, int lane, const Sums<T>& total) const {
        *chunk.constant(pair, constant_low, lane) += total.below;
        *chunk.constant(pair, constant_high, lane) += total.above;
    }
};

// What lines and planes add: each coefficient times the offset of the line that it takes.
template <class T>
struct Offsets {
    Chunk<T> chunk;
    int32_t node;
    Plane plane;
    Bends<T> bends;

    VERIFIX_HD Sums<T> part(int32_t pair, int32_t part, int lane) const {
        Sums<T> sum{T(0), T(0)};
        const LinesOfInput<T> lines = bends.of(chunk.input(pair));
        for_each_of_part(chunk.coefficients(pair, node, plane, lane), part, [&](const Place& at, T a) {
            const int64_t entry = at.entry(plane);
            const T lower = lines.lower_offset == nullptr ? T(0) : lines.lower_offset[entry];
            const T upper = lines.upper_offset == nullptr ? T(0) : lines.upper_offset[entry];
            if (lower == T(0) && upper == T(0)) return;
            const T positive = positive_part(a), negative = a - positive;
            sum.below += lower * positive + upper * negative;
            sum.above += upper * positive + lower * negative;
        });
        return sum;
    }
    static VERIFIX_HD void combine(Sums<T>& total, const Sums<T>& part) { add(total, part); }
    VERIFIX_HD void finish(int32_t pair, int lane, const Sums<T>& total) const {
        *chunk.constant(pair, constant_low, lane) += total.below;
        *chunk.constant(pair, constant_high, lane) += total.above;
    }
};

// Where bounds go.
template <class T>
struct Bounds {
    T *low, *high;  // (inputs, rows), or (rows) where each input has its own; high may be null
    int64_t rows;

    // The number of a lane's row among all.
    VERIFIX_HD int64_t row(const Chunk<T>& chunk, int32_t pair, int lane) const {
        const Rows group = chunk.rows(pair);
        return (group.input >= 0 ? 0 : chunk.input(pair) * rows) + group.first + lane;
    }

    VERIFIX_HD void write(const Chunk<T>& chunk, int32_t pair, int lane, T middle, T spread) const {
        if (lane >= chunk.rows(pair).count) return;
        const int64_t at = row(chunk, pair, lane);
        low[at] = *chunk.constant(pair, constant_low, lane) + (middle - spread);
        if (high != nullptr) high[at] = *chunk.constant(pair, constant_high, lane) + (middle + spread);
    }
};

// The form at the middle of the input's set, and how far it may be from that; for the l2 ball the largest term only.
template <class T>
struct Hulls {
    Chunk<T> chunk;
    Plane plane;
    Hull hull;
    const T *center, *radius;  // (inputs, entries)
    int64_t entries;
    Bounds<T> bounds;

    VERIFIX_HD Sums<T> part(int32_t pair, int32_t part, int lane) const {
        T middle = T(0), spread = T(0);
        const int64_t skip = chunk.input(pair) * entries;
        for_each_of_part(chunk.coefficients(pair, 0, plane, lane), part, [&](const Place& at, T a) {
            const int64_t entry = skip + at.entry(plane);
            middle += center[entry] * a;
            const T size = radius[entry] * (a < T(0) ? -a : a);
            spread = hull == Hull::box ? spread + size : larger(spread, size);
        });
        return {middle, spread};
    }
    VERIFIX_HD void combine(Sums<T>& total, const Sums<T>& part) const {
        total.below += part.below;
        total.above = hull == Hull::box ? total.above + part.above : larger(total.above, part.above);
    }
    VERIFIX_HD void finish(int32_t pair, int lane, const Sums<T>& total) const {
        if (hull != Hull::l2) return bounds.write(chunk, pair, lane, total.below, total.above);
        *chunk.constant(pair, constant_middle, lane) = total.below;
        *chunk.constant(pair, constant_largest, lane) = total.above;
    }
};

VERIFIX_HD float root(float x) { return sqrtf(x); }
VERIFIX_HD double root(double x) { return sqrt(x); }

// The l2 norm: sqrt of the sum of squares, of numbers divided by the largest, as squares of small ones must not vanish.
template <class T>
struct Euclidean {
    Chunk<T> chunk;
    Plane plane;
    const T* radius;  // (inputs, entries)
    int64_t entries;
    Bounds<T> bounds;

    VERIFIX_HD Sums<T> part(int32_t pair, int32_t part, int lane) const {
        const T largest = *chunk.constant(pair, constant_largest, lane);
        const T scale = largest > T(0) ? largest : largest + T(1);  // NaN stays
        T total = T(0);
        const int64_t skip = chunk.input(pair) * entries;
        for_each_of_part(chunk.coefficients(pair, 0, plane, lane), part, [&](const Place& at, T a) {
            const T ratio = radius[skip + at.entry(plane)] * a / scale;
            total += ratio * ratio;
        });
        return {total, T(0)};
    }
    static VERIFIX_HD void combine(Sums<T>& total, const Sums<T>& part) { add(total, part); }
    VERIFIX_HD void finish(int32_t pair, int lane, const Sums<T>& total) const {
        const T largest = *chunk.constant(pair, constant_largest, lane);
        bounds.write(chunk, pair, lane, *chunk.constant(pair, constant_middle, lane), largest * root(total.below));
    }
};

// Instead of the minimum: the coefficients that arrive at the input, zero where rows do not get to, and the constants.
template <class T>
struct Forms {
    Chunk<T> chunk;
    Plane plane;
    T* forms;  // (inputs, rows, entries), or (rows, entries) where each input has its own
    Bounds<T> bounds;

    VERIFIX_HD void operator()(int32_t pair, int32_t item, int lane) const {
        const Rows group = chunk.rows(pair);
        if (lane >= group.count) return;
        if (item == 0) bounds.write(chunk, pair, lane, T(0), T(0));
        const Coefficients<T> rows = chunk.coefficients(pair, 0, plane, lane);
        const Place at = place(plane, item);
        const int64_t row = bounds.row(chunk, pair, lane), entries = static_cast<int64_t>(plane.c) * plane.h * plane.w;
        const bool reached = rows.values != nullptr && rows.holds(at.h, at.w);
        forms[row * entries + item] = reached ? *rows.at(at.h, at.w, at.c) : T(0);
    }
};

}  // namespace gather
}  // namespace verifix
