// One thread for each entry: neighbours in a warp wait for the one with the longest continued fraction.
#include <cuda_runtime.h>

#include "verifix/binomial.h"
#include "verifix/clopper_pearson.h"

namespace verifix {
namespace {

constexpr int block_threads = 64;
constexpr std::int64_t most_blocks = 0x7fffffff;

__global__ void clopper_pearson_kernel(ClopperPearson job) {
    const std::int64_t i = blockIdx.x * static_cast<std::int64_t>(blockDim.x) + threadIdx.x;
    if (i >= job.count) return;
    const binomial::Bounds bounds = binomial::clopper_pearson(job.successes[i], job.trials[i], job.level[i]);
    job.lower[i] = bounds.lower;
    job.failure[i] = bounds.failure;
}

}  // namespace

void clopper_pearson_cuda(const ClopperPearson& job, void* stream) {
    check_clopper_pearson(job);
    if (job.count == 0) return;
    const std::int64_t blocks = (job.count - 1) / block_threads + 1;
    if (blocks > most_blocks) {
        throw std::invalid_argument("clopper_pearson: " + std::to_string(job.count) +
                                    " entries are more than one launch can take");
    }
    clopper_pearson_kernel<<<static_cast<unsigned>(blocks), block_threads, 0, static_cast<cudaStream_t>(stream)>>>(job);
    const cudaError_t error = cudaGetLastError();
    if (error != cudaSuccess) {
        throw std::runtime_error("clopper_pearson: the launch for " + std::to_string(job.count) +
                                 " entries failed: " + cudaGetErrorString(error));
    }
}

}  // namespace verifix
