// The noise and counting of a module, CPU or CUDA: the same arguments, and then those of where it runs.
#pragma once

#include <pybind11/pybind11.h>

#include "data_type.h"
#include "verifix/noise.h"
#include "verifix/votes.h"

namespace verifix {

namespace py = pybind11;

inline NoiseNames noise_names(std::uintptr_t inputs, std::int64_t n, std::int64_t start, std::int64_t count,
                              std::int64_t d, std::uint64_t seed, std::uint32_t purpose) {
    if (purpose >= 1u << noise_stream_shift) {
        throw std::invalid_argument("purpose = " + std::to_string(purpose) + ": must be below 2^30");
    }
    const PhiloxKey key = {static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)};
    return {reinterpret_cast<const std::int64_t*>(inputs), n, start, count, d, key, purpose};
}

template <class T>
T* memory(std::uintptr_t address) {
    return reinterpret_cast<T*>(address);
}

// Runner has a static function for each of them, which takes the job and then `Where`, the last arguments of a call.
template <class Runner, class... Where, class... Names>
void bind_noise(py::module_& m, const Names&... where) {
    const auto released = py::call_guard<py::gil_scoped_release>();
    py::class_<NoiseNames>(m, "NoiseNames", py::module_local())
        .def(py::init(&noise_names), py::kw_only(), py::arg("inputs"), py::arg("n"), py::arg("start"), py::arg("count"),
             py::arg("d"), py::arg("seed"), py::arg("purpose"));
    m.def(
        "add_noise",
        [](const NoiseNames& names, const std::string& law, std::uintptr_t x, std::uintptr_t scales, float scale,
           std::uintptr_t out, const std::string& dtype, Where... place) {
            visit(dtype, [&](auto zero) {
                using T = decltype(zero);
                Runner::add_noise(AddNoise<T>{names, noise_law(law), memory<const T>(x), memory<const float>(scales),
                                              scale, memory<T>(out)},
                                  place...);
            });
        },
        py::kw_only(), py::arg("names"), py::arg("law"), py::arg("x"), py::arg("scales"), py::arg("scale"),
        py::arg("out"), py::arg("dtype"), where..., released);
    m.def(
        "add_lattice_noise",
        [](const NoiseNames& names, std::uintptr_t thresholds, std::int64_t steps, std::uintptr_t guide,
           std::int64_t guide_rows, int shift, std::uintptr_t positions, std::int32_t levels, std::uintptr_t out,
           const std::string& dtype, Where... place) {
            const LatticeLaw law = {memory<const std::int64_t>(thresholds), steps, memory<const std::int32_t>(guide),
                                    shift};
            check_lattice_law(law, guide_rows);
            visit(dtype, [&](auto zero) {
                using T = decltype(zero);
                Runner::add_lattice_noise(AddLatticeNoise<T>{names, law, memory<const std::int32_t>(positions),
                                                             static_cast<T>(levels), memory<T>(out)},
                                          place...);
            });
        },
        py::kw_only(), py::arg("names"), py::arg("thresholds"), py::arg("steps"), py::arg("guide"),
        py::arg("guide_rows"), py::arg("shift"), py::arg("positions"), py::arg("levels"), py::arg("out"),
        py::arg("dtype"), where..., released);
    m.def(
        "keep_or_replace",
        [](const NoiseNames& names, std::uint64_t threshold, std::uintptr_t positions, std::uint32_t levels,
           std::uintptr_t out, const std::string& dtype, Where... place) {
            visit(dtype, [&](auto zero) {
                using T = decltype(zero);
                Runner::keep_or_replace(KeepOrReplace<T>{names, memory<const std::int32_t>(positions), threshold,
                                                         levels, memory<T>(out)},
                                        place...);
            });
        },
        py::kw_only(), py::arg("names"), py::arg("threshold"), py::arg("positions"), py::arg("levels"), py::arg("out"),
        py::arg("dtype"), where..., released);
    m.def(
        "random_words",
        [](const NoiseNames& names, std::uintptr_t out, Where... place) {
            Runner::random_words(RandomWords{names, memory<std::int64_t>(out)}, place...);
        },
        py::kw_only(), py::arg("names"), py::arg("out"), where..., released);
}

}  // namespace verifix
