#define VERIFIX_ISA_NAMESPACE base
#include "pull_lines.inl"
