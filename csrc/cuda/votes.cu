// A block of threads counts a piece of the rows of one input in shared memory, one row for each thread in turn, and adds
// what it counted to the counts. With very many classes each vote goes to the counts at once. Whole numbers may be added
// in any order.
#include <cuda_runtime.h>

#include "verifix/votes.h"
#include "votes_piece.h"

namespace verifix {
namespace {

constexpr int threads = 256;
constexpr std::int64_t most_blocks = 0x7fffffff;

template <bool shared>
struct DeviceBlock {
    template <class Body>
    __device__ __forceinline__ void each(std::int64_t first, std::int64_t last, const Body& body) const {
        for (std::int64_t i = first + threadIdx.x; i < last; i += threads) body(i);
        if (shared) __syncthreads();
    }
    __device__ __forceinline__ void add(int* count, int votes) const { atomicAdd(count, votes); }
    __device__ __forceinline__ void add(std::int64_t* count, int votes) const {
        atomicAdd(reinterpret_cast<unsigned long long*>(count), static_cast<unsigned long long>(votes));
    }
};

template <class T, bool shared>
__global__ void votes_kernel(const T* __restrict__ logits, std::int64_t* __restrict__ counts, VotesShape shape,
                             std::int64_t pieces) {
    extern __shared__ int votes[];
    for (std::int64_t work = blockIdx.x; work < shape.n * pieces; work += gridDim.x) {
        count_piece<shared>(DeviceBlock<shared>{}, logits, counts, shape, pieces, work, votes);
    }
}

}  // namespace

template <class T>
void add_votes_cuda(const T* logits, std::int64_t* counts, VotesShape shape, void* stream) {
    if (!check_votes(logits, counts, shape)) return;
    const std::int64_t pieces = votes_pieces(shape), work = shape.n * pieces;
    const auto grid = static_cast<unsigned>(work < most_blocks ? work : most_blocks);
    const auto launch_stream = static_cast<cudaStream_t>(stream);
    if (votes_shared(shape)) {
        const auto bytes = static_cast<std::size_t>(shape.classes + 1) * sizeof(int);
        votes_kernel<T, true><<<grid, threads, bytes, launch_stream>>>(logits, counts, shape, pieces);
    } else {
        votes_kernel<T, false><<<grid, threads, 0, launch_stream>>>(logits, counts, shape, pieces);
    }
    const cudaError_t error = cudaGetLastError();
    if (error != cudaSuccess) {
        throw std::runtime_error("add_votes: the launch for shape (" + std::to_string(shape.n) + ", " +
                                 std::to_string(shape.count) + ", " + std::to_string(shape.classes) +
                                 ") failed: " + cudaGetErrorString(error));
    }
}

template void add_votes_cuda(const float*, std::int64_t*, VotesShape, void*);
template void add_votes_cuda(const double*, std::int64_t*, VotesShape, void*);

}  // namespace verifix
