// What one thread of a backward pass works with.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "backward_groups.h"

namespace verifix {

template <class T>
void run_tile(const Tile<T>& tile, std::int64_t bundles, Isa isa) noexcept {
    switch (isa) {
#if defined(__x86_64__)
        case Isa::avx512:
            return avx512::backward_tile(tile, bundles);
        case Isa::avx2:
            return avx2::backward_tile(tile, bundles);
#endif
        default:
            return base::backward_tile(tile, bundles);
    }
}

// What one thread works with, tile after tile.
template <class T>
class Worker {
public:
    Worker(const BackwardRequest<T>& request, const Network<T>& network, const Route<T>& route, bool units)
        : request_(request), units_(units), network_(network), route_(route), entries_(network.all_entries), own_(network.shapes.size()),
          lines_(network.shapes.size()), shifts_(network.shapes.size()) {
        const std::vector<PlanShape>& shapes = network.shapes;
        std::int64_t heights = 0;
        memory_ = network.workspaces.take();
        std::int64_t highest = 0, widest = 0;
        for (const PlanShape& shape : shapes) {
            heights += shape.h;
            highest = std::max(highest, shape.h), widest = std::max(widest, shape.w);
        }
        axis_blocks_.resize(static_cast<std::size_t>(highest + widest));
        shift_numbers_.resize(static_cast<std::size_t>(heights));
        std::int64_t* shift = shift_numbers_.data();
        for (std::size_t node = 0; node < shapes.size(); ++node) {
            shifts_[node] = shift;
            shift += shapes[node].h;
            if (!route.reached[node] || !route.partial[node] || route.list_of[node] != static_cast<std::int32_t>(node)) continue;
            own_[node].resize(static_cast<std::size_t>(positions(node) + 2 + shapes[node].entries()));
        }
        for (std::size_t node = 0; node < shapes.size(); ++node) {
            const auto list = static_cast<std::size_t>(route.list_of[node]);
            if (!own_[list].empty()) entries_[node] = {own_[list].data(), own_[list].data() + positions(list) + 1};
        }
    }

    ~Worker() { network_.workspaces.give(std::move(memory_)); }
    Worker(const Worker&) = delete;
    Worker& operator=(const Worker&) = delete;

    // Turns to the lines of some inputs, and lists the entries that they need.
    void take(std::int64_t input, std::int64_t count) {
        if (input == input_) return;
        input_ = input, inputs_ = count;
        for (std::size_t step = 0; step < network_.steps.size(); ++step) {
            const Step<T>& of = network_.steps[step];
            const std::int64_t entries = network_.shapes[step + 1].entries();
            const std::int64_t slopes = of.kind == StepKind::planes ? of.offsets[entries] : entries;
            const T* const* pointers = request_.lines.data() + 4 * step;
            const auto move = [input](const T* pointer, std::int64_t size) {
                return pointer == nullptr ? nullptr : pointer + input * size;
            };
            lines_[step] = {move(pointers[0], slopes), move(pointers[1], entries), move(pointers[2], slopes),
                            move(pointers[3], entries)};
            if (!own_[step + 1].empty() && static_cast<std::int32_t>(step + 1) != request_.start) list_needed(step);
        }
    }

    // The bounds of one group of rows, one for each lane.
    void run(const Group& group, T* low, T* high, Isa isa) {
        if (units_) list_units(group);
        place_coefficients(group);
        if (!units_) fill_rows(group);
        const std::int64_t entries = network_.shapes[0].entries();
        const Tile<T> tile{network_.steps.data(),
                           network_.channels.data(),
                           network_.sizes.data(),
                           network_.widths.data(),
                           group.windows->data(),
                           entries_.data(),
                           shifts_.data(),
                           static_cast<T*>(memory_.bytes.get()),
                           route_.first_writer.data(),
                           lines_.data(),
                           axis_blocks_.data(),
                           request_.start,
                           inputs_,
                           units_,
                           group.base,
                           request_.sign,
                           group.count,
                           request_.both,
                           static_cast<Hull>(request_.hull),
                           without_set() ? nullptr : request_.center + input_ * entries,
                           without_set() ? nullptr : request_.radius + input_ * entries,
                           low,
                           high};
        run_tile(tile, group.bundles, isa);
    }

    std::int64_t lane_of(const Group& group, std::int64_t row) const {
        if (group.base < 0) return row;
        return request_.positions[group.first + row] % network_.channels[static_cast<std::size_t>(request_.start)] - group.base;
    }

    bool without_set() const { return request_.hull == static_cast<int>(Hull::none); }

    // The coefficients of the input that the last run left, one row after the other; zero where rows do not get to.
    void write_forms(const Group& group, T* forms) const {
        const PlanShape shape = network_.shapes[0];
        const Window& window = (*group.windows)[0];
        const std::int64_t entries = shape.entries(), lanes = group.bundles * lanes_of_bundle<T>;
        std::fill_n(forms, group.count * entries, T(0));
        if (!route_.reached[0]) return;
        for (std::int64_t h = window.h0; h < window.h1; ++h) {
            const T* rows = static_cast<const T*>(memory_.bytes.get()) + shifts_[0][h - window.h0] * lanes;
            for (std::int64_t p = h * shape.w + window.w0; p < h * shape.w + window.w1; ++p) {
                for (std::int64_t k = entries_[0].offset[p]; k < entries_[0].offset[p + 1]; ++k) {
                    T* const of_entry = forms + p * shape.c + entries_[0].channel[k];
                    for (std::int64_t row = 0; row < group.count; ++row) of_entry[row * entries] = rows[k * lanes + lane_of(group, row)];
                }
            }
        }
    }

private:
    std::int64_t positions(std::size_t node) const { return network_.shapes[node].h * network_.shapes[node].w; }

