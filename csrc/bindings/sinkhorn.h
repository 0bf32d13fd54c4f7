// The Sinkhorn iterations of a module, CPU or CUDA: the same arguments, and then those of where it runs.
#pragma once

#include <array>

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "data_type.h"
#include "verifix/sinkhorn.h"

namespace verifix {

namespace py = pybind11;

// Runner has static functions `projected` and `conjugate`, which take the job and then `Where`, the last arguments of a
// call.
template <class Runner, class... Where, class... Names>
void bind_sinkhorn(py::module_& m, const Names&... where) {
    m.def(
        "projected_sinkhorn",
        [](std::uintptr_t x, std::uintptr_t w, std::uintptr_t cost, std::uintptr_t budget,
           const std::array<std::int64_t, 5>& shape, const std::array<double, 4>& rule, std::int64_t max_sweeps,
           std::uintptr_t z, const std::array<std::uintptr_t, 5>& numbers, const std::string& dtype, Where... place) {
            visit(dtype, [&](auto zero) {
                using T = decltype(zero);
                const Sinkhorn<T> job = {{shape[0], shape[1], shape[2], shape[3], shape[4]},
                                         {rule[0], rule[1], max_sweeps, rule[2], rule[3]},
                                         reinterpret_cast<const T*>(x),
                                         reinterpret_cast<const T*>(w),
                                         reinterpret_cast<const double*>(cost),
                                         reinterpret_cast<const double*>(budget),
                                         reinterpret_cast<T*>(z),
                                         reinterpret_cast<double*>(numbers[0]),
                                         reinterpret_cast<double*>(numbers[1]),
                                         reinterpret_cast<double*>(numbers[2]),
                                         reinterpret_cast<std::int64_t*>(numbers[3]),
                                         reinterpret_cast<bool*>(numbers[4])};
                Runner::projected(job, place...);
            });
        },
        py::kw_only(), py::arg("x"), py::arg("w"), py::arg("cost"), py::arg("budget"), py::arg("shape"), py::arg("rule"),
        py::arg("max_sweeps"), py::arg("z"), py::arg("numbers"), py::arg("dtype"), where...,
        py::call_guard<py::gil_scoped_release>());
    m.def(
        "conjugate_sinkhorn",
        [](std::uintptr_t x, std::uintptr_t g, std::uintptr_t cost, std::uintptr_t budget,
           const std::array<std::int64_t, 5>& shape, const std::array<double, 2>& rule, std::int64_t max_sweeps,
           std::uintptr_t z, const std::array<std::uintptr_t, 6>& numbers, const std::string& dtype, Where... place) {
            visit(dtype, [&](auto zero) {
                using T = decltype(zero);
                const ConjugateSinkhorn<T> job = {{shape[0], shape[1], shape[2], shape[3], shape[4]},
                                                  rule[0],
                                                  rule[1],
                                                  max_sweeps,
                                                  reinterpret_cast<const T*>(x),
                                                  reinterpret_cast<const T*>(g),
                                                  reinterpret_cast<const double*>(cost),
                                                  reinterpret_cast<const double*>(budget),
                                                  reinterpret_cast<T*>(z),
                                                  reinterpret_cast<double*>(numbers[0]),
                                                  reinterpret_cast<double*>(numbers[1]),
                                                  reinterpret_cast<double*>(numbers[2]),
                                                  reinterpret_cast<double*>(numbers[3]),
                                                  reinterpret_cast<std::int64_t*>(numbers[4]),
                                                  reinterpret_cast<bool*>(numbers[5])};
                Runner::conjugate(job, place...);
            });
        },
        py::kw_only(), py::arg("x"), py::arg("g"), py::arg("cost"), py::arg("budget"), py::arg("shape"), py::arg("rule"),
        py::arg("max_sweeps"), py::arg("z"), py::arg("numbers"), py::arg("dtype"), where...,
        py::call_guard<py::gil_scoped_release>());
}

}  // namespace verifix
