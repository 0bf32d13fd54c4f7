// The weights of a plan on the CPU: copied, in the orders in which the passes read them.
#include <algorithm>

#include "plan.h"

namespace verifix {

template <class T>
const T* Plan<T>::Parts::keep(const T* values, std::int64_t count) {
    if (values == nullptr) return nullptr;
    numbers.emplace_back(new T[static_cast<std::size_t>(count)]);
    std::copy_n(values, count, numbers.back().get());
    return numbers.back().get();
}

// From [group][output][tap][input] to [tap][group][input][output].
template <class T>
const T* Plan<T>::Parts::keep_outputs_last(const T* values, std::int64_t groups, std::int64_t outputs, std::int64_t taps,
                                           std::int64_t inputs) {
    numbers.emplace_back(new T[static_cast<std::size_t>(groups * outputs * taps * inputs)]);
    T* target = numbers.back().get();
    for (std::int64_t tap = 0; tap < taps; ++tap) {
        for (std::int64_t group = 0; group < groups; ++group) {
            for (std::int64_t input = 0; input < inputs; ++input) {
                for (std::int64_t output = 0; output < outputs; ++output) {
                    *target++ = values[((group * outputs + output) * taps + tap) * inputs + input];
                }
            }
        }
    }
    return numbers.back().get();
}

// From [group][output][window entry]; see forward_tile.h.
template <class T>
void Plan<T>::Parts::keep_panels(Step<T>& step, const T* weight, std::int64_t groups, std::int64_t outputs, std::int64_t window) {
    constexpr std::int64_t lanes = panel_bytes / sizeof(T);
    const std::int64_t padded = (outputs + lanes - 1) / lanes * lanes;
    const auto make = [this](std::int64_t count) {  // at the start of a cache line
        numbers.emplace_back(new T[static_cast<std::size_t>(count + lanes)]());
        const auto rest = reinterpret_cast<std::uintptr_t>(numbers.back().get()) % panel_bytes;
        return numbers.back().get() + (rest == 0 ? 0 : (panel_bytes - rest) / sizeof(T));
    };
    T* const panels = make(groups * padded * window);
    T* const bias = make(groups * padded);
    for (std::int64_t group = 0; group < groups; ++group) {
        for (std::int64_t first = 0; first < outputs; first += lanes) {
            const std::int64_t row = group * outputs + first, count = std::min(lanes, outputs - first);
            T* to = panels + (group * padded + first) * window;
            for (std::int64_t entry = 0; entry < window; ++entry, to += lanes) {
                for (std::int64_t lane = 0; lane < count; ++lane) to[lane] = weight[(row + lane) * window + entry];
            }
            if (step.bias != nullptr) std::copy_n(step.bias + row, count, bias + group * padded + first);
        }
    }
    step.panels = panels;
    step.panel_bias = bias;
}

// From [group][output][tap][input]; a dense layer is a convolution with one window, which is all of the plane.
template <class T>
void Plan<T>::Parts::keep_weights(Step<T>& step, const T* weight, PlanShape source) {
    const bool dense = step.kind == StepKind::dense;
    const std::int64_t taps = dense ? 1 : step.kernel_h * step.kernel_w, outputs = step.c / step.groups;
    const std::int64_t inputs = dense ? source.entries() : source.c / step.groups;
    step.weight = keep_outputs_last(weight, step.groups, outputs, taps, inputs);
    if (dense || windows_of(step, source).plane > 0) keep_panels(step, weight, step.groups, outputs, taps * inputs);
}

template struct Plan<float>::Parts;
template struct Plan<double>::Parts;

}  // namespace verifix