    void list_needed(std::size_t step) {
        const std::int64_t channels = network_.shapes[step + 1].c, planes = positions(step + 1), size = planes * channels;
        std::vector<std::uint8_t>& needed = needed_;
        needed.assign(static_cast<std::size_t>(size), 0);
        for (std::int64_t input = 0; input < inputs_; ++input) {
            const auto move = [&](const T* pointer) { return pointer == nullptr ? nullptr : pointer + input * size; };
            const T *p = move(lines_[step].lower_slope), *n = move(lines_[step].upper_slope);
            for (std::int64_t e = 0; e < size; ++e) {
                needed[static_cast<std::size_t>(e)] |= static_cast<std::uint8_t>((p[e] != T(0)) | (n[e] != T(0)));
            }
            for (const T* offsets : {move(lines_[step].lower_offset), move(lines_[step].upper_offset)}) {
                if (offsets == nullptr) continue;
                for (std::int64_t e = 0; e < size; ++e) {
                    needed[static_cast<std::size_t>(e)] |= static_cast<std::uint8_t>(offsets[e] != T(0));
                }
            }
        }
        std::int32_t* offset = own_[step + 1].data();
        std::int32_t* channel = offset + planes + 1;
        std::int32_t count = 0;
        for (std::int64_t p = 0; p < planes; ++p) {
            offset[p] = count;
            for (std::int64_t c = 0; c < channels; ++c) {
                channel[count] = static_cast<std::int32_t>(c);
                count += needed[static_cast<std::size_t>(p * channels + c)];
            }
        }
        offset[planes] = count;
    }

    // Only the places inside the group's window are written: nothing reads the others.
    void list_units(const Group& group) {
        const auto start = static_cast<std::size_t>(request_.start);
        const std::int64_t channels = network_.shapes[start].c;
        const std::int64_t* position = request_.positions + group.first;
        std::int32_t* offset = own_[start].data();
        std::int32_t* channel = offset + positions(start) + 1;
        std::int64_t lane = 0;
        for (std::int64_t p = position[0] / channels; p <= position[group.count - 1] / channels; ++p) {
            offset[p] = static_cast<std::int32_t>(lane);
            for (; lane < group.count && position[lane] / channels == p; ++lane) {
                channel[lane] = static_cast<std::int32_t>(position[lane] % channels);
            }
            offset[p + 1] = static_cast<std::int32_t>(lane);
        }
    }

    // Listed entries inside the windows have coefficients, node after node, row after row of the plane.
    void place_coefficients(const Group& group) {
        std::int64_t total = 0;
        for (std::size_t node = 0; node < network_.shapes.size(); ++node) {
            if (!route_.reached[node]) continue;
            const Window& window = (*group.windows)[node];
            for (std::int64_t h = window.h0; h < window.h1; ++h) {
                const std::int32_t* offset = entries_[node].offset + h * network_.shapes[node].w;
                shifts_[node][h - window.h0] = total - offset[window.w0];
                total += offset[window.w1] - offset[window.w0];
            }
        }
        const std::int64_t bytes = std::max<std::int64_t>(total, 1) * group.bundles * bundle_bytes;
        memory_.reserve(bytes);
    }

    void fill_rows(const Group& group) {
        const auto start = static_cast<std::size_t>(request_.start);
        const std::int64_t entries = network_.sizes[start], lanes = group.bundles * lanes_of_bundle<T>;
        T* const first = static_cast<T*>(memory_.bytes.get()) + shifts_[start][0] * lanes;
        if (group.count * inputs_ < lanes) std::fill_n(first, entries * lanes, T(0));
        for (std::int64_t i = 0; i < inputs_; ++i) {
            T* const buffer = first + i * group.count;
            const T* rows = request_.coefficients;
            if (rows == nullptr) {  // unit rows, where inputs are packed
                for (std::int64_t entry = 0; entry < entries; ++entry) std::fill_n(buffer + entry * lanes, group.count, T(0));
                for (std::int64_t row = 0; row < group.count; ++row) buffer[request_.positions[row] * lanes + row] = request_.sign;
                continue;
            }
            rows += ((request_.coefficient_batch == 1 ? 0 : input_ + i) * request_.rows + group.first) * entries;
            for (std::int64_t entry = 0; entry < entries; ++entry) {
                for (std::int64_t row = 0; row < group.count; ++row) buffer[entry * lanes + row] = rows[row * entries + entry];
            }
        }
    }

    const BackwardRequest<T>& request_;
    const bool units_;
    const Network<T>& network_;
    const Route<T>& route_;
    std::vector<Entries> entries_;
    std::vector<std::vector<std::int32_t>> own_;
    std::vector<LinesOfInput<T>> lines_;
    std::vector<std::uint8_t> needed_;
    std::vector<AxisBlock> axis_blocks_;
    std::vector<std::int64_t> shift_numbers_;
    std::vector<std::int64_t*> shifts_;
    Workspaces::Memory memory_;
    std::int64_t input_ = -1, inputs_ = 1;
};

}  // namespace verifix
