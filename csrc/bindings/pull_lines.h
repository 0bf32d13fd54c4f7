// Bindings of pull_lines, the same for CPU and CUDA but for how it is run.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>

#include "data_type.h"
#include "noise.h"
#include "verifix/pull_lines.h"

namespace verifix {

// Run has static templates rows(job, extra arguments...) and gradient(job, extra arguments...) for jobs of float and of double.
template <class Run, class... Extra, class... Names>
void bind_pull_lines(pybind11::module_& m, const Names&... names) {
    namespace py = pybind11;
    using Address = std::uintptr_t;
    using Five = std::array<Address, 5>;
    const auto rows = [](std::int64_t n, std::int64_t r, std::int64_t m, Address rows, const Five& lines, Address pulled,
                         Address offset, const std::string& dtype, Extra... extra) {
        visit(dtype, [&](auto zero) {
            using T = decltype(zero);
            const auto line = [&](std::size_t i) { return memory<const T>(lines[i]); };
            const PullLines<T> job{n,
                                   r,
                                   m,
                                   memory<const T>(rows),
                                   {line(0), line(1), line(2), line(3), line(4)},
                                   memory<T>(pulled),
                                   memory<T>(offset)};
            Run::rows(job, extra...);
        });
    };
    const auto gradient = [](std::int64_t n, std::int64_t r, std::int64_t m, Address rows, const Five& lines, Address of_pulled,
                             Address of_offset, Address of_rows, const Five& of_lines, const std::string& dtype, Extra... extra) {
        visit(dtype, [&](auto zero) {
            using T = decltype(zero);
            const auto line = [&](std::size_t i) { return memory<const T>(lines[i]); };
            const auto of_line = [&](std::size_t i) { return memory<T>(of_lines[i]); };
            const PullLinesGradient<T> job{n,
                                           r,
                                           m,
                                           memory<const T>(rows),
                                           {line(0), line(1), line(2), line(3), line(4)},
                                           memory<const T>(of_pulled),
                                           memory<const T>(of_offset),
                                           memory<T>(of_rows),
                                           of_line(0),
                                           of_line(1),
                                           of_line(2),
                                           of_line(3),
                                           of_line(4)};
            Run::gradient(job, extra...);
        });
    };
    m.def("pull_lines", rows, py::kw_only(), py::arg("n"), py::arg("r"), py::arg("m"), py::arg("rows"), py::arg("lines"),
          py::arg("pulled"), py::arg("offset"), py::arg("dtype"), names..., py::call_guard<py::gil_scoped_release>());
    m.def("pull_lines_gradient", gradient, py::kw_only(), py::arg("n"), py::arg("r"), py::arg("m"), py::arg("rows"),
          py::arg("lines"), py::arg("of_pulled"), py::arg("of_offset"), py::arg("of_rows"), py::arg("of_lines"),
          py::arg("dtype"), names..., py::call_guard<py::gil_scoped_release>());
}

}  // namespace verifix
