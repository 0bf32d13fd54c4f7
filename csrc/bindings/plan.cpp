// The plans of backward passes, for verifix/kernels/plan.py, which knows what the pointers point to.
#include "plan.h"

#include <pybind11/stl.h>

#include <array>

#include "verifix/backward.h"

namespace py = pybind11;
using namespace verifix;

namespace {

using Address = std::uintptr_t;
using Shape3 = std::array<std::int64_t, 3>;

PlanShape plan_shape(const Shape3& shape) { return {shape[0], shape[1], shape[2]}; }

template <class T>
void bind_plan(py::module_& m, const char* name) {
    py::class_<Plan<T>> plan(m, name, py::module_local(),
                             "A network as a flat list of steps, with its weights; see csrc/include/verifix/backward.h.");
    plan.def(py::init([](const Shape3& input) { return Plan<T>(plan_shape(input)); }), py::arg("input"))
        .def(
            "dense",
            [](Plan<T>& plan, int source, std::int64_t outputs, Address weight, Address bias) {
                return plan.dense(source, outputs, pointer<T>(weight), pointer<T>(bias));
            },
            py::kw_only(), py::arg("source"), py::arg("outputs"), py::arg("weight"), py::arg("bias"))
        .def(
            "convolution",
            [](Plan<T>& plan, int source, const Shape3& output, const std::array<std::int64_t, 9>& g, Address weight,
               Address bias) {
                return plan.convolution(source, plan_shape(output), {g[0], g[1], g[2], g[3], g[4], g[5], g[6], g[7], g[8]},
                                        pointer<T>(weight), pointer<T>(bias));
            },
            py::kw_only(), py::arg("source"), py::arg("output"), py::arg("geometry"), py::arg("weight"), py::arg("bias"))
        .def(
            "scaling",
            [](Plan<T>& plan, int source, Address scale, Address shift, Address shift_size) {
                return plan.scaling(source, pointer<T>(scale), pointer<T>(shift), pointer<T>(shift_size));
            },
            py::kw_only(), py::arg("source"), py::arg("scale"), py::arg("shift"), py::arg("shift_size") = Address(0))
        .def(
            "sum",
            [](Plan<T>& plan, int first, int second, double factor) {
                return plan.sum(first, second, static_cast<T>(factor));
            },
            py::kw_only(), py::arg("first"), py::arg("second"), py::arg("factor"))
        .def("concatenation", &Plan<T>::concatenation, py::kw_only(), py::arg("sources"))
        .def(
            "sparse",
            [](Plan<T>& plan, int source, const Shape3& output, std::int64_t count, Address offsets, Address index,
               Address weight, Address constant) {
                return plan.sparse(source, plan_shape(output), count, pointer<std::int64_t>(offsets),
                                   pointer<std::int64_t>(index), pointer<T>(weight), pointer<T>(constant));
            },
            py::kw_only(), py::arg("source"), py::arg("output"), py::arg("count"), py::arg("offsets"), py::arg("index"),
            py::arg("weight"), py::arg("constant"))
        .def("lines", &Plan<T>::lines, py::kw_only(), py::arg("source"))
        .def(
            "planes",
            [](Plan<T>& plan, int source, const Shape3& output, std::int64_t count, Address offsets, Address index) {
                return plan.planes(source, plan_shape(output), count, pointer<std::int64_t>(offsets),
                                   pointer<std::int64_t>(index));
            },
            py::kw_only(), py::arg("source"), py::arg("output"), py::arg("count"), py::arg("offsets"), py::arg("index"));
    bind_runs(m, plan);
}

}  // namespace

void bind_plans(py::module_& m) {
    bind_plan<float>(m, "PlanFloat32");
    bind_plan<double>(m, "PlanFloat64");
}
