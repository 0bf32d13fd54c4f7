// What one tile of a backward pass needs, in plain types: shared by the driver and by the code of each instruction set.
//
// A tile is one input and up to `lanes` rows, or, where rows are few, as many for each of several inputs. The coefficients of a node are an array of bundles, one bundle of rows for
// each entry that is listed inside a window of the node's plane. Entries that are not listed are zero, or are not needed:
// what comes before them multiplies them by zero.
#pragma once

#include <stdint.h>

namespace verifix {

enum class StepKind : int32_t { dense, convolution, scaling, sum, concatenation, sparse, lines, planes };
enum class Hull : int32_t { box, l2, l1, none };

constexpr int64_t bundle_bytes = 64;  // rows come in bundles of one or two times this size
constexpr int64_t most_bundles = 2;
constexpr int64_t most_packed = 16;  // inputs that share a tile

struct Window {
    int32_t h0, h1, w0, w1;
};

// A use of an entry of the source by a sparse step or by planes.
struct Use {
    int32_t place;          // the number of the weight or of the slopes
    int32_t position, row;  // of the plane of the output, where the entry is that uses it
    int32_t channel;
};

template <class T>
struct Step {
    StepKind kind;
    int32_t source_count;
    const int32_t* sources;  // the nodes that feed this one; node 0 is the input, node i + 1 the output of step i
    int64_t c, h, w;         // of the output
    const T* weight;         // outputs last: dense: [input][output]; convolution: [kh][kw][input][output of the group];
                             // sparse: of each place
    const T* bias;           // of the outputs, or null
    int64_t kernel_h, kernel_w, stride_h, stride_w, padding_h, padding_w, dilation_h, dilation_w, groups;
    const T* scale;  // scaling: of each entry, or null; its shift is in bias, as are the constants of a sparse step
    T factor;        // sum: of the second source
    // sparse, planes:
    const int64_t* offsets;    // each entry of the output owns the places from one offset up to the next,
    const int32_t* index;      // each place reads one entry of the source,
    const int64_t* first_use;  // whose uses are those from one number up to the next, in the order of the output,
    const Use* uses;
    const Window* reach;  // and each position of the output's plane reads a window of the source's
    // for forward passes:
    const T* bias_size;   // scaling: bounds the terms that the bias is the sum of; null: |bias| does
    const T* panels;      // dense, convolution: the weights as forward passes read them (forward_tile.h); null: too wide
    const T* panel_bias;  // the bias alike, with zeros for none
};

// h >= lower_slope z + lower_offset and <= upper_slope z + upper_offset, for each entry of one input; null is zero. Planes
// have a slope for each place, and h lies between sums of them.
template <class T>
struct LinesOfInput {
    const T *lower_slope, *lower_offset, *upper_slope, *upper_offset;
};

// Neighbours on one axis of a plane, from `begin` to `end`, that feed the same windows, from `first` to `last`.
struct AxisBlock {
    int64_t begin, end, first, last;
};

// Entries of a plane: those of position p (row by row) are the channels channel[offset[p]] ... channel[offset[p + 1] - 1],
// in rising order.
struct Entries {
    const int32_t* offset;
    const int32_t* channel;
};

template <class T>
struct Tile {
    const Step<T>* steps;
    const int64_t* channels;       // of every node
    const int64_t* sizes;          // entries of every node
    const int64_t* widths;         // of the plane of every node
    const Window* windows;         // of every node
    const Entries* entries;        // of every node
    int64_t* const* shifts;        // of every node, for each row of its window: leads from places in its list to places here:
    T* coefficients;
    const int32_t* first_writer;   // of every node: the first step that gives it coefficients, or 0
    const LinesOfInput<T>* lines;  // of every step, for the first input; those of the others follow
    AxisBlock* axis_blocks;        // scratch, for as many as the highest and the widest plane have rows and columns
    int32_t start;                 // the node that the rows are on
    int64_t inputs;                // that take part: the first `rows` lanes are of the first one, and so on
    bool units;                    // the rows are unit vectors, times `sign`; else the coefficients of `start` are there
    int64_t base;                  // those of one position: this channel in the first lane, the next one in the second and
                                   // so on; -1: those of any positions, the first of the list in the first lane
    T sign;
    int64_t rows;  // of each input
    bool both;     // lines are parallel: bound from above as well, with the same coefficients
    Hull hull;
    const T* center;  // of the set of the first input; those of the others follow
    const T* radius;
    T *low, *high;  // one for each lane; high only with `both`
};

// bundles: how many times bundle_bytes of rows an entry has
#define VERIFIX_DECLARE_BACKWARD(isa)                                   \
    namespace isa {                                                     \
    void backward_tile(const Tile<float>& tile, int64_t bundles) noexcept;  \
    void backward_tile(const Tile<double>& tile, int64_t bundles) noexcept; \
    }
VERIFIX_DECLARE_BACKWARD(base)
VERIFIX_DECLARE_BACKWARD(avx2)
VERIFIX_DECLARE_BACKWARD(avx512)
#undef VERIFIX_DECLARE_BACKWARD

}  // namespace verifix
