// The transport plans of a module, CPU or CUDA: the same arguments, and then those of where it runs.
#pragma once

#include <pybind11/pybind11.h>

#include <tuple>

#include "data_type.h"
#include "verifix/transport_project.h"

namespace verifix {

using TransportSizes = std::tuple<std::int64_t, std::int64_t, std::int64_t, std::int64_t, std::int64_t>;

inline TransportShape transport_shape(const TransportSizes& sizes) {
    const auto [n, channels, window, height, width] = sizes;
    return {n, channels, window, height, width};
}

// Runner has a static function for each of them, which takes the job and then `Where`, the last arguments of a call.
// Shapes are n, channels, window, height, width.
template <class Runner, class... Where, class... Names>
void bind_transport_project(pybind11::module_& m, const Names&... where) {
    namespace py = pybind11;
    using Address = std::uintptr_t;
    const auto released = py::call_guard<py::gil_scoped_release>();
    m.def(
        "project_plan",
        [](Address plan, Address x, Address cost, Address budget, Address start, Address out, Address multiplier,
           const TransportSizes& shape, const std::string& dtype, Where... place) {
            visit(dtype, [&](auto zero) {
                using T = decltype(zero);
                ProjectPlan<T> job;
                job.shape = transport_shape(shape);
                job.plan = reinterpret_cast<const T*>(plan);
                job.x = reinterpret_cast<const T*>(x);
                job.cost = reinterpret_cast<const double*>(cost);
                job.budget = reinterpret_cast<const double*>(budget);
                job.start = reinterpret_cast<const double*>(start);
                job.out = reinterpret_cast<T*>(out);
                job.multiplier = reinterpret_cast<double*>(multiplier);
                Runner::project_plan(job, place...);
            });
        },
        py::kw_only(), py::arg("plan"), py::arg("x"), py::arg("cost"), py::arg("budget"), py::arg("start"),
        py::arg("out"), py::arg("multiplier"), py::arg("shape"), py::arg("dtype"), where..., released);
    m.def(
        "plan_image",
        [](Address plan, Address image, const TransportSizes& shape, const std::string& dtype, Where... place) {
            visit(dtype, [&](auto zero) {
                using T = decltype(zero);
                Runner::plan_image(reinterpret_cast<const T*>(plan), reinterpret_cast<T*>(image),
                                   transport_shape(shape), place...);
            });
        },
        py::kw_only(), py::arg("plan"), py::arg("image"), py::arg("shape"), py::arg("dtype"), where..., released);
    m.def(
        "plan_gradient",
        [](Address image, Address plan, const TransportSizes& shape, const std::string& dtype, Where... place) {
            visit(dtype, [&](auto zero) {
                using T = decltype(zero);
                Runner::plan_gradient(reinterpret_cast<const T*>(image), reinterpret_cast<T*>(plan),
                                      transport_shape(shape), place...);
            });
        },
        py::kw_only(), py::arg("image"), py::arg("plan"), py::arg("shape"), py::arg("dtype"), where..., released);
}

}  // namespace verifix
