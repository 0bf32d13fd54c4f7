// One block of threads for each image, from its first sweep to its last; blocks take further images when they are done.
// The state is in shared memory where it fits.
#include <cuda_runtime.h>

#include "conjugate_sinkhorn_block.h"
#include "sinkhorn_block.h"
#include "verifix/sinkhorn.h"

namespace verifix {
namespace {

constexpr int threads = 256, warp = 32, warps = threads / warp;

class CudaBlock {
public:
    explicit __device__ CudaBlock(double* partial) : partial_(partial) {}

    template <class Body>
    __device__ void each(std::int64_t count, const Body& body) const {
        for (std::int64_t i = threadIdx.x; i < count; i += threads) body(i);
        __syncthreads();
    }

    template <int N, class Body>
    __device__ void sums(std::int64_t count, double (&total)[N], const Body& body) const {
        double sum[N] = {};
        for (std::int64_t i = threadIdx.x; i < count; i += threads) body(i, sum);
        for (int n = 0; n < N; ++n) {
            for (int step = warp / 2; step > 0; step /= 2) sum[n] += __shfl_down_sync(0xFFFFFFFFu, sum[n], step);
            if (threadIdx.x % warp == 0) partial_[n * warps + threadIdx.x / warp] = sum[n];
        }
        __syncthreads();
        for (int n = 0; n < N; ++n) {
            total[n] = 0;
            for (int i = 0; i < warps; ++i) total[n] += partial_[n * warps + i];
        }
        __syncthreads();
    }

private:
    double* partial_;
};

template <class T>
__global__ void __launch_bounds__(threads)
    sinkhorn_kernel(Sinkhorn<T> job, double* wide, float* narrow, std::int64_t elements, bool shared) {
    extern __shared__ double state[];
    __shared__ double partial[2 * warps];
    const CudaBlock block(partial);
    double* wide_memory = wide + blockIdx.x * elements;
    T* memory = reinterpret_cast<T*>(shared ? reinterpret_cast<void*>(state) : narrow + blockIdx.x * elements);
    if (sizeof(T) == sizeof(double) && shared) wide_memory = state;
    for (std::int64_t image = blockIdx.x; image < job.shape.images; image += gridDim.x) {
        sinkhorn_block::project(job, image, block, memory, wide_memory);
        __syncthreads();
    }
}

template <class T>
__global__ void __launch_bounds__(threads)
    conjugate_kernel(ConjugateSinkhorn<T> job, double* memory, std::int64_t elements) {
    __shared__ double partial[2 * warps];
    const CudaBlock block(partial);
    for (std::int64_t image = blockIdx.x; image < job.shape.images; image += gridDim.x) {
        sinkhorn_block::maximise(job, image, block, memory + blockIdx.x * elements);
        __syncthreads();
    }
}

void check(cudaError_t error, const char* what) {
    if (error != cudaSuccess) {
        throw std::runtime_error(std::string("sinkhorn: ") + what + " failed: " + cudaGetErrorString(error));
    }
}

}  // namespace

std::int64_t sinkhorn_workspace(const SinkhornShape& shape) { return sinkhorn_block::workspace(shape); }

template <class T>
void projected_sinkhorn_cuda(const Sinkhorn<T>& job, void* workspace, void* stream) {
    if (!check_sinkhorn(job, false)) return;
    if (workspace == nullptr) throw std::invalid_argument("sinkhorn: workspace is a null pointer");
    const std::int64_t blocks = sinkhorn_block::blocks(job.shape), elements = sinkhorn_block::elements(job.shape);
    int device = 0, most = 0;
    check(cudaGetDevice(&device), "finding the device");
    check(cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device), "asking the device");
    const std::int64_t bytes = elements * static_cast<std::int64_t>(sizeof(T));
    const bool shared = bytes <= most - 1024;  // what the kernel has besides
    if (shared) {
        check(cudaFuncSetAttribute(sinkhorn_kernel<T>, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)),
              "reserving shared memory");
    }
    double* const wide = static_cast<double*>(workspace);
    sinkhorn_kernel<T><<<static_cast<unsigned>(blocks), threads, shared ? static_cast<std::size_t>(bytes) : 0,
                         static_cast<cudaStream_t>(stream)>>>(
        job, wide, reinterpret_cast<float*>(wide + blocks * elements), elements, shared);
    check(cudaGetLastError(), "the launch");
}

template <class T>
void conjugate_sinkhorn_cuda(const ConjugateSinkhorn<T>& job, void* workspace, void* stream) {
    if (!check_sinkhorn(job, false)) return;
    if (workspace == nullptr) throw std::invalid_argument("sinkhorn: workspace is a null pointer");
    const std::int64_t blocks = sinkhorn_block::blocks(job.shape), elements = sinkhorn_block::elements(job.shape);
    conjugate_kernel<T><<<static_cast<unsigned>(blocks), threads, 0, static_cast<cudaStream_t>(stream)>>>(
        job, static_cast<double*>(workspace), elements);
    check(cudaGetLastError(), "the launch");
}

template void projected_sinkhorn_cuda(const Sinkhorn<float>&, void*, void*);
template void projected_sinkhorn_cuda(const Sinkhorn<double>&, void*, void*);
template void conjugate_sinkhorn_cuda(const ConjugateSinkhorn<float>&, void*, void*);
template void conjugate_sinkhorn_cuda(const ConjugateSinkhorn<double>&, void*, void*);

}  // namespace verifix
