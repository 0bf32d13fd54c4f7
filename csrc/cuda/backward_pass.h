// The course of a pass: which items run over which node, chunk by chunk. An executor runs the items: kernels on a stream,
// or, in the tests, loops.
//
// An executor has items(step, pairs, count), which calls step(pair, item, lane) for every item below count, and
// sums(sum, pairs), which for every pair and lane combines the parts of a sum in their order and finishes it. What one
// call writes is there for the next.
#pragma once

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>

#include "backward_convolution.h"
#include "backward_schedule.h"
#include "backward_steps.h"
#include "backward_sums.h"
#include "verifix/backward_cuda.h"

namespace verifix {

constexpr std::int64_t most_pairs = 65535;  // in a chunk: what one axis of a grid holds

template <class T, class Executor>
class BackwardPass {
public:
    // Throws std::invalid_argument for a request that does not fit.
    BackwardPass(const BackwardSchedule<T>& schedule, const BackwardRequest<T>& request, const BackwardMemory& memory,
                 Executor& executor)
        : schedule_(schedule.parts()), request_(request), memory_(memory), executor_(executor), pairs_(schedule.pairs(request.inputs)),
          bytes_per_pair_(schedule.bytes_per_pair()) {
        check();
    }

    void run() {
        if (pairs_ == 0) return;
        const std::int64_t fitting = std::min(memory_.bytes / bytes_per_pair_, most_pairs);
        for (std::int64_t first = 0; first < pairs_; first += fitting) {
            count_ = static_cast<std::int32_t>(std::min(fitting, pairs_ - first));
            run_chunk(first);
        }
    }

private:
    using Plan = typename verifix::Plan<T>::Parts;

    [[noreturn]] static void refuse(const std::string& what) { throw std::invalid_argument("backward pass: " + what); }

    void check() const {
        const BackwardRequest<T>& r = request_;
        if (r.inputs < 0) refuse("negative number of inputs");
        if (r.coefficient_batch != 1 && r.coefficient_batch != r.inputs) refuse("coefficients for some inputs only");
        if (r.hull < 0 || r.hull > 3) refuse("hull = " + std::to_string(r.hull) + ": must be 0, 1, 2 or 3");
        if (schedule_.inputs >= 0 && r.inputs != schedule_.inputs) refuse("the schedule is that of other inputs");
        std::int64_t results = 0;
        if (__builtin_mul_overflow(r.inputs, schedule_.rows, &results)) refuse("more than 2^63 - 1 bounds");
        const bool without_set = r.hull == static_cast<int>(Hull::none);
        if (without_set && __builtin_mul_overflow(results, shape(0).entries(), &results)) refuse("more than 2^63 - 1 coefficients");
        if (results == 0) return;
        if ((r.coefficients == nullptr) != schedule_.units) refuse("coefficients are given or not, but the schedule is for the other");
        if ((without_set ? r.forms == nullptr : r.center == nullptr || r.radius == nullptr) || r.low == nullptr ||
            (r.both && r.high == nullptr)) {
            refuse("a null pointer");
        }
        if (r.lines.size() != 4 * plan().steps.size()) refuse("lines must be four pointers for each step");
        for (const ScheduledStep& step : schedule_.steps) {
            if (bent(step.node) && (line(step.node, 0) == nullptr || line(step.node, 2) == nullptr)) {
                refuse("step " + std::to_string(step.node) + " has no slopes");
            }
        }
        if (memory_.tables == nullptr || memory_.workspace == nullptr || memory_.bytes < bytes_per_pair_) {
            refuse("workspace of " + std::to_string(memory_.bytes) + " bytes: needs " + std::to_string(bytes_per_pair_));
        }
    }

