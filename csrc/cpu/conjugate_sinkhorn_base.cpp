#define VERIFIX_ISA_NAMESPACE base
#define VERIFIX_VECTOR_BYTES 16
#include "conjugate_sinkhorn.inl"
