#include "backward_schedule.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>

namespace verifix {
namespace {

using gather::Rows;
using gather::View;

[[noreturn]] void refuse(const std::string& what) { throw std::invalid_argument("backward pass: " + what); }

// Where a copy of the items starts in the tables.
template <class Item>
std::int64_t append(std::vector<std::uint8_t>& tables, const Item* items, std::size_t count) {
    tables.resize((tables.size() + 15) / 16 * 16);
    const std::size_t at = tables.size();
    tables.resize(at + count * sizeof(Item));
    if (count > 0) std::memcpy(tables.data() + at, items, count * sizeof(Item));
    return static_cast<std::int64_t>(at);
}

struct Reach {
    std::vector<Window> windows;  // of every node
    std::vector<char> reached;
};

template <class T>
Reach reach(const typename Plan<T>::Parts& plan, int start, Window window) {
    Reach found{std::vector<Window>(plan.shapes.size(), Window{0, 0, 0, 0}), std::vector<char>(plan.shapes.size(), 0)};
    found.windows[static_cast<std::size_t>(start)] = window;
    found.reached[static_cast<std::size_t>(start)] = 1;
    propagate_windows(plan.steps, plan.shapes, start, found.windows, found.reached);
    return found;
}

// The steps between the start and the input, and who writes first to what.
template <class T>
std::vector<ScheduledStep> reached_steps(const typename Plan<T>::Parts& plan, int start) {
    std::vector<ScheduledStep> steps;
    std::vector<int> writers(plan.shapes.size(), 0), bent_by(plan.shapes.size(), -1);
    writers[static_cast<std::size_t>(start)] = 2;  // whose rows may be anything
    for (int node = start; node > 0; --node) {
        const auto index = static_cast<std::size_t>(node);
        if (writers[index] == 0) continue;
        const Step<T>& step = plan.steps[index - 1];
        ScheduledStep scheduled{node, writers[index] == 1 ? bent_by[index] : -1, {}};
        std::int32_t before = 0;
        for (std::int32_t s = 0; s < step.source_count; ++s) {
            const auto source = static_cast<std::size_t>(step.sources[s]);
            ScheduledEdge edge;
            edge.edge = {node, step.sources[s], plane_of(plan.shapes[index]), plane_of(plan.shapes[source]), writers[source] == 0};
            edge.before = before;
            scheduled.edges.push_back(edge);
            ++writers[source];
            bent_by[source] = step.kind == StepKind::lines ? node : -1;
            if (step.kind == StepKind::concatenation) before += edge.edge.to.c;
        }
        steps.push_back(std::move(scheduled));
    }
    return steps;
}

// Rows that are unit vectors, and what their groups reach.
template <class T>
class UnitRows {
public:
    UnitRows(const typename Plan<T>::Parts& plan, int start, const std::vector<std::int32_t>& positions)
        : plan_(plan), start_(start), positions_(positions) {}

    // Cuts the rows [begin, end) of an input into groups. Neighbours share most of what they reach, so they go together
    // as long as they are in one row of the plane; rows of the plane, as long as apart they would reach more.
    void cut(std::int64_t begin, std::int64_t end, std::int64_t input, std::vector<Rows>& groups) const {
        const PlanShape shape = plan_.shapes[static_cast<std::size_t>(start_)];
        const std::int64_t row_entries = shape.w * shape.c;
        const std::size_t known = groups.size();
        std::int64_t cost_before = 0;
        for (std::int64_t first = begin; first < end;) {
            Rows group{first, input, 1};
            const auto same_row = [&](std::int64_t row) { return position(row) / row_entries == position(first) / row_entries; };
            while (group.count < gather::lanes && first + group.count < end && same_row(first + group.count)) ++group.count;
            first += group.count;
            std::int64_t cost_of_group = cost(group);
            if (groups.size() > known && groups.back().count + group.count <= gather::lanes) {
                const Rows together{groups.back().first, input, groups.back().count + group.count};
                const std::int64_t cost_together = cost(together);
                if (cost_together <= cost_before + cost_of_group) {
                    groups.back() = together;
                    cost_before = cost_together;
                    continue;
                }
            }
            groups.push_back(group);
            cost_before = cost_of_group;
        }
    }

