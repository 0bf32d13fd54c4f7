#include "verifix/backward.h"

#include <algorithm>
#include <atomic>
#include <stdexcept>

#include "backward_worker.h"
#include "verifix/parallel.h"

namespace verifix {
namespace {

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
std::int64_t packable(const BackwardRequest<T>& request, const Network<T>& network, std::int64_t memory, int threads) {
    const PlanShape shape = network.shapes[static_cast<std::size_t>(request.start)];
    if (request.row_offsets != nullptr || request.hull == static_cast<int>(Hull::none)) return 1;
    if (request.coefficients == nullptr && shape.h * shape.w > 1) return 1;
    for (std::int32_t step = 0; step < request.start; ++step) {
        if (network.steps[static_cast<std::size_t>(step)].kind == StepKind::planes) return 1;
    }
    std::int64_t entries = 0;
    for (std::int32_t node = 0; node <= request.start; ++node) entries += network.sizes[static_cast<std::size_t>(node)];
    if (entries > memory / (most_bundles * bundle_bytes)) return 1;
    const std::int64_t fitting = most_bundles * lanes_of_bundle<T> / request.rows;
    return std::max<std::int64_t>(1, std::min({fitting, most_packed, (request.inputs + threads - 1) / threads}));
}

}  // namespace

template <class T>
void Plan<T>::run(const BackwardRequest<T>& request, std::int64_t memory, int threads, Isa isa) const {
    check(request, parts_->shapes, parts_->steps, threads);
    if (!isa_supported(isa)) throw std::invalid_argument(std::string("backward pass: this processor lacks ") + isa_name(isa));
    if (request.inputs * request.rows == 0) return;

    const std::int64_t together = packable(request, *parts_, memory, threads);
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
