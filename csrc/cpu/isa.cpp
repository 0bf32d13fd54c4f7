#include "verifix/isa.h"

#include <stdexcept>

namespace verifix {

const char* isa_name(Isa isa) {
    switch (isa) {
        case Isa::avx512:
            return "avx512";
        case Isa::avx2:
            return "avx2";
        case Isa::base:
            break;
    }
    return "base";
}

Isa isa_named(const std::string& name) {
    for (const Isa isa : all_isas) {
        if (name == isa_name(isa)) return isa;
    }
    throw std::invalid_argument("isa = " + name + ": must be base, avx2 or avx512");
}

bool isa_supported(Isa isa) {
#if defined(__x86_64__)
    switch (isa) {
        case Isa::avx512:
            return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                   __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                   __builtin_cpu_supports("fma");
        case Isa::avx2:
            return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
        case Isa::base:
            break;
    }
#endif
    return isa == Isa::base;
}

}  // namespace verifix
