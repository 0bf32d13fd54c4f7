// One thread for each column. A block of threads copies the keys of its columns (the bits of |x|, which order as |x|
// does) to shared memory, where each thread reads only what it wrote itself: neighbouring threads on neighbouring
// words, and no barrier. The bits of the median are found from the top down, by counting the keys below a candidate. An
// axis too long for shared memory is read from x each time.
#include <cuda_runtime.h>

#include "abs_median_column.h"
#include "verifix/abs_median.h"

namespace verifix {
namespace {

constexpr std::int64_t most_blocks = 0x7fffffff;

template <class T, bool staged>
__global__ void abs_median_kernel(const T* __restrict__ x, T* __restrict__ values, std::int64_t* __restrict__ index,
                                  std::int64_t columns, int k, std::int64_t n) {
    extern __shared__ __align__(16) unsigned char memory[];
    const std::int64_t column = blockIdx.x * static_cast<std::int64_t>(blockDim.x) + threadIdx.x;
    if (column >= columns) return;
    median_of_column<T, staged>(x + column / n * k * n + column % n, k, n,
                                reinterpret_cast<typename MedianKey<T>::Key*>(memory) + threadIdx.x,
                                static_cast<int>(blockDim.x), values + column, index + column);
}

}  // namespace

template <class T>
void abs_median_cuda(const T* x, T* values, std::int64_t* index, AbsMedianShape shape, void* stream) {
    check_abs_median(x, values, index, shape);
    const std::int64_t columns = shape.batch * shape.n;
    if (columns == 0) return;
    const int k = static_cast<int>(shape.k);
    const MedianBlock block = median_block<T>(shape.k);
    const std::int64_t blocks = (columns - 1) / block.threads + 1;
    if (blocks > most_blocks) {
        throw std::invalid_argument("abs_median: " + std::to_string(columns) +
                                    " columns are more than one launch can take");
    }
    const auto launch_stream = static_cast<cudaStream_t>(stream);
    if (block.staged) {
        const auto bytes = static_cast<std::size_t>(block.bytes);
        abs_median_kernel<T, true>
            <<<static_cast<unsigned>(blocks), block.threads, bytes, launch_stream>>>(x, values, index, columns, k, shape.n);
    } else {
        abs_median_kernel<T, false>
            <<<static_cast<unsigned>(blocks), block.threads, 0, launch_stream>>>(x, values, index, columns, k, shape.n);
    }
    const cudaError_t error = cudaGetLastError();
    if (error != cudaSuccess) {
        throw std::runtime_error("abs_median: the launch for shape (" + std::to_string(shape.batch) + ", " +
                                 std::to_string(shape.k) + ", " + std::to_string(shape.n) +
                                 ") failed: " + cudaGetErrorString(error));
    }
}

template void abs_median_cuda(const float*, float*, std::int64_t*, AbsMedianShape, void*);
template void abs_median_cuda(const double*, double*, std::int64_t*, AbsMedianShape, void*);

}  // namespace verifix
