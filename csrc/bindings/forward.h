// Adds forward passes to the class of a plan.
#pragma once

#include <pybind11/pybind11.h>

#include "verifix/backward.h"

template <class T>
void bind_forward(pybind11::class_<verifix::Plan<T>>& plan);
