// Passes on CUDA, for verifix/kernels/plan_cuda.py: a plan borrows its weights, and makes schedules that run.
#include <pybind11/stl.h>

#include <type_traits>

#include "plan.h"
#include "verifix/backward_cuda.h"

namespace py = pybind11;
using namespace verifix;

namespace {

using Address = std::uintptr_t;

template <class T>
BackwardSchedule<T> schedule(const Plan<T>& plan, int start, std::int64_t rows, Address positions, std::int64_t inputs,
                             Address row_offsets) {
    return BackwardSchedule<T>(plan, start, rows, pointer<std::int64_t>(positions), inputs, pointer<std::int64_t>(row_offsets));
}

template <class T>
py::bytes tables(const BackwardSchedule<T>& schedule) {
    const std::vector<std::uint8_t>& bytes = schedule.tables();
    return py::bytes(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

template <class T>
void run(const BackwardSchedule<T>& schedule, std::int64_t inputs, Address coefficients, std::int64_t coefficient_batch, double sign,
         const std::vector<Address>& lines, bool both, int hull, Address center, Address radius, Address forms, Address low,
         Address high, Address tables, Address workspace, std::int64_t bytes, Address stream) {
    BackwardRequest<T> request;
    request.inputs = inputs;
    request.coefficients = pointer<T>(coefficients);
    request.coefficient_batch = coefficient_batch;
    request.sign = static_cast<T>(sign);
    for (const Address address : lines) request.lines.push_back(pointer<T>(address));
    request.both = both;
    request.hull = hull;
    request.center = pointer<T>(center);
    request.radius = pointer<T>(radius);
    request.forms = reinterpret_cast<T*>(forms);
    request.low = reinterpret_cast<T*>(low);
    request.high = reinterpret_cast<T*>(high);
    const BackwardMemory memory{pointer<void>(tables), reinterpret_cast<void*>(workspace), bytes};
    backward_cuda(schedule, request, memory, reinterpret_cast<void*>(stream));
}

}  // namespace

template <class T>
void bind_runs(py::module_& m, py::class_<Plan<T>>& plan) {
    const char* name = std::is_same<T, float>::value ? "BackwardScheduleFloat32" : "BackwardScheduleFloat64";
    py::class_<BackwardSchedule<T>>(m, name, py::module_local(), "Which rows of a pass go together; see backward_cuda.h.")
        .def("tables", &tables<T>, "What the device needs to know of the schedule.")
        .def("pairs", &BackwardSchedule<T>::pairs, py::kw_only(), py::arg("inputs"))
        .def("bytes_per_pair", &BackwardSchedule<T>::bytes_per_pair)
        .def("run", &run<T>, py::kw_only(), py::arg("inputs"), py::arg("coefficients"), py::arg("coefficient_batch"), py::arg("sign"),
             py::arg("lines"), py::arg("both"), py::arg("hull"), py::arg("center"), py::arg("radius"), py::arg("forms") = 0, py::arg("low"), py::arg("high"),
             py::arg("tables"), py::arg("workspace"), py::arg("bytes"), py::arg("stream"), py::call_guard<py::gil_scoped_release>());
    plan.def("schedule", &schedule<T>, py::kw_only(), py::arg("start"), py::arg("rows"), py::arg("positions"),
             py::arg("inputs"), py::arg("row_offsets"), py::keep_alive<0, 1>());
}

template void bind_runs(py::module_&, py::class_<Plan<float>>&);
template void bind_runs(py::module_&, py::class_<Plan<double>>&);
