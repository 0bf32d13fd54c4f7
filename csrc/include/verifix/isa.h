// Instruction sets that the kernels are compiled for, and which of them this processor has.
#pragma once

#include <string>

namespace verifix {

enum class Isa { base, avx2, avx512 };

constexpr Isa all_isas[] = {Isa::base, Isa::avx2, Isa::avx512};

const char* isa_name(Isa isa);

// Throws std::invalid_argument where there is no instruction set of that name.
Isa isa_named(const std::string& name);

// Whether kernels for this instruction set were compiled and the processor and operating system can run them.
bool isa_supported(Isa isa);

}  // namespace verifix
