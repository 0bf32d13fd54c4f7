// Forward passes on plans, for verifix/kernels/plan.py, which knows what the pointers point to.
#include "forward.h"

#include <pybind11/stl.h>

#include "verifix/forward.h"

namespace py = pybind11;
using namespace verifix;

namespace {

using Address = std::uintptr_t;

template <class T>
std::vector<const T*> pointers(const std::vector<Address>& addresses) {
    std::vector<const T*> result;
    for (const Address address : addresses) result.push_back(reinterpret_cast<const T*>(address));
    return result;
}

template <class T>
void forward(const Plan<T>& plan, std::int32_t node, std::int64_t inputs, const std::vector<Address>& lowers,
             const std::vector<Address>& uppers, const std::vector<Address>& magnitudes, Address lower, Address upper,
             Address magnitude, double quantum, int threads, const std::string& isa) {
    ForwardRequest<T> request;
    request.node = node;
    request.inputs = inputs;
    request.lowers = pointers<T>(lowers);
    request.uppers = pointers<T>(uppers);
    request.magnitudes = pointers<T>(magnitudes);
    request.lower = reinterpret_cast<T*>(lower);
    request.upper = reinterpret_cast<T*>(upper);
    request.magnitude = reinterpret_cast<T*>(magnitude);
    request.quantum = static_cast<T>(quantum);
    plan.forward(request, threads, isa_named(isa));
}

}  // namespace

template <class T>
void bind_forward(py::class_<Plan<T>>& plan) {
    plan.def("forwards", &Plan<T>::forwards, py::kw_only(), py::arg("node"));
    plan.def("forward", &forward<T>, py::kw_only(), py::arg("node"), py::arg("inputs"), py::arg("lowers"), py::arg("uppers"),
             py::arg("magnitudes"), py::arg("lower"), py::arg("upper"), py::arg("magnitude"), py::arg("quantum"),
             py::arg("threads"), py::arg("isa"), py::call_guard<py::gil_scoped_release>());
}

template void bind_forward(py::class_<Plan<float>>&);
template void bind_forward(py::class_<Plan<double>>&);
