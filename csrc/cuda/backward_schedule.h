// The inside of a schedule: the groups of rows, what they reach, and where their buffers are.
#pragma once

#include <cstdint>
#include <vector>

#include "../cpu/plan.h"
#include "backward_steps.h"
#include "verifix/backward_cuda.h"

namespace verifix {

// One edge that coefficients go along: from a step's output to one of its sources.
struct ScheduledEdge {
    gather::Edge edge;
    std::int32_t before = 0;       // channels of a concatenation's output before this source
    std::int64_t first_use_at = -1, uses_at = -1;  // of a sparse step or planes: in the tables
};

// A step that is reached, with its edges in the order of its sources.
struct ScheduledStep {
    std::int32_t node;
    std::int32_t bent_by = -1;  // the lines step that alone has written to this node
    std::vector<ScheduledEdge> edges;
};

template <class T>
struct BackwardSchedule<T>::Parts {
    const typename Plan<T>::Parts* plan = nullptr;
    std::int32_t start = 0;
    std::int64_t rows = 0;
    bool units = false;
    std::int64_t inputs = -1;  // that have their own rows; -1: all inputs share the rows
    std::vector<ScheduledStep> steps;        // in the order of the pass
    std::vector<std::int32_t> largest_area;  // of every node's window, over the groups
    std::int32_t groups = 0;
    std::int64_t stride = gather::constants;  // of a pair, in vectors
    std::vector<std::uint8_t> tables;
    std::int64_t groups_at = 0, views_at = 0, positions_at = -1;  // in the tables
};

gather::Plane plane_of(PlanShape shape);

}  // namespace verifix
