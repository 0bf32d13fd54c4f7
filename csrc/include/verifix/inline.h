// Small functions that kernels of every instruction set and of the device share: each has its own copy, none of external
// linkage, so that no copy made for a wider instruction set replaces a plain one when linking.
#pragma once

#if defined(__CUDACC__)
#define VERIFIX_INLINE static __host__ __device__ __forceinline__
#define VERIFIX_INLINE_MEMBER __host__ __device__ __forceinline__
#else
#define VERIFIX_INLINE static inline __attribute__((always_inline))
#define VERIFIX_INLINE_MEMBER inline __attribute__((always_inline))
#endif
