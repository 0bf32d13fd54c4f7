#define VERIFIX_ISA_NAMESPACE base
#include "backward.inl"