    const Plan& plan() const { return *schedule_.plan; }
    const Step<T>& step_of(std::int32_t node) const { return plan().steps[static_cast<std::size_t>(node - 1)]; }
    bool bent(std::int32_t node) const {
        return step_of(node).kind == StepKind::lines || step_of(node).kind == StepKind::planes;
    }
    PlanShape shape(std::int32_t node) const { return plan().shapes[static_cast<std::size_t>(node)]; }
    const T* line(std::int32_t node, std::size_t which) const {
        return request_.lines[4 * static_cast<std::size_t>(node - 1) + which];
    }
    std::int32_t area(std::int32_t node) const { return schedule_.largest_area[static_cast<std::size_t>(node)]; }
    // Items of a node where each is one entry, over the largest window.
    std::int64_t entries(std::int32_t node) const { return area(node) * shape(node).c; }

    template <class Item>
    const Item* table(std::int64_t at) const {
        return at < 0 ? nullptr : reinterpret_cast<const Item*>(static_cast<const std::uint8_t*>(memory_.tables) + at);
    }

    const std::int32_t* units_on(std::int32_t node) const {
        return schedule_.units && node == schedule_.start ? table<std::int32_t>(schedule_.positions_at) : nullptr;
    }

    void run_chunk(std::int64_t first) {
        chunk_ = {table<gather::Rows>(schedule_.groups_at),
                  table<gather::View>(schedule_.views_at),
                  schedule_.groups,
                  static_cast<std::int32_t>(schedule_.largest_area.size()),
                  first / schedule_.groups,
                  static_cast<std::int32_t>(first % schedule_.groups),
                  static_cast<T*>(memory_.workspace),
                  schedule_.stride};
        const std::int32_t start = schedule_.start;
        executor_.items(gather::Start<T>{chunk_, start, plane_of(shape(start)), request_.coefficients, units_on(start),
                                         request_.coefficient_batch == 1, schedule_.rows, request_.sign},
                        count_, std::max<std::int64_t>(entries(start), gather::constants));
        for (const ScheduledStep& scheduled : schedule_.steps) {
            if (area(scheduled.node) > 0) add_constants(scheduled.node);
            for (const ScheduledEdge& edge : scheduled.edges) push(scheduled, edge);
        }
        const gather::Bounds<T> bounds{request_.low, request_.both ? request_.high : nullptr, schedule_.rows};
        const gather::Plane plane = plane_of(shape(0));
        const std::int64_t size = shape(0).entries();
        const auto hull = static_cast<Hull>(request_.hull);
        if (hull == Hull::none) return executor_.items(gather::Forms<T>{chunk_, plane, request_.forms, bounds}, count_, size);
        executor_.sums(gather::Hulls<T>{chunk_, plane, hull, request_.center, request_.radius, size, bounds}, count_);
        if (hull == Hull::l2) executor_.sums(gather::Euclidean<T>{chunk_, plane, request_.radius, size, bounds}, count_);
    }

    gather::Bends<T> bends(std::int32_t node) const {
        const std::int64_t entries = shape(node).entries();
        const std::int64_t slopes = step_of(node).kind == StepKind::planes ? step_of(node).offsets[entries] : entries;
        return {line(node, 0), line(node, 1), line(node, 2), line(node, 3), slopes, entries};
    }

    void add_constants(std::int32_t node) {
        const Step<T>& step = step_of(node);
        const gather::Plane plane = plane_of(shape(node));
        if (bent(node)) {
            if (line(node, 1) == nullptr && line(node, 3) == nullptr) return;
            executor_.sums(gather::Offsets<T>{chunk_, node, plane, bends(node)}, count_);
        } else if (step.bias != nullptr) {
            // Per channel for convolutions and dense layers, per entry for scalings and sparse steps.
            const bool per_entry = step.kind == StepKind::scaling || step.kind == StepKind::sparse;
            executor_.sums(gather::Bias<T>{chunk_, node, plane, per_entry, step.bias}, count_);
        }
    }

