#include "verifix/backward.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <map>
#include <stdexcept>

#include "plan.h"
#include "verifix/parallel.h"

namespace verifix {
namespace {

template <class T>
constexpr std::int64_t lanes_of_bundle = bundle_bytes / static_cast<std::int64_t>(sizeof(T));

// Rows that share a tile, and the windows of all nodes that they reach.
struct Group {
    std::int64_t input;  // -1 for all
    std::int64_t first, count;
    std::int64_t bundles;
    const std::vector<Window>* windows;
    bool one_position;
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
            all.push_back({-1, 0, request.rows, most, windows(whole), false, -1});
        } else if (request.coefficients != nullptr) {
            for (std::int64_t row = 0; row < request.rows;) {
                const std::int64_t bundles = request.rows - row > lanes_of_bundle<T> ? most_ : 1;
                const std::int64_t count = std::min(bundles * lanes_of_bundle<T>, request.rows - row);
                all.push_back({-1, row, count, bundles, windows(whole), false, -1});
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
            if (4 * count < lanes) {
                while (row + count < end && count < lanes && positions[row + count] / shape_.c / shape_.w == h) ++count;
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
            all.push_back({input, row, count, bundles, windows(window), window.w1 == w + 1, base});
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
                           group.one_position,
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

template <class T>
void check(const BackwardRequest<T>& request, const std::vector<PlanShape>& shapes, const std::vector<Step<T>>& steps, int threads) {
    const auto refuse = [](const std::string& what) { throw std::invalid_argument("backward pass: " + what); };
    if (request.start < 0 || request.start >= static_cast<std::int32_t>(shapes.size())) {
        refuse("start = " + std::to_string(request.start) + ": no such node");
    }
    if (threads < 1) refuse("threads = " + std::to_string(threads) + ": must be >= 1");
    if (request.inputs < 0 || request.rows < 0) refuse("negative number of inputs or rows");
    if (request.coefficient_batch != 1 && request.coefficient_batch != request.inputs) refuse("coefficients for some inputs only");
    if (request.hull < 0 || request.hull > 3) refuse("hull = " + std::to_string(request.hull) + ": must be 0, 1, 2 or 3");
    std::int64_t results = 0;
    if (__builtin_mul_overflow(request.inputs, request.rows, &results)) refuse("more than 2^63 - 1 bounds");
    const bool without_set = request.hull == static_cast<int>(Hull::none);
    if (without_set && __builtin_mul_overflow(results, shapes[0].entries(), &results)) {
        refuse("more than 2^63 - 1 coefficients");
    }
    if (results == 0) return;
    const std::int64_t entries = shapes[static_cast<std::size_t>(request.start)].entries();
    if (request.coefficients == nullptr) {
        if (request.positions == nullptr) refuse("neither coefficients nor positions");
        const auto check_positions = [&](std::int64_t first, std::int64_t last) {
            for (std::int64_t i = first; i < last; ++i) {
                if (request.positions[i] < 0 || request.positions[i] >= entries) refuse("position out of range");
                if (i > first && request.positions[i] <= request.positions[i - 1]) refuse("positions must rise");
            }
        };
        if (request.row_offsets == nullptr) {
            check_positions(0, request.rows);
        } else {
            const std::int64_t* offsets = request.row_offsets;
            if (offsets[0] != 0 || offsets[request.inputs] != request.rows) refuse("row offsets must go from 0 to the number of rows");
            for (std::int64_t input = 0; input < request.inputs; ++input) {
                if (offsets[input] > offsets[input + 1]) refuse("row offsets must rise");
            }
            for (std::int64_t input = 0; input < request.inputs; ++input) check_positions(offsets[input], offsets[input + 1]);
        }
    } else if (request.row_offsets != nullptr) {
        refuse("row offsets are for unit rows");
    }
    if ((without_set ? request.forms == nullptr : request.center == nullptr || request.radius == nullptr) ||
        request.low == nullptr || (request.both && request.high == nullptr)) {
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
        const bool nonlinear = steps[step].kind == StepKind::lines || steps[step].kind == StepKind::planes;
        if (nonlinear && (request.lines[4 * step] == nullptr || request.lines[4 * step + 2] == nullptr)) {
            refuse("step " + std::to_string(node) + " has no slopes");
        }
    }
}

// How many inputs share a tile: several where one has too few rows to fill it.
template <class T>
std::int64_t packable(const BackwardRequest<T>& request, const Network<T>& network, int threads) {
    const PlanShape shape = network.shapes[static_cast<std::size_t>(request.start)];
    if (request.row_offsets != nullptr || request.hull == static_cast<int>(Hull::none)) return 1;
    if (request.coefficients == nullptr && shape.h * shape.w > 1) return 1;
    for (std::int32_t step = 0; step < request.start; ++step) {
        if (network.steps[static_cast<std::size_t>(step)].kind == StepKind::planes) return 1;
    }
    const std::int64_t fitting = most_bundles * lanes_of_bundle<T> / request.rows;
    return std::max<std::int64_t>(1, std::min({fitting, most_packed, (request.inputs + threads - 1) / threads}));
}

}  // namespace

template <class T>
void Plan<T>::run(const BackwardRequest<T>& request, std::int64_t memory, int threads, Isa isa) const {
    check(request, parts_->shapes, parts_->steps, threads);
    if (!isa_supported(isa)) throw std::invalid_argument(std::string("backward pass: this processor lacks ") + isa_name(isa));
    if (request.inputs * request.rows == 0) return;

    const std::int64_t together = packable(request, *parts_, threads);
    const bool packed = together > 1 && request.rows > 0, units = request.coefficients == nullptr && !packed;
    const Route<T> route(parts_->steps, request.start, units);
    std::unique_ptr<Groups<T>> groups(new Groups<T>(request, parts_->steps, parts_->shapes, most_bundles, packed));
    if (groups->most_bytes() * threads > memory && !packed) {
        groups.reset(new Groups<T>(request, parts_->steps, parts_->shapes, 1, false));
    }
    threads = static_cast<int>(std::clamp<std::int64_t>(memory / std::max<std::int64_t>(groups->most_bytes(), 1), 1, threads));
    const bool shared = request.row_offsets == nullptr;
    const auto count = static_cast<std::int64_t>(groups->all.size());
    const std::int64_t blocks = (request.inputs + together - 1) / together;  // of inputs
    std::atomic<bool> out_of_memory{false};

    parallel_ranges(shared ? blocks * count : count, threads, [&](std::int64_t first, std::int64_t last) {
        alignas(bundle_bytes) T low[most_bundles * lanes_of_bundle<T>], high[most_bundles * lanes_of_bundle<T>];
        try {
            Worker<T> worker(request, *parts_, route, units);
            for (std::int64_t task = first; task < last; ++task) {
                const Group& group = groups->all[static_cast<std::size_t>(shared ? task % count : task)];
                const std::int64_t input = shared ? task / count * together : group.input;
                const std::int64_t inputs = shared ? std::min(together, request.inputs - input) : 1;
                worker.take(input, inputs);
                worker.run(group, low, high, isa);
                const std::int64_t at = (shared ? input * request.rows : 0) + group.first;
                for (std::int64_t row = 0; row < inputs * group.count; ++row) {
                    const std::int64_t lane = worker.lane_of(group, row);
                    request.low[at + row] = low[lane];
                    if (request.both) request.high[at + row] = high[lane];
                }
                if (worker.without_set()) worker.write_forms(group, request.forms + at * parts_->sizes[0]);
            }
        } catch (const std::bad_alloc&) {
            out_of_memory = true;
        }
    });
    if (out_of_memory) throw std::bad_alloc();
}

template void Plan<float>::run(const BackwardRequest<float>&, std::int64_t, int, Isa) const;
template void Plan<double>::run(const BackwardRequest<double>&, std::int64_t, int, Isa) const;

}  // namespace verifix
