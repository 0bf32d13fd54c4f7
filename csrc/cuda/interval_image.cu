// A thread for each entry; a grid that is too small for all goes over them in turns.
#include <cuda_runtime.h>

#include "interval_image_items.h"
#include "verifix/interval_image.h"

namespace verifix {
namespace {

template <class Job>
__global__ void interval_image_kernel(Job job) {
    interval_image_thread(job, blockIdx.x * static_cast<std::int64_t>(interval_image_threads) + threadIdx.x,
                          static_cast<std::int64_t>(gridDim.x) * interval_image_threads);
}

template <class Job>
void launch(const Job& job, void* stream) {
    if (!check_job(job)) return;
    const auto grid = static_cast<unsigned>(interval_image_blocks(job.count));
    interval_image_kernel<<<grid, interval_image_threads, 0, static_cast<cudaStream_t>(stream)>>>(job);
    const cudaError_t error = cudaGetLastError();
    if (error != cudaSuccess) {
        throw std::runtime_error("interval_image: the launch for " + std::to_string(job.count) +
                                 " entries failed: " + cudaGetErrorString(error));
    }
}

}  // namespace

template <class T>
void interval_image_cuda(const IntervalImage<T>& job, void* stream) {
    launch(job, stream);
}

template <class T>
void interval_image_gradient_cuda(const IntervalImageGradient<T>& job, void* stream) {
    launch(job, stream);
}

template void interval_image_cuda(const IntervalImage<float>&, void*);
template void interval_image_cuda(const IntervalImage<double>&, void*);
template void interval_image_gradient_cuda(const IntervalImageGradient<float>&, void*);
template void interval_image_gradient_cuda(const IntervalImageGradient<double>&, void*);

}  // namespace verifix
