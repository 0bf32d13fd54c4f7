// Rows are shared out over blocks of threads, and the blocks of coordinates of a row over threads.
#include <cuda_runtime.h>

#include "noise_items.h"
#include "verifix/noise.h"

namespace verifix {
namespace {

constexpr std::int64_t warp = 32, most_threads = 256, most_blocks = 0x7fffffff;

template <class Job>
__global__ void noise_kernel(Job job, std::int64_t rows, std::int64_t blocks) {
    for (std::int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
        for (std::int64_t block = threadIdx.x; block < blocks; block += blockDim.x) noise_item(job, row, block);
    }
}

template <class Job>
void launch(const Job& job, void* stream) {
    const std::int64_t rows = job.names.n * job.names.count, blocks = noise_blocks(job.names);
    const std::int64_t threads = blocks < most_threads ? (blocks + warp - 1) / warp * warp : most_threads;
    const std::int64_t grid = rows < most_blocks ? rows : most_blocks;
    noise_kernel<<<static_cast<unsigned>(grid), static_cast<unsigned>(threads), 0, static_cast<cudaStream_t>(stream)>>>(
        job, rows, blocks);
    const cudaError_t error = cudaGetLastError();
    if (error != cudaSuccess) {
        throw std::runtime_error("noise: the launch for " + std::to_string(rows) + " rows of " +
                                 std::to_string(job.names.d) + " failed: " + cudaGetErrorString(error));
    }
}

}  // namespace

template <class T>
void add_noise_cuda(const AddNoise<T>& job, void* stream) {
    if (check_noise(job.names, job.x, job.out)) launch(job, stream);
}

template <class T>
void add_lattice_noise_cuda(const AddLatticeNoise<T>& job, void* stream) {
    if (check_noise(job.names, job.positions, job.out)) launch(job, stream);
}

template <class T>
void keep_or_replace_cuda(const KeepOrReplace<T>& job, void* stream) {
    check_replacement(job.threshold, job.levels);
    if (check_noise(job.names, job.positions, job.out)) launch(job, stream);
}

void random_words_cuda(const RandomWords& job, void* stream) {
    if (check_noise(job.names, job.names.inputs, job.out)) launch(job, stream);
}

template void add_noise_cuda(const AddNoise<float>&, void*);
template void add_noise_cuda(const AddNoise<double>&, void*);
template void add_lattice_noise_cuda(const AddLatticeNoise<float>&, void*);
template void add_lattice_noise_cuda(const AddLatticeNoise<double>&, void*);
template void keep_or_replace_cuda(const KeepOrReplace<float>&, void*);
template void keep_or_replace_cuda(const KeepOrReplace<double>&, void*);

}  // namespace verifix
