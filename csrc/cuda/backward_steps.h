// The arithmetic of a backward pass on CUDA, one work item and one lane at a time; the same code compiled for the host
// is what the tests run where there is no GPU.
//
// Lanes are rows: a warp holds 32 rows of one input. Every item writes a few entries of one node for its pair of input
// and group of rows, and gathers what they get from the outputs that they feed, in a fixed order: no item reads what
// another one of the same launch writes, and results are the same in every bit each time.
#pragma once

#include <math.h>
#include <stdint.h>

#include "../cpu/backward_tile.h"

#if defined(__CUDACC__)
#define VERIFIX_HD __host__ __device__ __forceinline__
#else
#define VERIFIX_HD inline
#endif

namespace verifix {
namespace gather {

constexpr int lanes = 32;
constexpr int parts = 16;  // that a sum over all entries of a node is cut into

// Where a pair keeps its numbers before the buffers of its nodes: each a value for every lane.
enum Constant { constant_low, constant_high, constant_middle, constant_largest, constants };

// The rows of a group: `count` of them from `first`; of one input, or (-1) of every input.
struct Rows {
    int64_t first, input;
    int32_t count;
};

// A node as the rows of one group see it: their window, and where in the memory of a pair its buffer is, in vectors of
// 32 lanes; -1 where rows do not get to.
struct View {
    Window window;
    int64_t offset;
};

VERIFIX_HD int32_t area(const Window& window) { return (window.h1 - window.h0) * (window.w1 - window.w0); }

// A plane of channels.
struct Plane {
    int32_t c, h, w;
};

// The coefficients of one lane on one node: entries of the window, [h][w][c].
template <class T>
struct Coefficients {
    Window window;
    Plane plane;
    T* values;  // of the first entry; neighbours are `lanes` apart

    VERIFIX_HD int32_t entries() const { return area(window) * plane.c; }
    VERIFIX_HD bool holds(int32_t h, int32_t w) const {
        return h >= window.h0 && h < window.h1 && w >= window.w0 && w < window.w1;
    }
    VERIFIX_HD T* at(int32_t h, int32_t w, int32_t c) const {
        const int32_t position = (h - window.h0) * (window.w1 - window.w0) + (w - window.w0);
        return values + (static_cast<int64_t>(position) * plane.c + c) * lanes;
    }
};

// Where an entry of a window is in its plane.
struct Place {
    int32_t h, w, c;
    VERIFIX_HD int64_t entry(const Plane& plane) const {
        return (static_cast<int64_t>(h) * plane.w + w) * plane.c + c;
    }
};

VERIFIX_HD Place place(const Window& window, int32_t channels, int32_t index) {
    const int32_t position = index / channels, width = window.w1 - window.w0;
    return {window.h0 + position / width, window.w0 + position % width, index % channels};
}

VERIFIX_HD Place place(const Plane& plane, int32_t entry) {
    return place(Window{0, plane.h, 0, plane.w}, plane.c, entry);
}

// The pairs of inputs and groups that are in memory together.
template <class T>
struct Chunk {
    const Rows* groups;
    const View* views;  // [group][node]
    int32_t group_count, nodes;
    int64_t first_input;  // of the first pair
    int32_t first_group;
    T* memory;
    int64_t stride;  // from pair to pair, in vectors

    VERIFIX_HD uint32_t number(int32_t pair) const {
        return static_cast<uint32_t>(first_group) + static_cast<uint32_t>(pair);
    }
    VERIFIX_HD int32_t group(int32_t pair) const {
        return static_cast<int32_t>(number(pair) % static_cast<uint32_t>(group_count));
    }
    VERIFIX_HD const Rows& rows(int32_t pair) const { return groups[group(pair)]; }
    VERIFIX_HD int64_t input(int32_t pair) const {
        const int64_t own = rows(pair).input;
        return own >= 0 ? own : first_input + number(pair) / static_cast<uint32_t>(group_count);
    }
    VERIFIX_HD T* constant(int32_t pair, Constant which, int lane) const {
        return memory + (pair * stride + which) * lanes + lane;
    }
    VERIFIX_HD Coefficients<T> coefficients(int32_t pair, int32_t node, const Plane& plane, int lane) const {
        const View& view = views[static_cast<int64_t>(group(pair)) * nodes + node];
        return {view.window, plane, view.offset < 0 ? nullptr : memory + (pair * stride + view.offset) * lanes + lane};
    }
};

// A step's output node and the source that an item writes to.
struct Edge {
    int32_t node, source;
    Plane from, to;  // planes of the node and of the source
    bool first;      // nothing has been written to the source yet
};

template <class T>
VERIFIX_HD void contribute(const Edge& edge, T* target, T value) {
    *target = edge.first ? value : *target + value;
}

// What a maximum of numbers should be where one of them is NaN.
template <class T>
VERIFIX_HD T positive_part(T a) {
    return a > T(0) ? a : a * T(0);
}

// Fills the buffer of the node that rows start on, and sets the constants to zero.
template <class T>
struct Start {
    Chunk<T> chunk;
    int32_t node;
    Plane plane;
    const T* coefficients;     // (inputs or 1, rows, entries); null: rows are unit vectors
    const int32_t* positions;  // of these entries, (rows)
    bool shared;               // all inputs have the same coefficients
    int64_t rows;
    T sign;

