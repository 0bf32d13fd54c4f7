#define VERIFIX_ISA_NAMESPACE base
#include "relu_lines.inl"
