// A block of threads counts a piece of the rows of one input in shared memory, one row for each thread in turn, and adds
// what it counted to the counts. With very many classes each vote goes to the counts at once. Whole numbers may be added
// in any order.
#include <cuda_runtime.h>

#include "verifix/votes.h"

namespace verifix {
namespace {

constexpr int threads = 256;
constexpr std::int64_t rows_of_piece = 4096, most_shared = 4096, most_blocks = 0x7fffffff;

__device__ void add(std::int64_t* count, std::int64_t votes) {
    atomicAdd(reinterpret_cast<unsigned long long*>(count), static_cast<unsigned long long>(votes));
}

template <class T, bool shared>
__global__ void votes_kernel(const T* __restrict__ logits, std::int64_t* __restrict__ counts, VotesShape shape,
                             std::int64_t pieces) {
    extern __shared__ int votes[];
    const std::int64_t columns = shape.classes + 1;
    for (std::int64_t work = blockIdx.x; work < shape.n * pieces; work += gridDim.x) {
        const std::int64_t input = work / pieces, first = work % pieces * rows_of_piece;
        const std::int64_t last = first + rows_of_piece < shape.count ? first + rows_of_piece : shape.count;
        if (shared) {
            for (std::int64_t c = threadIdx.x; c < columns; c += threads) votes[c] = 0;
            __syncthreads();
        }
        for (std::int64_t row = first + threadIdx.x; row < last; row += threads) {
            const std::int64_t top = vote(logits + (input * shape.count + row) * shape.classes, shape.classes);
            if (shared) {
                atomicAdd(votes + top, 1);
            } else {
                add(counts + input * columns + top, 1);
            }
        }
        if (shared) {
            __syncthreads();
            for (std::int64_t c = threadIdx.x; c < columns; c += threads) {
                if (votes[c] != 0) add(counts + input * columns + c, votes[c]);
            }
            __syncthreads();
        }
    }
}

}  // namespace

template <class T>
void add_votes_cuda(const T* logits, std::int64_t* counts, VotesShape shape, void* stream) {
    if (!check_votes(logits, counts, shape)) return;
    const std::int64_t pieces = (shape.count - 1) / rows_of_piece + 1, work = shape.n * pieces;
    const auto grid = static_cast<unsigned>(work < most_blocks ? work : most_blocks);
    const auto launch_stream = static_cast<cudaStream_t>(stream);
    const std::int64_t columns = shape.classes + 1;
    if (columns <= most_shared) {
        const auto bytes = static_cast<std::size_t>(columns) * sizeof(int);
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