    void push(const ScheduledStep& scheduled, const ScheduledEdge& scheduled_edge) {
        const gather::Edge& edge = scheduled_edge.edge;
        const Step<T>& step = step_of(edge.node);
        const std::int64_t items = entries(edge.source);
        if (items == 0) return;
        const gather::Uses uses{table<std::int64_t>(scheduled_edge.first_use_at), table<Use>(scheduled_edge.uses_at)};
        switch (step.kind) {
            case StepKind::dense:
            case StepKind::convolution:
                return convolution(scheduled, edge, step);
            case StepKind::scaling:
                return executor_.items(gather::Elementwise<T>{chunk_, edge, 0, step.scale, T(1)}, count_, items);
            case StepKind::sum: {
                const T factor = &scheduled_edge == &scheduled.edges.front() ? T(1) : step.factor;
                return executor_.items(gather::Elementwise<T>{chunk_, edge, 0, nullptr, factor}, count_, items);
            }
            case StepKind::concatenation:
                return executor_.items(gather::Elementwise<T>{chunk_, edge, scheduled_edge.before, nullptr, T(1)}, count_, items);
            case StepKind::sparse:
                return executor_.items(gather::Sparse<T>{chunk_, edge, uses, step.weight}, count_, items);
            case StepKind::planes:
                return executor_.items(gather::Planes<T>{chunk_, edge, uses, bends(edge.node)}, count_, items);
            case StepKind::lines:
                return executor_.items(gather::Lines<T>{chunk_, edge, bends(edge.node)}, count_, items);
        }
    }

    void convolution(const ScheduledStep& scheduled, const gather::Edge& edge, const Step<T>& step) {
        const bool dense = step.kind == StepKind::dense;
        const std::int64_t inputs = dense ? shape(edge.source).entries() : shape(edge.source).c / step.groups;
        constexpr int wide = 16 / sizeof(T);
        const bool aligned = inputs % wide == 0 && reinterpret_cast<std::uintptr_t>(step.weight) % 16 == 0;
        if (inputs == 1) return gather_weights<1, false>(scheduled, edge, step, dense, inputs);
        if (inputs % gather::together == 0 && aligned) return gather_weights<gather::together, true>(scheduled, edge, step, dense, inputs);
        if (inputs <= 4) return gather_weights<4, false>(scheduled, edge, step, dense, inputs);
        return gather_weights<gather::together, false>(scheduled, edge, step, dense, inputs);
    }

    template <int size, bool wide>
    void gather_weights(const ScheduledStep& scheduled, const gather::Edge& edge, const Step<T>& step, bool dense, std::int64_t inputs) {
        gather::Slopes<T> slopes{nullptr, nullptr, 0};
        if (scheduled.bent_by > 0) slopes = {line(scheduled.bent_by, 0), line(scheduled.bent_by, 2), shape(edge.node).entries()};
        const std::int64_t groups = dense ? 1 : step.groups;
        const gather::Taps one{1, 1, 0, 1};
        const gather::Taps rows{step.kernel_h, step.stride_h, step.padding_h, step.dilation_h};
        const gather::Taps columns{step.kernel_w, step.stride_w, step.padding_w, step.dilation_w};
        const gather::Convolution<T, size, wide> items{
            chunk_,
            edge,
            dense,
            dense ? one : rows,
            dense ? one : columns,
            static_cast<std::int32_t>(groups),
            static_cast<std::int32_t>(inputs),
            static_cast<std::int32_t>(step.c / groups),
            step.weight,
            slopes,
            units_on(edge.node),
            request_.sign};
        executor_.items(items, count_, (dense ? 1 : area(edge.source)) * groups * ((inputs - 1) / size + 1));
    }

    const typename BackwardSchedule<T>::Parts& schedule_;
    const BackwardRequest<T>& request_;
    const BackwardMemory& memory_;
    Executor& executor_;
    const std::int64_t pairs_, bytes_per_pair_;
    gather::Chunk<T> chunk_{};
    std::int32_t count_ = 0;  // of pairs in this chunk
};

}  // namespace verifix
