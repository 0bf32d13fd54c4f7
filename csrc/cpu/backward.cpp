#include "verifix/backward.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <new>
#include <stdexcept>

#include "plan.h"
#include "verifix/parallel.h"

namespace verifix {
namespace {

// Rows that share a tile: `count` of them from `first`, with the windows of all nodes that they reach.
struct Group {
    std::int64_t first, count;
    std::vector<Window> windows;
    std::vector<std::int64_t> offsets;  // of every node's buffer in the arena, in vectors; -1 where rows do not get to
    std::int64_t size = 0;              // of the arena, in vectors
    std::int64_t first_channel = -1;    // where rows are unit vectors of neighbouring channels that fill a tile
};

std::int64_t area(const Window& window) {
    return static_cast<std::int64_t>(window.h1 - window.h0) * (window.w1 - window.w0);
}

template <class T>
void run_tile(const Tile<T>& tile, Isa isa) noexcept {
    switch (isa) {
#if defined(__x86_64__)
        case Isa::avx512:
            return avx512::backward_tile(tile);
        case Isa::avx2:
            return avx2::backward_tile(tile);
#endif
        default:
            return base::backward_tile(tile);
    }
}

Group make_group(const std::vector<PlanShape>& shapes, int start, Window window, std::int64_t first, std::int64_t count) {
    Group group{first, count, std::vector<Window>(shapes.size()), std::vector<std::int64_t>(shapes.size(), -1), 0, -1};
    group.windows[static_cast<std::size_t>(start)] = window;
    return group;
}

template <class T>
void place_buffers(Group& group, const std::vector<Step<T>>& steps, const std::vector<PlanShape>& shapes, int start) {
    std::vector<char> reached(shapes.size(), 0);
    reached[static_cast<std::size_t>(start)] = 1;
    propagate_windows(steps, shapes, start, group.windows, reached);
    for (std::size_t node = 0; node < shapes.size(); ++node) {
        if (!reached[node]) continue;
        group.offsets[node] = group.size;
        group.size += area(group.windows[node]) * shapes[node].c;
    }
}

bool neighbours(const std::int64_t* positions, std::int64_t count, std::int64_t channels) {
    for (std::int64_t i = 1; i < count; ++i) {
        if (positions[i] != positions[0] + i) return false;
    }
    return positions[0] / channels == positions[count - 1] / channels;
}

// Neighbouring unit vectors share most of what they reach, so they share a tile as long as they are in one row of the plane.
template <class T>
std::vector<Group> make_groups(const BackwardRequest<T>& request, const std::vector<Step<T>>& steps,
                               const std::vector<PlanShape>& shapes, std::int64_t lanes) {
    const PlanShape shape = shapes[static_cast<std::size_t>(request.start)];
    std::vector<Group> groups;
    std::int64_t row = 0;
    while (row < request.rows) {
        std::int64_t count = std::min(lanes, request.rows - row);
        Window window{0, static_cast<std::int32_t>(shape.h), 0, static_cast<std::int32_t>(shape.w)};
        if (request.coefficients == nullptr) {
            const std::int64_t h = request.positions[row] / (shape.w * shape.c), w = request.positions[row] / shape.c % shape.w;
            window = {static_cast<std::int32_t>(h), static_cast<std::int32_t>(h + 1), static_cast<std::int32_t>(w),
                      static_cast<std::int32_t>(w + 1)};
            for (std::int64_t i = 1; i < count; ++i) {
                const std::int64_t position = request.positions[row + i];
                if (position / (shape.w * shape.c) != h) {
                    count = i;
                    break;
                }
                const auto column = static_cast<std::int32_t>(position / shape.c % shape.w);
                window.w0 = std::min(window.w0, column);
                window.w1 = std::max(window.w1, column + 1);
            }
        }
        groups.push_back(make_group(shapes, request.start, window, row, count));
        if (request.coefficients == nullptr && count == lanes && neighbours(request.positions + row, count, shape.c)) {
            groups.back().first_channel = request.positions[row] % shape.c;
        }
        place_buffers(groups.back(), steps, shapes, request.start);
        row += count;
    }
    return groups;
}

template <class T>
void fill_start(const BackwardRequest<T>& request, const Group& group, PlanShape shape, std::int64_t input, T* buffer,
                std::uint8_t* live, std::int64_t lanes) {
    const std::int64_t entries = shape.entries();
    if (request.coefficients != nullptr) {
        std::memset(live, 1, static_cast<std::size_t>(entries));
        const T* rows = request.coefficients + (request.coefficient_batch == 1 ? 0 : input) * request.rows * entries;
        for (std::int64_t lane = 0; lane < group.count; ++lane) {
            const T* row = rows + (group.first + lane) * entries;
            for (std::int64_t entry = 0; entry < entries; ++entry) buffer[entry * lanes + lane] = row[entry];
        }
        return;
    }
    const Window& window = group.windows[static_cast<std::size_t>(request.start)];
    for (std::int64_t lane = 0; lane < group.count; ++lane) {
        const std::int64_t position = request.positions[group.first + lane];
        const std::int64_t w = position / shape.c % shape.w;  // the window is one row high
        const std::int64_t entry = (w - window.w0) * shape.c + position % shape.c;
        buffer[entry * lanes + lane] = request.sign;
        live[entry] = 1;
    }
}

template <class T>
void check(const BackwardRequest<T>& request, const std::vector<PlanShape>& shapes, const std::vector<Step<T>>& steps, int threads) {
    const auto refuse = [](const std::string& what) { throw std::invalid_argument("backward pass: " + what); };
    if (request.start < 0 || request.start >= static_cast<std::int32_t>(shapes.size())) {
        refuse("start = " + std::to_string(request.start) + ": no such node");
    }
    if (threads < 1) refuse("threads = " + std::to_string(threads) + ": must be >= 1");
    if (request.inputs < 0 || request.rows < 0) refuse("negative number of inputs or rows");
    if (request.coefficient_batch != 1 && request.coefficient_batch != request.inputs) refuse("coefficients for some inputs only");
    if (request.hull < 0 || request.hull > 2) refuse("hull = " + std::to_string(request.hull) + ": must be 0, 1 or 2");
    std::int64_t results = 0;
    if (__builtin_mul_overflow(request.inputs, request.rows, &results)) refuse("more than 2^63 - 1 bounds");
    if (results == 0) return;
    const std::int64_t entries = shapes[static_cast<std::size_t>(request.start)].entries();
    if (request.coefficients == nullptr) {
        if (request.positions == nullptr) refuse("neither coefficients nor positions");
        for (std::int64_t i = 0; i < request.rows; ++i) {
            if (request.positions[i] < 0 || request.positions[i] >= entries) refuse("position out of range");
        }
    }
    if (request.center == nullptr || request.radius == nullptr || request.low == nullptr || (request.both && request.high == nullptr)) {
        refuse("a null pointer");
    }
    if (request.lines.size() != 4 * steps.size()) refuse("lines must be four pointers for each step");
    // Only what the rows depend on needs lines: nodes of other branches may come before it.
    std::vector<char> reached(shapes.size(), 0);
    reached[static_cast<std::size_t>(request.start)] = 1;
    for (int node = request.start; node > 0; --node) {
        if (!reached[static_cast<std::size_t>(node)]) continue;
        const auto step = static_cast<std::size_t>(node - 1);
        for (std::int32_t s = 0; s < steps[step].source_count; ++s) reached[static_cast<std::size_t>(steps[step].sources[s])] = 1;
        if (steps[step].kind == StepKind::lines && (request.lines[4 * step] == nullptr || request.lines[4 * step + 2] == nullptr)) {
            refuse("step " + std::to_string(node) + " has no slopes");
        }
    }
}

}  // namespace

template <class T>
void Plan<T>::run(const BackwardRequest<T>& request, int threads, Isa isa) const {
    const std::vector<PlanShape>& shapes = parts_->shapes;
    const std::vector<Step<T>>& steps = parts_->steps;
    check(request, shapes, steps, threads);
    if (!isa_supported(isa)) throw std::invalid_argument(std::string("backward pass: this processor lacks ") + isa_name(isa));
    if (request.inputs * request.rows == 0) return;

    constexpr std::int64_t lanes = backward_vector_bytes / sizeof(T);
    const std::vector<Group> groups = make_groups(request, steps, shapes, lanes);
    std::int64_t largest = 0;
    for (const Group& group : groups) largest = std::max(largest, group.size);
    const PlanShape start = shapes[static_cast<std::size_t>(request.start)];
    const std::int64_t input_entries = shapes[0].entries(), group_count = static_cast<std::int64_t>(groups.size());
    std::atomic<bool> out_of_memory{false};

    parallel_ranges(request.inputs * group_count, threads, [&](std::int64_t first, std::int64_t last) {
        void* memory = std::aligned_alloc(backward_vector_bytes, static_cast<std::size_t>(largest * backward_vector_bytes));
        std::unique_ptr<void, void (*)(void*)> owner(memory, std::free);
        std::unique_ptr<std::uint8_t[]> flags(new (std::nothrow) std::uint8_t[static_cast<std::size_t>(largest)]);
        std::unique_ptr<std::uint8_t*[]> live(new (std::nothrow) std::uint8_t*[shapes.size()]);
        std::unique_ptr<T*[]> buffers(new (std::nothrow) T*[shapes.size()]);
        std::unique_ptr<LinesOfInput<T>[]> lines(new (std::nothrow) LinesOfInput<T>[steps.size() + 1]);
        if (memory == nullptr || !flags || !live || !buffers || !lines) {
            out_of_memory = true;
            return;
        }
        alignas(backward_vector_bytes) T low[lanes], high[lanes];
        for (std::int64_t task = first; task < last; ++task) {
            const std::int64_t input = task / group_count;
            const Group& group = groups[static_cast<std::size_t>(task % group_count)];
            std::memset(memory, 0, static_cast<std::size_t>(group.size * backward_vector_bytes));
            std::memset(flags.get(), 0, static_cast<std::size_t>(group.size));
            for (std::size_t node = 0; node < shapes.size(); ++node) {
                const std::int64_t offset = group.offsets[node];
                live[node] = offset < 0 ? nullptr : flags.get() + offset;
                buffers[node] = offset < 0 ? nullptr : static_cast<T*>(memory) + offset * lanes;
            }
            for (std::size_t step = 0; step < steps.size(); ++step) {
                const std::int64_t skip = input * shapes[step + 1].entries();
                const T* const* pointers = request.lines.data() + 4 * step;
                const auto move = [skip](const T* pointer) { return pointer == nullptr ? nullptr : pointer + skip; };
                lines[step] = {move(pointers[0]), move(pointers[1]), move(pointers[2]), move(pointers[3])};
            }
            fill_start(request, group, start, input, buffers[request.start], live[request.start], lanes);
            const Tile<T> tile{steps.data(),
                               parts_->channels.data(),
                               parts_->widths.data(),
                               group.windows.data(),
                               buffers.get(),
                               live.get(),
                               lines.get(),
                               request.start,
                               group.first_channel,
                               request.sign,
                               request.both,
                               static_cast<Hull>(request.hull),
                               request.center + input * input_entries,
                               request.radius + input * input_entries,
                               low,
                               high};
            run_tile(tile, isa);
            const std::int64_t at = input * request.rows + group.first;
            std::memcpy(request.low + at, low, static_cast<std::size_t>(group.count) * sizeof(T));
            if (request.both) std::memcpy(request.high + at, high, static_cast<std::size_t>(group.count) * sizeof(T));
        }
    });
    if (out_of_memory) throw std::bad_alloc();
}

template void Plan<float>::run(const BackwardRequest<float>&, int, Isa) const;
template void Plan<double>::run(const BackwardRequest<double>&, int, Isa) const;

}  // namespace verifix
