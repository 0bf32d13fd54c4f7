// How the rows of a pass are cut into tiles, and what is the same for all of them.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <map>
#include <vector>

#include "plan.h"

namespace verifix {

template <class T>
constexpr std::int64_t lanes_of_bundle = bundle_bytes / static_cast<std::int64_t>(sizeof(T));

constexpr std::int64_t most_neighbours = 8;  // positions that share a tile: with each one their common window is larger

// Rows that share a tile, and the windows of all nodes that they reach.
struct Group {
    std::int64_t input;  // -1 for all
    std::int64_t first, count;
    std::int64_t bundles;
    const std::vector<Window>* windows;
    std::int64_t base;  // as of a tile
};

// What is the same for all tiles of a pass.
template <class T>
struct Route {
    std::vector<char> reached;               // whether coefficients get to a node
    std::vector<std::int32_t> first_writer;  // the first step that gives a node coefficients; 0 where there is none
    std::vector<std::int32_t> list_of;       // the node whose list a node shares: of its own number where it has its own
    std::vector<char> partial;               // whether that list holds some of the entries only

    Route(const std::vector<Step<T>>& steps, std::int32_t start, bool units);
};

template <class T>
Route<T>::Route(const std::vector<Step<T>>& steps, std::int32_t start, bool units)
    : reached(steps.size() + 1, 0), first_writer(steps.size() + 1, 0), list_of(steps.size() + 1), partial(steps.size() + 1, 0) {
    std::vector<std::int32_t> readers(steps.size() + 1, 0);
    reached[static_cast<std::size_t>(start)] = 1;
    for (std::int32_t node = start; node >= 0; --node) {
        const auto n = static_cast<std::size_t>(node);
        list_of[n] = node;
        if (!reached[n]) continue;
        // The coefficients of the output of lines are needed where a line is not zero. Those that come from one step which
        // works entry by entry are where that has some. Else they may be anywhere.
        if (node == start) {
            partial[n] = units;
        } else if (node > 0 && steps[n - 1].kind == StepKind::lines) {
            partial[n] = 1;
        } else if (readers[n] == 1) {
            const auto reader = static_cast<std::size_t>(first_writer[n]);
            const StepKind kind = steps[reader - 1].kind;
            if (kind == StepKind::lines || kind == StepKind::scaling || kind == StepKind::sum) {
                list_of[n] = list_of[reader];
                partial[n] = partial[reader];
            }
        }
        if (node == 0) break;
        const Step<T>& step = steps[n - 1];
        for (std::int32_t s = 0; s < step.source_count; ++s) {
            const auto source = static_cast<std::size_t>(step.sources[s]);
            reached[source] = 1;
            ++readers[source];
            if (first_writer[source] == 0) first_writer[source] = node;
        }
    }
}

// Cuts rows into tiles.
template <class T>
class Groups {
public:
    std::vector<Group> all;

    // most: bundles of a tile; packed: all rows of several inputs go into one tile of so many.
    Groups(const BackwardRequest<T>& request, const std::vector<Step<T>>& steps, const std::vector<PlanShape>& shapes,
           std::int64_t most, bool packed)
        : request_(request), steps_(steps), shapes_(shapes), shape_(shapes[static_cast<std::size_t>(request.start)]), most_(most) {
        const Window whole{0, static_cast<std::int32_t>(shape_.h), 0, static_cast<std::int32_t>(shape_.w)};
        if (packed) {
            all.push_back({-1, 0, request.rows, most, windows(whole), -1});
        } else if (request.coefficients != nullptr) {
            for (std::int64_t row = 0; row < request.rows;) {
                const std::int64_t bundles = request.rows - row > lanes_of_bundle<T> ? most_ : 1;
                const std::int64_t count = std::min(bundles * lanes_of_bundle<T>, request.rows - row);
                all.push_back({-1, row, count, bundles, windows(whole), -1});
                row += count;
            }
        } else if (request.row_offsets == nullptr) {
            cut(-1, 0, request.rows);
        } else {
            for (std::int64_t input = 0; input < request.inputs; ++input) {
                cut(input, request.row_offsets[input], request.row_offsets[input + 1]);
            }
        }
    }

    // The bytes of all coefficients of the tile that needs most of them, but for those that lines do not need.
    std::int64_t most_bytes() const {
        std::int64_t most = 0;
        for (const auto& [start, windows] : windows_) {
            std::int64_t entries = 0;
            for (std::size_t node = 0; node < windows.size(); ++node) {
                const Window& window = windows[node];
                entries += static_cast<std::int64_t>(window.h1 - window.h0) * (window.w1 - window.w0) * shapes_[node].c;
            }
            most = std::max(most, entries);
        }
        return most * most_ * bundle_bytes;
    }

private:
    // Unit vectors of one position reach the same window, and neighbours almost the same: they share a tile.
    void cut(std::int64_t input, std::int64_t row, std::int64_t end) {
        constexpr std::int64_t lanes = lanes_of_bundle<T>;
        const std::int64_t* positions = request_.positions;
        while (row < end) {
            const std::int64_t plane = positions[row] / shape_.c, h = plane / shape_.w;
            std::int64_t count = 1;
            while (row + count < end && count < most_ * lanes && positions[row + count] / shape_.c == plane) ++count;
            // Positions are taken whole where they fit.
            while (row + count < end && positions[row + count] / shape_.c / shape_.w == h) {
                const std::int64_t next = positions[row + count] / shape_.c;
                if (next - plane >= most_neighbours) break;
                std::int64_t more = 1;
                while (row + count + more < end && positions[row + count + more] / shape_.c == next) ++more;
                if (count + more > most_ * lanes) break;
                count += more;
            }
            const std::int64_t bundles = count > lanes ? most_ : 1, width = bundles * lanes;
            std::int64_t base = -1;
            if (positions[row + count - 1] / shape_.c == plane && shape_.c >= width) {
                // Where most of some neighbouring channels are asked for, all of them are read at once.
                const std::int64_t first = std::min(positions[row] % shape_.c, shape_.c - width);
                const std::int64_t* const after = std::lower_bound(positions + row, positions + row + count, plane * shape_.c + first + width);
                const std::int64_t inside = after - (positions + row);
                if (2 * inside > width) base = first, count = inside;
            }
            const std::int64_t last = positions[row + count - 1];
            const auto w = static_cast<std::int32_t>(plane % shape_.w);
            const Window window{static_cast<std::int32_t>(h), static_cast<std::int32_t>(h + 1), w,
                                static_cast<std::int32_t>(last / shape_.c % shape_.w + 1)};
            all.push_back({input, row, count, bundles, windows(window), base});
            row += count;
        }
    }

    const std::vector<Window>* windows(Window start) {
        const auto [known, added] = windows_.try_emplace({start.h0, start.w0, start.w1}, shapes_.size());
        if (added) {
            std::vector<char> reached(shapes_.size(), 0);
            reached[static_cast<std::size_t>(request_.start)] = 1;
            known->second[static_cast<std::size_t>(request_.start)] = start;
            propagate_windows(steps_, shapes_, request_.start, known->second, reached);
        }
        return &known->second;
    }

    const BackwardRequest<T>& request_;
    const std::vector<Step<T>>& steps_;
    const std::vector<PlanShape>& shapes_;
    PlanShape shape_;
    std::int64_t most_;  // bundles of a tile
    std::map<std::array<std::int32_t, 3>, std::vector<Window>> windows_;
};

}  // namespace verifix
