// The plans of backward passes, for verifix/kernels/plan.py, which knows what the pointers point to.
#include "plan.h"

#include <pybind11/stl.h>

#include <array>

#include "forward.h"
#include "verifix/backward.h"

namespace py = pybind11;
using namespace verifix;

namespace {

using Address = std::uintptr_t;
using Shape3 = std::array<std::int64_t, 3>;

PlanShape plan_shape(const Shape3& shape) { return {shape[0], shape[1], shape[2]}; }

template <class T>
const T* pointer(Address address) {
    return reinterpret_cast<const T*>(address);
}

template <class T>
void run(const Plan<T>& plan, std::int32_t start, std::int64_t inputs, std::int64_t rows, Address coefficients,
         std::int64_t coefficient_batch, Address positions, Address row_offsets, double sign, const std::vector<Address>& lines, bool both, int hull,
         Address center, Address radius, Address forms, Address low, Address high, std::int64_t memory, int threads,
         const std::string& isa) {
    BackwardRequest<T> request;
    request.start = start;
    request.inputs = inputs;
    request.rows = rows;
    request.coefficients = pointer<T>(coefficients);
    request.coefficient_batch = coefficient_batch;
    request.positions = pointer<std::int64_t>(positions);
    request.row_offsets = pointer<std::int64_t>(row_offsets);
    request.sign = static_cast<T>(sign);
    for (const Address address : lines) request.lines.push_back(pointer<T>(address));
    request.both = both;
    request.hull = hull;
    request.center = pointer<T>(center);
    request.radius = pointer<T>(radius);
    request.forms = reinterpret_cast<T*>(forms);
    request.low = reinterpret_cast<T*>(low);
    request.high = reinterpret_cast<T*>(high);
    plan.run(request, memory, threads, isa_named(isa));
}

template <class T>
void bind_plan(py::module_& m, const char* name) {
    py::class_<Plan<T>> plan(m, name, "A network as a flat list of steps, with its weights; see csrc/include/verifix/backward.h.");
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
            py::kw_only(), py::arg("source"), py::arg("output"), py::arg("count"), py::arg("offsets"), py::arg("index"))
        .def("run", &run<T>, py::kw_only(), py::arg("start"), py::arg("inputs"), py::arg("rows"), py::arg("coefficients"),
             py::arg("coefficient_batch"), py::arg("positions"), py::arg("row_offsets"), py::arg("sign"), py::arg("lines"), py::arg("both"),
             py::arg("hull"), py::arg("center"), py::arg("radius"), py::arg("forms") = 0, py::arg("low"), py::arg("high"),
             py::arg("memory"), py::arg("threads"), py::arg("isa"), py::call_guard<py::gil_scoped_release>());
    bind_forward(plan);
}

}  // namespace

void bind_plans(py::module_& m) {
    bind_plan<float>(m, "PlanFloat32");
    bind_plan<double>(m, "PlanFloat64");
}
