// The offsets of a window, sorted by what they cost: offsets of equal cost are one class.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace verifix {

struct TransportClasses {
    std::vector<double> cost;                                     // of each class, ascending, the first is zero
    std::vector<std::int32_t> first;                              // where each begins in offsets; one more at the end
    std::vector<std::pair<std::int32_t, std::int32_t>> offsets;   // (di, dj); the center is the first of all

    // Throws std::invalid_argument for a cost that is negative, not finite, or not zero at the center.
    TransportClasses(const double* costs, std::int64_t window) {
        const auto count = static_cast<std::size_t>(window * window), center = count / 2;
        for (std::size_t d = 0; d < count; ++d) {
            if (!(costs[d] >= 0 && costs[d] < 0x1p1000) || (d == center && costs[d] != 0)) {
                throw std::invalid_argument("cost[" + std::to_string(d) + "] = " + std::to_string(costs[d]) +
                                            ": must be finite and >= 0, and zero at the center of the window");
            }
        }
        std::vector<std::size_t> order(count);
        std::iota(order.begin(), order.end(), std::size_t{0});
        std::swap(order[0], order[center]);
        std::sort(order.begin() + 1, order.end(), [&](std::size_t a, std::size_t b) {
            return costs[a] != costs[b] ? costs[a] < costs[b] : a < b;
        });
        for (const std::size_t d : order) {
            if (cost.empty() || costs[d] != cost.back()) {
                cost.push_back(costs[d]);
                first.push_back(static_cast<std::int32_t>(offsets.size()));
            }
            const auto at = static_cast<std::int64_t>(d);
            offsets.emplace_back(at / window - window / 2, at % window - window / 2);
        }
        first.push_back(static_cast<std::int32_t>(offsets.size()));
    }
};

}  // namespace verifix
