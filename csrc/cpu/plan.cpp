#include "plan.h"

#include <algorithm>
#include <stdexcept>

namespace verifix {
namespace {

[[noreturn]] void refuse(const std::string& what) { throw std::invalid_argument("plan: " + what); }

std::string text(PlanShape shape) {
    return "(" + std::to_string(shape.c) + ", " + std::to_string(shape.h) + ", " + std::to_string(shape.w) + ")";
}

void check_shape(PlanShape shape) {
    std::int64_t plane = 0, entries = 0;
    if (shape.c < 1 || shape.h < 1 || shape.w < 1 || __builtin_mul_overflow(shape.h, shape.w, &plane) ||
        __builtin_mul_overflow(plane, shape.c, &entries) || entries > INT32_MAX) {
        refuse("shape " + text(shape) + ": sizes must be >= 1, and entries fewer than 2^31");
    }
}

bool empty(const Window& window) { return window.h0 >= window.h1 || window.w0 >= window.w1; }

Window hull(const Window& a, const Window& b) {
    if (empty(a)) return b;
    if (empty(b)) return a;
    return {std::min(a.h0, b.h0), std::max(a.h1, b.h1), std::min(a.w0, b.w0), std::max(a.w1, b.w1)};
}

}  // namespace

template <class T>
void Plan<T>::Parts::add_node(PlanShape shape) {
    this->shapes.push_back(shape);
    this->channels.push_back(shape.c);
    this->widths.push_back(shape.w);
    this->sizes.push_back(shape.entries());
    const std::int64_t positions = shape.h * shape.w;
    listed.emplace_back(new std::int32_t[static_cast<std::size_t>(positions + 1 + shape.entries())]);
    std::int32_t* offset = listed.back().get();
    std::int32_t* channel = offset + positions + 1;
    for (std::int64_t p = 0; p <= positions; ++p) offset[p] = static_cast<std::int32_t>(p * shape.c);
    for (std::int64_t e = 0; e < shape.entries(); ++e) channel[e] = static_cast<std::int32_t>(e % shape.c);
    this->all_entries.push_back({offset, channel});
}

// Copies what entries of the output read, turns it round, and finds the windows of the source that its positions read.
template <class T>
Step<T> Plan<T>::Parts::places(PlanShape input, PlanShape output, std::int64_t count, const std::int64_t* from,
                               const std::int64_t* index) {
    check_shape(output);
    const std::int64_t entries = output.entries(), inputs = input.entries();
    if (count < 0 || from == nullptr || (count > 0 && index == nullptr)) refuse("places without offsets or entries");
    if (from[0] != 0 || from[entries] != count) refuse("offsets of places that do not go from 0 to " + std::to_string(count));
    for (std::int64_t i = 0; i < entries; ++i) {
        if (from[i] > from[i + 1]) refuse("offsets of places that decrease at " + std::to_string(i));
    }
    if (count > INT32_MAX) refuse(std::to_string(count) + " places: must be fewer than 2^31");
    for (std::int64_t k = 0; k < count; ++k) {
        if (index[k] < 0 || index[k] >= inputs) {
            refuse("place of entry " + std::to_string(index[k]) + " of " + std::to_string(inputs));
        }
    }
    offsets.emplace_back(new std::int64_t[static_cast<std::size_t>(entries) + 1]);
    std::int64_t* const first_place = offsets.back().get();
    std::copy_n(from, entries + 1, first_place);
    offsets.emplace_back(new std::int64_t[static_cast<std::size_t>(inputs) + 1]());
    std::int64_t* const first_use = offsets.back().get();
    indices.emplace_back(new std::int32_t[static_cast<std::size_t>(count)]);
    std::int32_t* const read = indices.back().get();
    uses.emplace_back(new Use[static_cast<std::size_t>(count)]);
    Use* const use = uses.back().get();
    reaches.emplace_back(new Window[static_cast<std::size_t>(output.h * output.w)]());
    Window* const reach = reaches.back().get();

    for (std::int64_t k = 0; k < count; ++k) ++first_use[index[k] + 1];
    for (std::int64_t e = 0; e < inputs; ++e) first_use[e + 1] += first_use[e];
    std::vector<std::int64_t> next(first_use, first_use + inputs);
    for (std::int64_t o = 0; o < entries; ++o) {
        const std::int64_t position = o / output.c;
        for (std::int64_t k = from[o]; k < from[o + 1]; ++k) {
            const auto h = static_cast<std::int32_t>(index[k] / (input.w * input.c));
            const auto w = static_cast<std::int32_t>(index[k] / input.c % input.w);
            reach[position] = hull(reach[position], {h, h + 1, w, w + 1});
            read[k] = static_cast<std::int32_t>(index[k]);
            use[next[static_cast<std::size_t>(index[k])]++] = {
                static_cast<std::int32_t>(k), static_cast<std::int32_t>(position),
                static_cast<std::int32_t>(position / output.w), static_cast<std::int32_t>(o % output.c)};
        }
    }
    Step<T> step{};
    step.offsets = first_place, step.index = read;
    step.first_use = first_use, step.uses = use;
    step.reach = reach;
    return step;
}

template <class T>
int Plan<T>::Parts::append(Step<T> step, const std::vector<int>& from, PlanShape shape) {
    check_shape(shape);
    sources.emplace_back(new std::int32_t[from.size()]);
    std::copy(from.begin(), from.end(), sources.back().get());
    step.sources = sources.back().get();
    step.source_count = static_cast<std::int32_t>(from.size());
    step.c = shape.c, step.h = shape.h, step.w = shape.w;
    this->steps.push_back(step);
    add_node(shape);
    return static_cast<int>(this->steps.size());
}

template <class T>
Plan<T>::Plan(PlanShape input) : parts_(new Parts) {
    check_shape(input);
    parts_->add_node(input);
}

template <class T>
Plan<T>::~Plan() = default;
template <class T>
Plan<T>::Plan(Plan&&) noexcept = default;

template <class T>
int Plan<T>::nodes() const {
    return static_cast<int>(parts_->shapes.size());
}

template <class T>
PlanShape Plan<T>::shape(int node) const {
    if (node < 0 || node >= nodes()) refuse("node " + std::to_string(node) + " of " + std::to_string(nodes()));
    return parts_->shapes[static_cast<std::size_t>(node)];
}

template <class T>
int Plan<T>::dense(int source, std::int64_t outputs, const T* weight, const T* bias) {
    const PlanShape input = shape(source);
    check_shape({outputs, 1, 1});
    if (weight == nullptr) refuse("dense layer without weights");
    Step<T> step{};
    step.kind = StepKind::dense;
    step.bias = parts_->keep(bias, outputs);
    // a convolution with one window, which is all of the plane
    step.kernel_h = input.h, step.kernel_w = input.w;
    step.stride_h = step.stride_w = step.dilation_h = step.dilation_w = step.groups = 1;
    step.c = outputs, step.h = step.w = 1;
    parts_->keep_weights(step, weight, input);
    return parts_->append(step, {source}, {outputs, 1, 1});
}

template <class T>
int Plan<T>::convolution(int source, PlanShape output, ConvolutionGeometry g, const T* weight, const T* bias) {
    const PlanShape input = shape(source);
    check_shape(output);
    for (const std::int64_t number : {g.kernel_h, g.kernel_w, g.stride_h, g.stride_w, g.padding_h, g.padding_w, g.dilation_h,
                                      g.dilation_w, g.groups}) {
        if (number > INT32_MAX) refuse("convolution geometry " + std::to_string(number) + ": must be below 2^31");
    }
    if (g.kernel_h < 1 || g.kernel_w < 1 || g.stride_h < 1 || g.stride_w < 1 || g.dilation_h < 1 || g.dilation_w < 1 ||
        g.padding_h < 0 || g.padding_w < 0 || g.groups < 1 || input.c % g.groups != 0 || output.c % g.groups != 0) {
        refuse("convolution geometry does not fit " + text(input) + " to " + text(output));
    }
    const auto fits = [](std::int64_t in, std::int64_t out, std::int64_t k, std::int64_t s, std::int64_t p, std::int64_t d) {
        return in + 2 * p - d * (k - 1) - 1 >= 0 && (in + 2 * p - d * (k - 1) - 1) / s + 1 == out;
    };
    if (!fits(input.h, output.h, g.kernel_h, g.stride_h, g.padding_h, g.dilation_h) ||
        !fits(input.w, output.w, g.kernel_w, g.stride_w, g.padding_w, g.dilation_w) || weight == nullptr) {
        refuse("convolution from " + text(input) + " does not give " + text(output));
    }
    std::int64_t window = 0, numbers = 0;
    if (__builtin_mul_overflow(g.kernel_h * g.kernel_w, input.c / g.groups, &window) ||
        __builtin_mul_overflow(output.c, window, &numbers)) {
        refuse("convolution with more than 2^63 - 1 weights");
    }
    Step<T> step{};
    step.kind = StepKind::convolution;
    step.bias = parts_->keep(bias, output.c);
    step.kernel_h = g.kernel_h, step.kernel_w = g.kernel_w;
    step.stride_h = g.stride_h, step.stride_w = g.stride_w;
    step.padding_h = g.padding_h, step.padding_w = g.padding_w;
    step.dilation_h = g.dilation_h, step.dilation_w = g.dilation_w;
    step.groups = g.groups;
    step.c = output.c, step.h = output.h, step.w = output.w;
    parts_->keep_weights(step, weight, input);
    return parts_->append(step, {source}, output);
}

template <class T>
int Plan<T>::scaling(int source, const T* scale, const T* shift, const T* shift_size) {
    const PlanShape input = shape(source);
    Step<T> step{};
    step.kind = StepKind::scaling;
    step.scale = parts_->keep(scale, input.entries());
    step.bias = parts_->keep(shift, input.entries());
    step.bias_size = parts_->keep(shift_size, input.entries());
    return parts_->append(step, {source}, input);
}

template <class T>
int Plan<T>::sum(int first, int second, T factor) {
    const PlanShape a = shape(first), b = shape(second);
    if (a.c != b.c || a.h != b.h || a.w != b.w) refuse("sum of " + text(a) + " and " + text(b));
    Step<T> step{};
    step.kind = StepKind::sum;
    step.factor = factor;
    return parts_->append(step, {first, second}, a);
}

template <class T>
int Plan<T>::concatenation(const std::vector<int>& sources) {
    if (sources.empty()) refuse("concatenation of nothing");
    PlanShape total = shape(sources[0]);
    for (std::size_t i = 1; i < sources.size(); ++i) {
        const PlanShape part = shape(sources[i]);
        if (part.h != total.h || part.w != total.w) refuse("concatenation of " + text(total) + " and " + text(part));
        total.c += part.c;
    }
    Step<T> step{};
    step.kind = StepKind::concatenation;
    return parts_->append(step, sources, total);
}

template <class T>
int Plan<T>::sparse(int source, PlanShape output, std::int64_t count, const std::int64_t* offsets, const std::int64_t* index,
                    const T* weight, const T* constant) {
    if (count > 0 && weight == nullptr) refuse("sparse step without weights");
    Step<T> step = parts_->places(shape(source), output, count, offsets, index);
    step.kind = StepKind::sparse;
    step.weight = parts_->keep(count > 0 ? weight : nullptr, count);
    step.bias = parts_->keep(constant, output.entries());
    return parts_->append(step, {source}, output);
}

template <class T>
int Plan<T>::planes(int source, PlanShape output, std::int64_t count, const std::int64_t* offsets, const std::int64_t* index) {
    if (count == 0) refuse("planes over no entries");
    Step<T> step = parts_->places(shape(source), output, count, offsets, index);
    step.kind = StepKind::planes;
    return parts_->append(step, {source}, output);
}

template <class T>
int Plan<T>::lines(int source) {
    Step<T> step{};
    step.kind = StepKind::lines;
    return parts_->append(step, {source}, shape(source));
}

template <class T>
void propagate_windows(const std::vector<Step<T>>& steps, const std::vector<PlanShape>& shapes, int start,
                       std::vector<Window>& windows, std::vector<char>& reached) {
    for (int node = start; node > 0; --node) {
        const Window from = windows[static_cast<std::size_t>(node)];
        if (!reached[static_cast<std::size_t>(node)] || empty(from)) continue;
        const Step<T>& step = steps[static_cast<std::size_t>(node - 1)];
        for (std::int32_t s = 0; s < step.source_count; ++s) {
            const auto source = static_cast<std::size_t>(step.sources[s]);
            const PlanShape plane = shapes[source];
            Window to = from;
            if (step.kind == StepKind::sparse || step.kind == StepKind::planes) {
                to = {};
                for (std::int64_t h = from.h0; h < from.h1; ++h) {
                    for (std::int64_t w = from.w0; w < from.w1; ++w) to = hull(to, step.reach[h * step.w + w]);
                }
            } else if (step.kind == StepKind::convolution || step.kind == StepKind::dense) {
                const auto reach = [](std::int64_t first, std::int64_t last, std::int64_t size, std::int64_t k, std::int64_t stride,
                                      std::int64_t padding, std::int64_t dilation, std::int32_t& begin, std::int32_t& end) {
                    const std::int64_t low = first * stride - padding;
                    const std::int64_t high = (last - 1) * stride - padding + (k - 1) * dilation + 1;
                    begin = static_cast<std::int32_t>(std::clamp<std::int64_t>(low, 0, size));
                    end = static_cast<std::int32_t>(std::clamp<std::int64_t>(high, begin, size));
                };
                reach(from.h0, from.h1, plane.h, step.kernel_h, step.stride_h, step.padding_h, step.dilation_h, to.h0, to.h1);
                reach(from.w0, from.w1, plane.w, step.kernel_w, step.stride_w, step.padding_w, step.dilation_w, to.w0, to.w1);
            }
            windows[source] = reached[source] ? hull(windows[source], to) : to;
            reached[source] = 1;
        }
    }
}

template class Plan<float>;
template class Plan<double>;
template void propagate_windows(const std::vector<Step<float>>&, const std::vector<PlanShape>&, int, std::vector<Window>&,
                                std::vector<char>&);
template void propagate_windows(const std::vector<Step<double>>&, const std::vector<PlanShape>&, int, std::vector<Window>&,
                                std::vector<char>&);

}  // namespace verifix
