// What one tile of a backward pass needs, in plain types: shared by the driver and by the code of each instruction set.
//
// A tile is one input and up to `lanes` rows. The coefficients of a node are an array of vectors, one vector of rows for
// each entry of the node inside a window of its plane, stored as [h][w][c]. Entries outside the window are zero.
#pragma once

#include <stdint.h>

namespace verifix {

enum class StepKind : int32_t { dense, convolution, scaling, sum, concatenation, movement, lines };
enum class Hull : int32_t { box, l2, l1 };

constexpr int64_t backward_vector_bytes = 64;

template <class T>
struct Step {
    StepKind kind;
    int32_t source_count;
    const int32_t* sources;  // the nodes that feed this one; node 0 is the input, node i + 1 the output of step i
    int64_t c, h, w;         // of the output
    const T* weight;         // dense: [output][input]; convolution: [output][kh][kw][input of the group]
    const T* transposed;     // the same with outputs last, where groups is 1; for unit rows
    const T* bias;           // of the outputs, or null
    int64_t kernel_h, kernel_w, stride_h, stride_w, padding_h, padding_w, dilation_h, dilation_w, groups;
    const T* scale;        // scaling: of each entry, or null; its shift is in bias, as is the fill of a movement
    T factor;              // sum: of the second source
    const int64_t* index;  // movement: the entry of the source that each entry of the output is, or -1
};

// h >= lower_slope z + lower_offset and <= upper_slope z + upper_offset, for each entry of one input; null is zero.
template <class T>
struct LinesOfInput {
    const T *lower_slope, *lower_offset, *upper_slope, *upper_offset;
};

struct Window {
    int32_t h0, h1, w0, w1;
};

template <class T>
struct Tile {
    const Step<T>* steps;
    const int64_t* channels;  // of every node
    const int64_t* widths;    // of the plane of every node
    const Window* windows;    // of every node
    T* const* buffers;        // of every node; null where no coefficients get to
    uint8_t* const* live;     // of every node: which entries may hold anything but zero
    const LinesOfInput<T>* lines;
    int32_t start;  // the node that the rows are on; its buffer is filled
    int64_t first_channel;  // the rows are unit vectors of this channel and the next ones at one position, and fill all
                            // lanes; else -1
    T sign;                 // of the unit vectors
    bool both;      // lines are parallel: bound from above as well, with the same coefficients
    Hull hull;
    const T* center;  // of the input's set
    const T* radius;
    T *low, *high;  // one for each lane; high only with `both`
};

#define VERIFIX_DECLARE_BACKWARD(isa)                      \
    namespace isa {                                        \
    void backward_tile(const Tile<float>& tile) noexcept;  \
    void backward_tile(const Tile<double>& tile) noexcept; \
    }
VERIFIX_DECLARE_BACKWARD(base)
VERIFIX_DECLARE_BACKWARD(avx2)
VERIFIX_DECLARE_BACKWARD(avx512)
#undef VERIFIX_DECLARE_BACKWARD

}  // namespace verifix
