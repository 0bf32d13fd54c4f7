// Bindings of transport_linear, the same for CPU and CUDA but for how it is run.
#pragma once

#include <pybind11/pybind11.h>

#include "data_type.h"
#include "noise.h"
#include "verifix/transport_linear.h"

namespace verifix {

// Run has a static template run(job, extra arguments...) for job of float and of double.
template <class Run, class... Extra, class... Names>
void bind_transport_linear(pybind11::module_& m, const Names&... names) {
    namespace py = pybind11;
    const auto call = [](std::uintptr_t x, std::uintptr_t g, std::uintptr_t image, std::uintptr_t row,
                         std::uintptr_t cost, std::uintptr_t budget, std::uintptr_t upper, std::uintptr_t multiplier,
                         std::uintptr_t z, std::uintptr_t value, std::uintptr_t plan_cost, std::int64_t images,
                         std::int64_t rows, std::int64_t pairs, std::int64_t channels, std::int64_t height,
                         std::int64_t width, std::int64_t window, const std::string& dtype, Extra... extra) {
        visit(dtype, [&](auto zero) {
            using T = decltype(zero);
            const TransportLinear<T> job{images, rows, channels, height, width, window, pairs, memory<const T>(x),
                                         memory<const T>(g), memory<const std::int64_t>(image),
                                         memory<const std::int64_t>(row), memory<const double>(cost),
                                         memory<const double>(budget), memory<double>(upper),
                                         memory<double>(multiplier), memory<T>(z), memory<double>(value),
                                         memory<double>(plan_cost)};
            Run::run(job, extra...);
        });
    };
    m.def("transport_linear", call, py::kw_only(), py::arg("x"), py::arg("g"), py::arg("image"), py::arg("row"),
          py::arg("cost"), py::arg("budget"), py::arg("upper"), py::arg("multiplier"), py::arg("z"), py::arg("value"),
          py::arg("plan_cost"), py::arg("images"), py::arg("rows"), py::arg("pairs"), py::arg("channels"),
          py::arg("height"), py::arg("width"), py::arg("window"), py::arg("dtype"), names...,
          py::call_guard<py::gil_scoped_release>());
}

}  // namespace verifix
