// The inside of a plan: steps with the memory that they point to.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "backward_tile.h"
#include "verifix/backward.h"

namespace verifix {

template <class T>
struct Plan<T>::Parts {
    std::vector<PlanShape> shapes;  // of every node
    std::vector<Step<T>> steps;
    std::vector<std::int64_t> channels, widths;  // of every node
    std::vector<std::unique_ptr<T[]>> numbers;
    std::vector<std::unique_ptr<std::int64_t[]>> indices;
    std::vector<std::unique_ptr<std::int32_t[]>> sources;

    const T* keep(const T* values, std::int64_t count);
    const T* keep_transposed(const T* values, std::int64_t rows, std::int64_t columns);
    int append(Step<T> step, const std::vector<int>& from, PlanShape shape);
};

// The windows of every node that rows inside one window of `start` reach; `reached` says which nodes they do.
template <class T>
void propagate_windows(const std::vector<Step<T>>& steps, const std::vector<PlanShape>& shapes, int start,
                       std::vector<Window>& windows, std::vector<char>& reached);

}  // namespace verifix
