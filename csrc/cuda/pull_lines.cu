// Rows: a warp for each of few entries, a block for each of many. Gradients: a thread for each entry of an image, through
// all its rows, so that no two add to one number. A grid that is too small for all goes over them in turns.
#include <cuda_runtime.h>

#include "pull_lines_items.h"
#include "verifix/pull_lines.h"

namespace verifix {
namespace {

constexpr int threads = pull_lines_threads;

struct DeviceBlock {
    template <class Body>
    __device__ __forceinline__ void each(int reach, const Body& body) const {
        body(static_cast<int>(threadIdx.x));
        if (reach > 32) {
            __syncthreads();
        } else {
            __syncwarp();
        }
    }
};

template <class T>
__global__ void __launch_bounds__(threads) rows_kernel(PullLines<T> job, int lanes) {
    __shared__ T partial[threads];
    const std::int64_t of_block = threads / lanes, rows = job.n * job.r, stride = gridDim.x * of_block;
    for (std::int64_t first = blockIdx.x * of_block; first < rows; first += stride) {
        pull_lines_rows(job, lanes, first, partial, DeviceBlock{});
    }
}

template <class T>
__global__ void __launch_bounds__(threads) gradient_kernel(PullLinesGradient<T> job) {
    pull_lines_gradient_thread(job, blockIdx.x * static_cast<std::int64_t>(threads) + threadIdx.x,
                               static_cast<std::int64_t>(gridDim.x) * threads);
}

template <class Job>
void check_launch(const Job& job) {
    const cudaError_t error = cudaGetLastError();
    if (error == cudaSuccess) return;
    throw std::runtime_error("pull_lines: the launch for shape (" + std::to_string(job.n) + ", " + std::to_string(job.r) +
                             ", " + std::to_string(job.m) + ") failed: " + cudaGetErrorString(error));
}

}  // namespace

template <class T>
void pull_lines_cuda(const PullLines<T>& job, void* stream) {
    check_pull_lines(job.n, job.r, job.m, job.rows, job.offset);
    if (job.n * job.r == 0) return;
    const int lanes = pull_lines_lanes(job.m);
    const auto grid = static_cast<unsigned>(pull_lines_blocks(job.n * job.r, threads / lanes));
    rows_kernel<<<grid, threads, 0, static_cast<cudaStream_t>(stream)>>>(job, lanes);
    check_launch(job);
}

template <class T>
void pull_lines_gradient_cuda(const PullLinesGradient<T>& job, void* stream) {
    check_pull_lines(job.n, job.r, job.m, job.rows, job.of_offset);
    if (job.n * job.m == 0 || (job.of_rows == nullptr && !wants_lines(job))) return;
    const auto grid = static_cast<unsigned>(pull_lines_blocks(job.n * job.m, threads));
    gradient_kernel<<<grid, threads, 0, static_cast<cudaStream_t>(stream)>>>(job);
    check_launch(job);
}

template void pull_lines_cuda(const PullLines<float>&, void*);
template void pull_lines_cuda(const PullLines<double>&, void*);
template void pull_lines_gradient_cuda(const PullLinesGradient<float>&, void*);
template void pull_lines_gradient_cuda(const PullLinesGradient<double>&, void*);

}  // namespace verifix
