// Bindings of interval_image, the same for CPU and CUDA but for how it is run.
#pragma once

#include <pybind11/pybind11.h>

#include "data_type.h"
#include "noise.h"
#include "verifix/interval_image.h"

namespace verifix {

// Run has static templates run(job, extra arguments...) for jobs of float and of double.
template <class Run, class... Extra, class... Names>
void bind_interval_image(pybind11::module_& m, const Names&... names) {
    namespace py = pybind11;
    const auto image = [](std::uintptr_t midpoint, std::uintptr_t radius, std::uintptr_t image_midpoint,
                          std::uintptr_t image_radius, std::uintptr_t pieces, std::uintptr_t lower, std::uintptr_t upper,
                          double left, double right, std::int64_t count, const std::string& dtype, Extra... extra) {
        visit(dtype, [&](auto zero) {
            using T = decltype(zero);
            const IntervalImage<T> job{memory<const T>(midpoint), memory<const T>(radius), memory<T>(image_midpoint),
                                       memory<T>(image_radius), memory<std::uint8_t>(pieces), memory<T>(lower),
                                       memory<T>(upper), static_cast<T>(left), static_cast<T>(right), count};
            Run::image(job, extra...);
        });
    };
    const auto gradient = [](std::uintptr_t pieces, std::uintptr_t image_midpoint, std::uintptr_t image_radius,
                             std::uintptr_t lower, std::uintptr_t upper, std::uintptr_t midpoint, std::uintptr_t radius,
                             double left, double right, std::int64_t count, const std::string& dtype, Extra... extra) {
        visit(dtype, [&](auto zero) {
            using T = decltype(zero);
            const IntervalImageGradient<T> job{memory<const std::uint8_t>(pieces), memory<const T>(image_midpoint),
                                               memory<const T>(image_radius), memory<const T>(lower),
                                               memory<const T>(upper), memory<T>(midpoint), memory<T>(radius),
                                               static_cast<T>(left), static_cast<T>(right), count};
            Run::gradient(job, extra...);
        });
    };
    m.def("interval_image", image, py::kw_only(), py::arg("midpoint"), py::arg("radius"), py::arg("image_midpoint"),
          py::arg("image_radius"), py::arg("pieces"), py::arg("lower"), py::arg("upper"), py::arg("left"),
          py::arg("right"), py::arg("count"), py::arg("dtype"), names..., py::call_guard<py::gil_scoped_release>());
    m.def("interval_image_gradient", gradient, py::kw_only(), py::arg("pieces"), py::arg("image_midpoint"),
          py::arg("image_radius"), py::arg("lower"), py::arg("upper"), py::arg("midpoint"), py::arg("radius"),
          py::arg("left"), py::arg("right"), py::arg("count"), py::arg("dtype"), names...,
          py::call_guard<py::gil_scoped_release>());
}

}  // namespace verifix
