#if defined(__x86_64__)
#define VERIFIX_ISA_NAMESPACE avx2
#include "relu_lines.inl"
#endif
