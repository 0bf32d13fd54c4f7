#include "verifix/forward.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <new>
#include <stdexcept>

#include "plan.h"
#include "verifix/parallel.h"

namespace verifix {
namespace {

constexpr std::int64_t least_work = 1 << 15;        // products that are worth another thread
constexpr std::int64_t scratch_entries = 1 << 18;   // that a block of planes may have, unless one plane has more

[[noreturn]] void refuse(const std::string& what) { throw std::invalid_argument("forward pass: " + what); }

template <class T>
void run_windows(const ForwardWork<T>& work, std::int64_t first, std::int64_t last, T* scratch, Isa isa) noexcept {
    switch (isa) {
#if defined(__x86_64__)
        case Isa::avx512:
            return avx512::forward_windows(work, first, last, scratch);
        case Isa::avx2:
            return avx2::forward_windows(work, first, last, scratch);
#endif
        default:
            return base::forward_windows(work, first, last, scratch);
    }
}

template <class T>
void run_entries(const ForwardWork<T>& work, std::int64_t first, std::int64_t last, Isa isa) noexcept {
    switch (isa) {
#if defined(__x86_64__)
        case Isa::avx512:
            return avx512::forward_entries(work, first, last);
        case Isa::avx2:
            return avx2::forward_entries(work, first, last);
#endif
        default:
            return base::forward_entries(work, first, last);
    }
}

template <class T>
void check(const ForwardRequest<T>& request, std::size_t sources, std::int64_t entries, int threads, Isa isa) {
    if (threads < 1) refuse("threads = " + std::to_string(threads) + ": must be >= 1");
    if (!isa_supported(isa)) refuse(std::string("this processor lacks ") + isa_name(isa));
    std::int64_t results = 0;
    if (request.inputs < 0) refuse("negative number of inputs");
    if (__builtin_mul_overflow(request.inputs, entries, &results)) refuse("more than 2^63 - 1 bounds");
    const bool interval = !request.lowers.empty(), magnitude = !request.magnitudes.empty();
    if (!interval && !magnitude) refuse("neither intervals nor magnitudes");
    if (request.uppers.size() != request.lowers.size()) refuse("a lower and an upper bound of every source");
    for (const std::vector<const T*>* sides : {&request.lowers, &request.uppers, &request.magnitudes}) {
        if (!sides->empty() && sides->size() != sources) {
            refuse(std::to_string(sides->size()) + " sources for a step of " + std::to_string(sources));
        }
        if (results > 0 && std::find(sides->begin(), sides->end(), nullptr) != sides->end()) refuse("a null pointer");
    }
    const bool missing = interval && (request.lower == nullptr || request.upper == nullptr);
    if (results > 0 && (missing || (magnitude && request.magnitude == nullptr))) refuse("a null pointer");
}

int threads_for(std::int64_t inputs, std::int64_t products, int threads) {
    const double wanted = static_cast<double>(inputs) * static_cast<double>(products) / static_cast<double>(least_work);
    return wanted < threads ? std::max(1, static_cast<int>(wanted)) : threads;
}

// The inputs of a dense layer, or of a convolution with few windows, share a block, so that weights are read once for all.
void choose_block(ForwardWindows& windows, std::int64_t inputs) {
    const std::int64_t fitting = std::max<std::int64_t>(1, scratch_entries / windows.plane);
    const std::int64_t most = std::clamp<std::int64_t>(windows_together / windows.count, 1, fitting);
    const std::int64_t blocks = (inputs + most - 1) / most;
    windows.block = (inputs + blocks - 1) / blocks;
}

template <class T>
std::vector<std::int64_t> run_starts(const Step<T>& step, const ForwardWindows& windows) {
    std::vector<std::int64_t> starts{0};
    if (step.kind == StepKind::dense) return starts;
    starts.resize(static_cast<std::size_t>(windows.runs));
    const std::int64_t in_row = windows.runs / step.kernel_h;
    for (std::int64_t run = 0; run < windows.runs; ++run) {
        const std::int64_t row = run / in_row * step.dilation_h, column = run % in_row * step.dilation_w;
        starts[static_cast<std::size_t>(run)] = (row * windows.padded_w + column) * windows.c;
    }
    return starts;
}

template <class T>
std::vector<std::int64_t> window_starts(const Step<T>& step, const ForwardWindows& windows) {
    std::vector<std::int64_t> starts;
    starts.reserve(static_cast<std::size_t>(windows.block * windows.count));
    for (std::int64_t input = 0; input < windows.block; ++input) {
        for (std::int64_t h = 0; h < step.h; ++h) {
            for (std::int64_t w = 0; w < step.w; ++w) {
                const std::int64_t row = input * windows.padded_h + h * step.stride_h;
                starts.push_back((row * windows.padded_w + w * step.stride_w) * windows.c);
            }
        }
    }
    return starts;
}

template <class T>
void forward_windows(ForwardWork<T>& work, int threads, Isa isa) {
    ForwardWindows& windows = work.windows;
    choose_block(windows, work.inputs);
    const std::vector<std::int64_t> runs = run_starts(*work.step, windows), starts = window_starts(*work.step, windows);
    windows.run_at = runs.data();
    windows.window_at = starts.data();
    constexpr std::int64_t outputs = panels_together * panel_bytes / sizeof(T);
    const std::int64_t blocks = (work.inputs + windows.block - 1) / windows.block;
    const std::int64_t chunks = (windows.block * windows.count + windows_together - 1) / windows_together;
    const std::int64_t items = blocks * windows.groups * ((windows.outputs + outputs - 1) / outputs) * chunks;
    const int numbers = (work.lower == nullptr ? 0 : 2) + (work.magnitude == nullptr ? 0 : 1);
    const std::size_t bytes = static_cast<std::size_t>(windows.block * windows.plane * numbers) * sizeof(T);
    std::atomic<bool> out_of_memory{false};
    parallel_ranges(items, threads, [&](std::int64_t first, std::int64_t last) {
        void* memory = std::aligned_alloc(panel_bytes, (bytes + panel_bytes - 1) / panel_bytes * panel_bytes);
        const std::unique_ptr<void, void (*)(void*)> owner(memory, std::free);
        if (memory == nullptr) {
            out_of_memory = true;
            return;
        }
        run_windows(work, first, last, static_cast<T*>(memory), isa);
    });
    if (out_of_memory) throw std::bad_alloc();
}

}  // namespace

template <class T>
ForwardWindows windows_of(const Step<T>& step, PlanShape source) {
    ForwardWindows windows{};
    if (step.kind == StepKind::dense) {
        windows.c = windows.plane = windows.run_size = windows.inputs = source.entries();
        windows.h = windows.w = windows.padded_h = windows.padded_w = windows.count = windows.runs = windows.groups = 1;
        windows.outputs = step.c;
        return windows;
    }
    windows.c = source.c, windows.h = source.h, windows.w = source.w;
    windows.padding_h = step.padding_h, windows.padding_w = step.padding_w;
    windows.padded_h = (step.h - 1) * step.stride_h + (step.kernel_h - 1) * step.dilation_h + 1;
    windows.padded_w = (step.w - 1) * step.stride_w + (step.kernel_w - 1) * step.dilation_w + 1;
    windows.count = step.h * step.w;
    windows.groups = step.groups;
    windows.inputs = source.c / step.groups, windows.outputs = step.c / step.groups;
    const bool neighbours = step.groups == 1 && step.dilation_w == 1;  // the columns of a row of a window
    windows.runs = step.kernel_h * (neighbours ? 1 : step.kernel_w);
    windows.run_size = windows.inputs * (neighbours ? step.kernel_w : 1);
    std::int64_t plane = 0;
    if (!__builtin_mul_overflow(windows.padded_h, windows.padded_w, &plane) &&
        !__builtin_mul_overflow(plane, windows.c, &plane) && plane <= 64 * source.entries() + (1 << 20)) {
        windows.plane = plane;
    }
    return windows;
}

template <class T>
bool Plan<T>::forwards(int node) const {
    shape(node);  // that it is there
    if (node == 0) return false;
    const Step<T>& step = parts_->steps[static_cast<std::size_t>(node - 1)];
    const bool windows = step.kind == StepKind::dense || step.kind == StepKind::convolution;
    return windows ? step.panels != nullptr : step.kind != StepKind::lines && step.kind != StepKind::planes;
}

template <class T>
void Plan<T>::forward(const ForwardRequest<T>& request, int threads, Isa isa) const {
    if (!forwards(request.node)) refuse("node " + std::to_string(request.node) + " has no forward step");
    const Step<T>& step = parts_->steps[static_cast<std::size_t>(request.node - 1)];
    const std::vector<PlanShape>& shapes = parts_->shapes;
    const PlanShape source = shapes[static_cast<std::size_t>(step.sources[0])];
    const std::int64_t entries = step.c * step.h * step.w;
    check(request, static_cast<std::size_t>(step.source_count), entries, threads, isa);
    if (request.inputs == 0) return;

    std::vector<std::int64_t> channels;
    for (std::int32_t s = 0; s < step.source_count; ++s) channels.push_back(shapes[static_cast<std::size_t>(step.sources[s])].c);
    ForwardWork<T> work{};
    work.step = &step;
    work.lowers = request.lowers.data();
    work.uppers = request.uppers.data();
    work.magnitudes = request.magnitudes.data();
    work.channels = channels.data();
    work.source_entries = source.entries();
    work.inputs = request.inputs;
    work.lower = request.lowers.empty() ? nullptr : request.lower;
    work.upper = request.lowers.empty() ? nullptr : request.upper;
    work.magnitude = request.magnitudes.empty() ? nullptr : request.magnitude;
    work.quantum = request.quantum;
    if (step.kind == StepKind::dense || step.kind == StepKind::convolution) {
        work.windows = windows_of(step, source);
        const std::int64_t products = entries * work.windows.runs * work.windows.run_size;
        return forward_windows(work, threads_for(request.inputs, products, threads), isa);
    }
    const std::int64_t products = step.kind == StepKind::sparse ? entries + step.offsets[entries] : entries;
    parallel_ranges(request.inputs * step.h, threads_for(request.inputs, products, threads),
                    [&](std::int64_t first, std::int64_t last) { run_entries(work, first, last, isa); });
}

#define VERIFIX_INSTANTIATE(T)                                           \
    template ForwardWindows windows_of(const Step<T>&, PlanShape);       \
    template bool Plan<T>::forwards(int) const;                          \
    template void Plan<T>::forward(const ForwardRequest<T>&, int, Isa) const;
VERIFIX_INSTANTIATE(float)
VERIFIX_INSTANTIATE(double)
#undef VERIFIX_INSTANTIATE

}  // namespace verifix
