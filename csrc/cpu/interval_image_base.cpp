#define VERIFIX_ISA_NAMESPACE base
#include "interval_image.inl"
