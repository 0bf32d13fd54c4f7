// Adds the classes PlanFloat32 and PlanFloat64 to a module.
#pragma once

#include <pybind11/pybind11.h>

void bind_plans(pybind11::module_& m);
