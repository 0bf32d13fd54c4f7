#define VERIFIX_ISA_NAMESPACE base
#include "forward.inl"