    VERIFIX_HD void operator()(int32_t pair, int32_t item, int lane) const {
        if (item < constants) *chunk.constant(pair, static_cast<Constant>(item), lane) = T(0);
        const Coefficients<T> start = chunk.coefficients(pair, node, plane, lane);
        if (item >= start.entries()) return;
        const Rows group = chunk.rows(pair);
        const int64_t entry = place(start.window, plane.c, item).entry(plane), row = group.first + lane;
        T value = T(0);
        if (lane < group.count) {
            if (coefficients != nullptr) {
                const int64_t entries = static_cast<int64_t>(plane.c) * plane.h * plane.w;
                value = coefficients[((shared ? 0 : chunk.input(pair)) * rows + row) * entries + entry];
            } else if (positions[row] == entry) {
                value = sign;
            }
        }
        start.values[static_cast<int64_t>(item) * lanes] = value;
    }
};

// Entry by entry: scaling, either side of a sum, a part of a concatenation.
template <class T>
struct Elementwise {
    Chunk<T> chunk;
    Edge edge;
    int32_t before;  // channels of the output before those of the source
    const T* scale;  // of each entry of the output; null: the factor
    T factor;

    VERIFIX_HD void operator()(int32_t pair, int32_t item, int lane) const {
        const Coefficients<T> source = chunk.coefficients(pair, edge.source, edge.to, lane);
        if (item >= source.entries()) return;
        const Coefficients<T> output = chunk.coefficients(pair, edge.node, edge.from, lane);
        const Place at = place(source.window, edge.to.c, item), from{at.h, at.w, at.c + before};
        T value = T(0);
        if (output.holds(at.h, at.w)) {
            value = (scale == nullptr ? factor : scale[from.entry(edge.from)]) * *output.at(from.h, from.w, from.c);
        }
        contribute(edge, source.values + static_cast<int64_t>(item) * lanes, value);
    }
};

// Lines or planes: lower ones where a coefficient is positive, upper ones where it is negative.
template <class T>
struct Bends {
    const T *lower_slope, *lower_offset, *upper_slope, *upper_offset;  // (inputs, slopes or entries); null offsets are zero
    int64_t slopes, entries;

    VERIFIX_HD LinesOfInput<T> of(int64_t input) const {
        const int64_t skip = input * entries;
        return {lower_slope + input * slopes, lower_offset == nullptr ? nullptr : lower_offset + skip, upper_slope + input * slopes,
                upper_offset == nullptr ? nullptr : upper_offset + skip};
    }
};

template <class T>
struct Lines {
    Chunk<T> chunk;
    Edge edge;
    Bends<T> bends;

    VERIFIX_HD void operator()(int32_t pair, int32_t item, int lane) const {
        const Coefficients<T> source = chunk.coefficients(pair, edge.source, edge.to, lane);
        if (item >= source.entries()) return;
        const Coefficients<T> output = chunk.coefficients(pair, edge.node, edge.from, lane);
        const Place at = place(source.window, edge.to.c, item);
        T value = T(0);
        if (output.holds(at.h, at.w)) {
            const LinesOfInput<T> lines = bends.of(chunk.input(pair));
            const int64_t entry = at.entry(edge.to);
            const T lower = lines.lower_slope[entry], upper = lines.upper_slope[entry];
            const bool flat = lower == T(0) && upper == T(0) && (lines.lower_offset == nullptr || lines.lower_offset[entry] == T(0)) &&
                              (lines.upper_offset == nullptr || lines.upper_offset[entry] == T(0));
            const T a = *output.at(at.h, at.w, at.c), positive = positive_part(a);
            if (flat) {
                value = T(0);  // of NaN too: the operation is zero there whatever the coefficient
            } else if (lower == upper) {
                value = lower * a;
            } else {
                value = lower * positive + upper * (a - positive);
            }
        }
        contribute(edge, source.values + static_cast<int64_t>(item) * lanes, value);
    }
};

// The places of a sparse step or of planes, by the entry of the source that they read.
struct Uses {
    const int64_t* first;  // those of entry e are the uses from first[e] up to first[e + 1]
    const Use* uses;

    // Adds up body(coefficient of an output, place) over the uses of an entry.
    template <class T, class Body>
    VERIFIX_HD void gather(const Chunk<T>& chunk, const Edge& edge, int32_t pair, int32_t item, int lane, const Body& body) const {
        const Coefficients<T> source = chunk.coefficients(pair, edge.source, edge.to, lane);
        if (item >= source.entries()) return;
        const Coefficients<T> output = chunk.coefficients(pair, edge.node, edge.from, lane);
        const int64_t entry = place(source.window, edge.to.c, item).entry(edge.to);
        T value = T(0);
        for (int64_t i = first[entry]; i < first[entry + 1]; ++i) {
            const Use use = uses[i];
            const int32_t column = use.position - use.row * edge.from.w;
            if (output.holds(use.row, column)) value += body(*output.at(use.row, column, use.channel), use.place);
        }
        contribute(edge, source.values + static_cast<int64_t>(item) * lanes, value);
    }
};

template <class T>
struct Sparse {
    Chunk<T> chunk;
    Edge edge;
    Uses uses;
    const T* weight;  // of each place

    VERIFIX_HD void operator()(int32_t pair, int32_t item, int lane) const {
        uses.gather(chunk, edge, pair, item, lane, [&](T a, int32_t place) { return weight[place] * a; });
    }
};

template <class T>
struct Planes {
    Chunk<T> chunk;
    Edge edge;
    Uses uses;
    Bends<T> bends;  // a slope for each place

    VERIFIX_HD void operator()(int32_t pair, int32_t item, int lane) const {
        const LinesOfInput<T> lines = bends.of(chunk.input(pair));
        uses.gather(chunk, edge, pair, item, lane, [&](T a, int32_t place) {
            const T lower = lines.lower_slope[place], upper = lines.upper_slope[place], positive = positive_part(a);
            return lower == T(0) && upper == T(0) ? T(0) : lower * positive + upper * (a - positive);
        });
    }
};

}  // namespace gather
}  // namespace verifix
