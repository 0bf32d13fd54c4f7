#if defined(__x86_64__)
#define VERIFIX_ISA_NAMESPACE avx2
#define VERIFIX_VECTOR_BYTES 32
#include "conjugate_sinkhorn.inl"
#endif
