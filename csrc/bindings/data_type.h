// The element types that kernels take, by the name that the caller gives.
#pragma once

#include <stdexcept>
#include <string>

namespace verifix {

// Calls body(T{}) with the C++ type that dtype names: "float32" or "float64".
template <class Body>
void visit(const std::string& dtype, const Body& body) {
    if (dtype == "float32") return body(float{});
    if (dtype == "float64") return body(double{});
    throw std::invalid_argument("dtype = " + dtype + ": must be float32 or float64");
}

}  // namespace verifix
