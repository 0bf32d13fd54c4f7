// Backward bound passes: linear forms of a node, pushed to the input through affine operations and lines.
//
// A Plan holds a network as a flat list of steps, in an order in which every step follows its sources; weights are
// copied into it (on CUDA: borrowed from the device, where they must outlive it). Entries of a node are stored as
// [h][w][c] throughout: the caller permutes.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "verifix/isa.h"

namespace verifix {

struct PlanShape {
    std::int64_t c, h, w;
    std::int64_t entries() const { return c * h * w; }
};

struct ConvolutionGeometry {
    std::int64_t kernel_h, kernel_w, stride_h, stride_w, padding_h, padding_w, dilation_h, dilation_w, groups;
};

// What a pass starts from, for `inputs` inputs, and where its bounds go.
template <class T>
struct BackwardRequest {
    std::int32_t start = 0;  // the node that the rows are on
    std::int64_t inputs = 0;
    std::int64_t rows = 0;                     // of each input, or of all inputs together where there are row_offsets
    const T* coefficients = nullptr;           // (inputs or 1, rows, entries of the node); null: rows are unit vectors,
    const std::int64_t* positions = nullptr;   // of these entries, (rows), rising (for each input)
    const std::int64_t* row_offsets = nullptr; // (inputs + 1): where the positions of each input begin; null: they share all
    std::int64_t coefficient_batch = 1;        // 1: all inputs share the coefficients
    T sign = T(1);                             // of the unit vectors
    std::vector<const T*> lines;               // for each step 4 pointers to (inputs, entries), null where there is none;
                                               // slopes of a step of planes are (inputs, places)
    bool both = false;                         // lines are parallel: bounds from above come along
    int hull = 0;                              // 0: radius per entry (box); 1: l2 norm of radius * coefficient; 2: largest;
                                               // 3: none, the caller takes it over `forms`
    const T* center = nullptr;                 // (inputs, entries of the input); null with hull 3
    const T* radius = nullptr;
    T* forms = nullptr;                        // hull 3: (inputs, rows, entries of the input) or (rows, entries), the
                                               // coefficients that arrive
    T* low = nullptr;                          // (inputs, rows), or (rows) where there are row_offsets; with hull 3 constants
    T* high = nullptr;
};

template <class T>
struct ForwardRequest;  // forward.h

template <class T>
class Plan {
public:
    explicit Plan(PlanShape input);
    ~Plan();
    Plan(Plan&&) noexcept;

    // Each returns the number of its node. Sources are numbers of earlier nodes; 0 is the input.
    // All throw std::invalid_argument where a source or a size does not fit.
    int dense(int source, std::int64_t outputs, const T* weight, const T* bias);
    int convolution(int source, PlanShape output, ConvolutionGeometry geometry, const T* weight, const T* bias);
    // shift_size: bounds the terms that a computed shift is the sum of; null: the shift is given, not computed
    int scaling(int source, const T* scale, const T* shift, const T* shift_size = nullptr);
    int sum(int first, int second, T factor);
    int concatenation(const std::vector<int>& sources);
    // Entry o of the output is constant[o] plus the sum of weight[k] times entry index[k] of the source, for the `count`
    // places k from offsets[o] up to offsets[o + 1]. A null constant is zero.
    int sparse(int source, PlanShape output, std::int64_t count, const std::int64_t* offsets, const std::int64_t* index,
               const T* weight, const T* constant);
    int lines(int source);
    // Entries between two linear functions of the entries of the source at their places, as maxima over windows are.
    int planes(int source, PlanShape output, std::int64_t count, const std::int64_t* offsets, const std::int64_t* index);

    PlanShape shape(int node) const;
    int nodes() const;

    // Works with fewer threads and fewer rows at once where coefficients would need more than `memory` bytes; at the least
    // with one thread and one bundle of rows. Throws std::invalid_argument for a request that does not fit the plan,
    // std::bad_alloc.
    void run(const BackwardRequest<T>& request, std::int64_t memory, int threads, Isa isa) const;

    // Whether `forward` takes the step of a node: not the input, not lines, no padding far beyond the plane.
    bool forwards(int node) const;

    // Throws as `run` does.
    void forward(const ForwardRequest<T>& request, int threads, Isa isa) const;

    struct Parts;  // csrc/cpu/plan.h
    const Parts& parts() const { return *parts_; }

private:
    std::unique_ptr<Parts> parts_;
};

}  // namespace verifix
