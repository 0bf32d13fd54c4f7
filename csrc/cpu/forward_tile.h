// What a forward pass through one step needs, in plain types: shared by the driver and by the code of each instruction set.
#pragma once

#include <stdint.h>

#include "backward_tile.h"

namespace verifix {

// The weights of dense layers and convolutions are kept a second time in panels, outputs last: for each group the outputs
// are cut into panels of this many bytes, the last one filled up with zeros; a panel is one such vector of weights for
// each entry of the window.
constexpr int64_t panel_bytes = 64;

// An item of work is so many panels on so many windows.
constexpr int64_t panels_together = 2;
constexpr int64_t windows_together = 240;

// How a dense layer or a convolution reads its source: windows on the plane of an input with its padding around it.
// A dense layer has one window, all of a plane of height and width 1.
struct ForwardWindows {
    int64_t c, h, w;  // of the source
    int64_t padding_h, padding_w, padded_h, padded_w;
    int64_t plane;                    // entries of the padded plane
    int64_t count;                    // of windows on one plane: positions of the output
    int64_t runs, run_size;           // a window is so many runs of so many neighbouring entries
    int64_t groups, inputs, outputs;  // channels of one group
    int64_t block;                    // so many planes are held at once
    const int64_t* run_at;            // where runs start, relative to their window
    const int64_t* window_at;         // where windows start: (block, count)
};

template <class T>
struct ForwardWork {
    const Step<T>* step;
    const T* const* lowers;  // of every source: (inputs, entries); null without intervals
    const T* const* uppers;
    const T* const* magnitudes;  // null without magnitudes
    const int64_t* channels;     // of every source
    int64_t source_entries;      // of the first source
    int64_t inputs;
    T *lower, *upper, *magnitude;
    T quantum;
    ForwardWindows windows;  // of dense layers and convolutions
};

// Both take a range of items: for dense layers and convolutions (block, group, panels, windows), with scratch memory for
// a block of planes; for all others (input, row of the plane).
#define VERIFIX_DECLARE_FORWARD(isa)                                                                              \
    namespace isa {                                                                                               \
    void forward_windows(const ForwardWork<float>& work, int64_t first, int64_t last, float* scratch) noexcept;   \
    void forward_windows(const ForwardWork<double>& work, int64_t first, int64_t last, double* scratch) noexcept; \
    void forward_entries(const ForwardWork<float>& work, int64_t first, int64_t last) noexcept;                   \
    void forward_entries(const ForwardWork<double>& work, int64_t first, int64_t last) noexcept;                  \
    }
VERIFIX_DECLARE_FORWARD(base)
VERIFIX_DECLARE_FORWARD(avx2)
VERIFIX_DECLARE_FORWARD(avx512)
#undef VERIFIX_DECLARE_FORWARD

}  // namespace verifix