    Window window(const Rows& group) const {
        const PlanShape shape = plan_.shapes[static_cast<std::size_t>(start_)];
        const auto height = static_cast<std::int32_t>(shape.h), width = static_cast<std::int32_t>(shape.w);
        Window window{height, 0, width, 0};
        for (std::int64_t row = group.first; row < group.first + group.count; ++row) {
            const std::int32_t plane_position = position(row) / static_cast<std::int32_t>(shape.c);
            const std::int32_t h = plane_position / width, w = plane_position % width;
            window = {std::min(window.h0, h), std::max(window.h1, h + 1), std::min(window.w0, w), std::max(window.w1, w + 1)};
        }
        return window;
    }

private:
    std::int32_t position(std::int64_t row) const { return positions_[static_cast<std::size_t>(row)]; }

    // How many entries a group reaches.
    std::int64_t cost(const Rows& group) const {
        const std::vector<Window> windows = reach<T>(plan_, start_, window(group)).windows;
        std::int64_t entries = 0;
        for (std::size_t node = 0; node < windows.size(); ++node) entries += gather::area(windows[node]) * plan_.shapes[node].c;
        return entries;
    }

    const typename Plan<T>::Parts& plan_;
    int start_;
    const std::vector<std::int32_t>& positions_;
};

// Places buffers one after the other where nothing lives any more. A buffer lives from the first time that something is
// written to it to the step that it is the output of.
class Arena {
public:
    std::int64_t size = gather::constants;

