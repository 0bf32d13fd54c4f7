// Adds the classes PlanFloat32 and PlanFloat64 to a module: how plans are built is common, how passes run is not.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>

#include "verifix/backward.h"

void bind_plans(pybind11::module_& m);

// What runs passes. Each module has its own: plan_cpu.cpp, plan_cuda.cpp.
template <class T>
void bind_runs(pybind11::module_& m, pybind11::class_<verifix::Plan<T>>& plan);

template <class T>
const T* pointer(std::uintptr_t address) {
    return reinterpret_cast<const T*>(address);
}
