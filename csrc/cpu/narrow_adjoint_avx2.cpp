#if defined(__x86_64__)
#define VERIFIX_ISA_NAMESPACE avx2
#include "narrow_adjoint.inl"
#endif
