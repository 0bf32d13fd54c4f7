#if defined(__x86_64__)
#define VERIFIX_ISA_NAMESPACE avx512
#define VERIFIX_VECTOR_BYTES 64
#include "conjugate_sinkhorn.inl"
#endif
