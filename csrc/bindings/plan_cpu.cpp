// Passes on the CPU, for verifix/kernels/plan.py.
#include <pybind11/stl.h>

#include "forward.h"
#include "plan.h"
#include "verifix/isa.h"

namespace py = pybind11;
using namespace verifix;

namespace {

using Address = std::uintptr_t;

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

}  // namespace

template <class T>
void bind_runs(py::module_&, py::class_<Plan<T>>& plan) {
    plan.def("run", &run<T>, py::kw_only(), py::arg("start"), py::arg("inputs"), py::arg("rows"), py::arg("coefficients"),
             py::arg("coefficient_batch"), py::arg("positions"), py::arg("row_offsets"), py::arg("sign"), py::arg("lines"), py::arg("both"),
             py::arg("hull"), py::arg("center"), py::arg("radius"), py::arg("forms") = 0, py::arg("low"), py::arg("high"),
             py::arg("memory"), py::arg("threads"), py::arg("isa"), py::call_guard<py::gil_scoped_release>());
    bind_forward(plan);
}

template void bind_runs(py::module_&, py::class_<Plan<float>>&);
template void bind_runs(py::module_&, py::class_<Plan<double>>&);
