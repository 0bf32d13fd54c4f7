#if defined(__x86_64__)
#define VERIFIX_ISA_NAMESPACE avx512
#include "relu_lines.inl"
#endif
