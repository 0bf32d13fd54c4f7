// A block of threads projects the plan of one image, all iterations in one launch; images and adjoints take a thread for
// each of their entries.
#include <cuda_runtime.h>

#include "transport_project_items.h"
#include "verifix/transport_project.h"

namespace verifix {
namespace {

constexpr int threads = transport_slots;  // a thread's pixels are those of its number in the sums
constexpr std::int64_t most_blocks = 0x7fffffff;

struct DeviceBlock {
    double* first;   // shared memory, one for each thread
    double* second;

    template <class Body>
    __device__ __forceinline__ void pixels(int64_t count, const Body& body) const {
        for (int64_t p = threadIdx.x; p < count; p += threads) body(p);
    }

    template <class Body>
    __device__ __forceinline__ TwoSums sums(int64_t count, const Body& body) const {
        double mine_first = 0, mine_second = 0;
        for (int64_t p = threadIdx.x; p < count; p += threads) body(p, mine_first, mine_second);
        __syncthreads();  // all have read the totals of before
        first[threadIdx.x] = mine_first;
        second[threadIdx.x] = mine_second;
        for (int half = threads / 2; half > 0; half /= 2) {
            __syncthreads();
            if (threadIdx.x < half) {
                first[threadIdx.x] += first[threadIdx.x + half];
                second[threadIdx.x] += second[threadIdx.x + half];
            }
        }
        __syncthreads();
        return {first[0], second[0]};
    }

    __device__ __forceinline__ double largest(double value) const {
        __syncthreads();
        first[threadIdx.x] = value;
        for (int half = threads / 2; half > 0; half /= 2) {
            __syncthreads();
            if (threadIdx.x < half && first[threadIdx.x + half] > first[threadIdx.x]) {
                first[threadIdx.x] = first[threadIdx.x + half];
            }
        }
        __syncthreads();
        return first[0];
    }

    __device__ __forceinline__ bool all(bool flag) const { return __syncthreads_and(flag) != 0; }
};

template <class T, int fixed>
__global__ void __launch_bounds__(threads) project_kernel(ProjectPlan<T> job) {
    __shared__ double first[threads], second[threads];
    const DeviceBlock block{first, second};
    for (std::int64_t image = blockIdx.x; image < job.shape.n; image += gridDim.x) {
        const TransportImage<T, fixed, DeviceBlock> work(job, block, image);
        const double start = job.start == nullptr ? 0.0 : job.start[image];
        const double multiplier = work.project(job.budget[image], start);
        if (threadIdx.x == 0) job.multiplier[image] = multiplier;
    }
}

template <class T>
__global__ void image_kernel(const T* plan, T* image, TransportShape shape, std::int64_t count) {
    const std::int64_t stride = static_cast<std::int64_t>(gridDim.x) * threads;
    for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * threads + threadIdx.x; i < count; i += stride) {
        plan_image_item(plan, image, shape, i);
    }
}

template <class T>
__global__ void gradient_kernel(const T* image, T* plan, TransportShape shape, std::int64_t count) {
    const std::int64_t stride = static_cast<std::int64_t>(gridDim.x) * threads;
    for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * threads + threadIdx.x; i < count; i += stride) {
        plan_gradient_item(image, plan, shape, i);
    }
}

unsigned blocks_for(std::int64_t work) { return static_cast<unsigned>(work < most_blocks ? work : most_blocks); }

void check_launch(const char* name, TransportShape shape) {
    const cudaError_t error = cudaGetLastError();
    if (error == cudaSuccess) return;
    throw std::runtime_error(std::string(name) + ": the launch for " + std::to_string(shape.n) + " images of " +
                             std::to_string(shape.channels) + " x " + std::to_string(shape.height) + " x " +
                             std::to_string(shape.width) + " failed: " + cudaGetErrorString(error));
}

}  // namespace

template <class T>
void project_plan_cuda(const ProjectPlan<T>& job, void* stream) {
    if (!check_project_plan(job)) return;
    const unsigned blocks = blocks_for(job.shape.n);
    const auto launch_stream = static_cast<cudaStream_t>(stream);
    switch (job.shape.window) {
        case 3:
            project_kernel<T, 9><<<blocks, threads, 0, launch_stream>>>(job);
            break;
        case 5:
            project_kernel<T, 25><<<blocks, threads, 0, launch_stream>>>(job);
            break;
        case 7:
            project_kernel<T, 49><<<blocks, threads, 0, launch_stream>>>(job);
            break;
        default:
            project_kernel<T, 0><<<blocks, threads, 0, launch_stream>>>(job);
    }
    check_launch("project_plan", job.shape);
}

template <class T>
void plan_image_cuda(const T* plan, T* image, TransportShape shape, void* stream) {
    if (!check_plan_image(plan, image, shape)) return;
    const std::int64_t count = shape.n * shape.channels * shape.height * shape.width;
    const unsigned blocks = blocks_for((count - 1) / threads + 1);
    image_kernel<<<blocks, threads, 0, static_cast<cudaStream_t>(stream)>>>(plan, image, shape, count);
    check_launch("plan_image", shape);
}

template <class T>
void plan_gradient_cuda(const T* image, T* plan, TransportShape shape, void* stream) {
    if (!check_plan_image(plan, image, shape)) return;
    const std::int64_t count = transport_entries(shape);
    const unsigned blocks = blocks_for((count - 1) / threads + 1);
    gradient_kernel<<<blocks, threads, 0, static_cast<cudaStream_t>(stream)>>>(image, plan, shape, count);
    check_launch("plan_gradient", shape);
}

template void project_plan_cuda(const ProjectPlan<float>&, void*);
template void project_plan_cuda(const ProjectPlan<double>&, void*);
template void plan_image_cuda(const float*, float*, TransportShape, void*);
template void plan_image_cuda(const double*, double*, TransportShape, void*);
template void plan_gradient_cuda(const float*, float*, TransportShape, void*);
template void plan_gradient_cuda(const double*, double*, TransportShape, void*);

}  // namespace verifix