    std::int64_t take(std::int64_t length) {
        std::int64_t offset = gather::constants;
        auto after = taken_.begin();
        for (; after != taken_.end() && after->first < offset + length; ++after) offset = std::max(offset, after->second);
        taken_.insert(after, {offset, offset + length});
        size = std::max(size, offset + length);
        return offset;
    }
    void give_back(std::int64_t offset, std::int64_t length) {
        taken_.erase(std::find(taken_.begin(), taken_.end(), std::pair(offset, offset + length)));
    }

private:
    std::vector<std::pair<std::int64_t, std::int64_t>> taken_;  // ascending
};

// Offsets of the buffers of every node for a group, -1 where it does not get to; and the size of all.
template <class T>
std::pair<std::vector<std::int64_t>, std::int64_t> place_buffers(const typename Plan<T>::Parts& plan, int start,
                                                                 const std::vector<ScheduledStep>& steps, const Reach& reach) {
    Arena arena;
    std::vector<std::int64_t> offsets(plan.shapes.size(), -1);
    const auto size = [&](std::int32_t node) {
        const auto index = static_cast<std::size_t>(node);
        return gather::area(reach.windows[index]) * plan.shapes[index].c;
    };
    const auto place = [&](std::int32_t node) {
        std::int64_t& offset = offsets[static_cast<std::size_t>(node)];
        if (offset < 0) offset = arena.take(size(node));
    };
    place(start);
    for (const ScheduledStep& step : steps) {
        for (const ScheduledEdge& edge : step.edges) place(edge.edge.source);
        arena.give_back(offsets[static_cast<std::size_t>(step.node)], size(step.node));
    }
    return {offsets, arena.size};
}

}  // namespace

gather::Plane plane_of(PlanShape shape) {
    return {static_cast<std::int32_t>(shape.c), static_cast<std::int32_t>(shape.h), static_cast<std::int32_t>(shape.w)};
}

template <class T>
BackwardSchedule<T>::BackwardSchedule(const Plan<T>& plan, int start, std::int64_t rows, const std::int64_t* positions,
                                      std::int64_t inputs, const std::int64_t* row_offsets)
    : parts_(new Parts) {
    const PlanShape shape = plan.shape(start);
    const typename Plan<T>::Parts& inside = plan.parts();
    Parts& parts = *parts_;
    parts.plan = &inside;
    parts.start = start;
    parts.rows = rows;
    parts.units = positions != nullptr;
    parts.inputs = row_offsets == nullptr ? -1 : inputs;
    if (rows < 0 || inputs < 0) refuse("negative number of inputs or rows");
    std::vector<std::int32_t> units;
    for (std::int64_t i = 0; parts.units && i < rows; ++i) {
        if (positions[i] < 0 || positions[i] >= shape.entries()) refuse("position out of range");
        units.push_back(static_cast<std::int32_t>(positions[i]));
    }

    std::vector<Rows> groups;
    const UnitRows<T> unit_rows(inside, start, units);
    if (row_offsets != nullptr) {
        if (!parts.units && rows > 0) refuse("row offsets are for unit rows");
        if (row_offsets[0] != 0 || row_offsets[inputs] != rows) refuse("row offsets must go from 0 to the number of rows");
        for (std::int64_t i = 0; i < inputs; ++i) {
            if (row_offsets[i] > row_offsets[i + 1]) refuse("row offsets must rise");
        }
        for (std::int64_t i = 0; i < inputs; ++i) unit_rows.cut(row_offsets[i], row_offsets[i + 1], i, groups);
    } else if (parts.units) {
        unit_rows.cut(0, rows, -1, groups);
    } else {
        for (std::int64_t first = 0; first < rows; first += gather::lanes) {
            groups.push_back({first, -1, static_cast<std::int32_t>(std::min<std::int64_t>(gather::lanes, rows - first))});
        }
    }
    if (groups.size() > INT32_MAX) refuse("more than 2^31 groups of rows");
    parts.groups = static_cast<std::int32_t>(groups.size());

    parts.steps = reached_steps<T>(inside, start);
    parts.largest_area.assign(inside.shapes.size(), 0);
    std::vector<View> views;
    const Window whole{0, static_cast<std::int32_t>(shape.h), 0, static_cast<std::int32_t>(shape.w)};
    for (const Rows& group : groups) {
        const Reach found = reach<T>(inside, start, parts.units ? unit_rows.window(group) : whole);
        const auto [offsets, size] = place_buffers<T>(inside, start, parts.steps, found);
        parts.stride = std::max(parts.stride, size);
        for (std::size_t node = 0; node < offsets.size(); ++node) {
            parts.largest_area[node] = std::max(parts.largest_area[node], gather::area(found.windows[node]));
            views.push_back({found.windows[node], offsets[node]});
        }
    }

    parts.groups_at = append(parts.tables, groups.data(), groups.size());
    parts.views_at = append(parts.tables, views.data(), views.size());
    if (parts.units) parts.positions_at = append(parts.tables, units.data(), units.size());
    for (ScheduledStep& scheduled : parts.steps) {
        const Step<T>& step = inside.steps[static_cast<std::size_t>(scheduled.node - 1)];
        if (step.kind != StepKind::sparse && step.kind != StepKind::planes) continue;
        ScheduledEdge& edge = scheduled.edges.front();
        const auto entries = static_cast<std::size_t>(inside.shapes[static_cast<std::size_t>(edge.edge.source)].entries());
        edge.first_use_at = append(parts.tables, step.first_use, entries + 1);
        edge.uses_at = append(parts.tables, step.uses, static_cast<std::size_t>(step.first_use[entries]));
    }
}

template <class T>
BackwardSchedule<T>::~BackwardSchedule() = default;
template <class T>
BackwardSchedule<T>::BackwardSchedule(BackwardSchedule&&) noexcept = default;

template <class T>
const std::vector<std::uint8_t>& BackwardSchedule<T>::tables() const {
    return parts_->tables;
}

template <class T>
std::int64_t BackwardSchedule<T>::pairs(std::int64_t inputs) const {
    if (parts_->inputs >= 0) return parts_->groups;
    std::int64_t count = 0;
    if (__builtin_mul_overflow(inputs, static_cast<std::int64_t>(parts_->groups), &count)) refuse("more than 2^63 - 1 pairs");
    return count;
}

template <class T>
std::int64_t BackwardSchedule<T>::bytes_per_pair() const {
    return parts_->stride * gather::lanes * static_cast<std::int64_t>(sizeof(T));
}

template class BackwardSchedule<float>;
template class BackwardSchedule<double>;

}  // namespace verifix
