#define VERIFIX_ISA_NAMESPACE base
#include "narrow_adjoint.inl"
