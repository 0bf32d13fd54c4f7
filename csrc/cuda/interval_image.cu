// One thread takes one entry, and then every one that lies a grid further on.
#include <cuda_runtime.h>

#include "verifix/interval_image.h"

namespace verifix {
namespace {

constexpr int threads = 256;
constexpr std::int64_t most_blocks = 65536;

template <class T>
__device__ void at(const IntervalImage<T>& job, std::int64_t i) {
    const ImageOfBox<T> found = image_of_box(job.midpoint[i], job.radius[i], job.left, job.right);
    job.image_midpoint[i] = found.midpoint;
    job.image_radius[i] = found.radius;
    job.pieces[i] = found.pieces;
    if (job.lower != nullptr) {
        job.lower[i] = found.lower;
        job.upper[i] = found.upper;
    }
}

template <class T>
__device__ void at(const IntervalImageGradient<T>& job, std::int64_t i) {
    const bool images = job.image_midpoint != nullptr, bounds = job.lower != nullptr;
    const GradientOfBox<T> found =
        gradient_of_box(job.pieces[i], images ? job.image_midpoint[i] : T(0), images ? job.image_radius[i] : T(0),
                        bounds ? job.lower[i] : T(0), bounds ? job.upper[i] : T(0), job.left, job.right);
    job.midpoint[i] = found.midpoint;
    job.radius[i] = found.radius;
}

template <class Job>
__global__ void interval_image_kernel(Job job) {
    const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * threads;
    for (std::int64_t i = blockIdx.x * static_cast<std::int64_t>(threads) + threadIdx.x; i < job.count; i += step) {
        at(job, i);
    }
}

template <class Job>
void launch(const Job& job, void* stream) {
    if (!check_job(job)) return;
    const std::int64_t blocks = (job.count - 1) / threads + 1;
    const auto grid = static_cast<unsigned>(blocks < most_blocks ? blocks : most_blocks);
    interval_image_kernel<<<grid, threads, 0, static_cast<cudaStream_t>(stream)>>>(job);
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
