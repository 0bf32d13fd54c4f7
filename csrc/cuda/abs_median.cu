// One thread for each column. A block of threads copies the keys of its columns (the bits of |x|, which order as |x|
// does) to shared memory, where each thread reads only what it wrote itself: neighbouring threads on neighbouring
// words, and no barrier. The bits of the median are found from the top down, by counting the keys below a candidate. An
// axis too long for shared memory is read from x each time.
#include <cuda_runtime.h>

#include "verifix/abs_median.h"

namespace verifix {
namespace {

constexpr int block_threads = 128, least_threads = 32;
constexpr std::int64_t shared_bytes = 48 * 1024;  // what every device gives without asking
constexpr std::int64_t most_blocks = 0x7fffffff;

template <class T>
struct Float;

template <>
struct Float<float> {
    using Key = std::uint32_t;
    static constexpr Key infinity = 0x7f800000u, nan = 0x7fc00000u, top_bit = 0x40000000u;
    static __device__ Key bits(float value) { return __float_as_uint(value) & 0x7fffffffu; }
    static __device__ float value(Key bits) { return __uint_as_float(bits); }
};

template <>
struct Float<double> {
    using Key = unsigned long long;
    static constexpr Key infinity = 0x7ff0000000000000ull, nan = 0x7ff8000000000000ull, top_bit = 0x4000000000000000ull;
    static __device__ Key bits(double value) {
        return static_cast<Key>(__double_as_longlong(value)) & 0x7fffffffffffffffull;
    }
    static __device__ double value(Key bits) { return __longlong_as_double(static_cast<long long>(bits)); }
};

// Every NaN becomes the one canonical NaN, which is above infinity.
template <class T>
__device__ typename Float<T>::Key key_of(T value) {
    const auto bits = Float<T>::bits(value);
    return bits > Float<T>::infinity ? Float<T>::nan : bits;
}

template <class T, bool staged>
__global__ void abs_median_kernel(const T* __restrict__ x, T* __restrict__ values, std::int64_t* __restrict__ index,
                                  std::int64_t columns, int k, std::int64_t n) {
    using Key = typename Float<T>::Key;
    extern __shared__ __align__(16) unsigned char memory[];
    Key* const mine = reinterpret_cast<Key*>(memory) + threadIdx.x;
    const int stride = static_cast<int>(blockDim.x);
    const std::int64_t column = blockIdx.x * static_cast<std::int64_t>(blockDim.x) + threadIdx.x;
    if (column >= columns) return;
    const T* const source = x + column / n * k * n + column % n;

    int first_nan = k;
    for (int i = k - 1; i >= 0; --i) {
        const Key key = key_of(source[i * n]);
        if (staged) mine[i * stride] = key;
        if (key == Float<T>::nan) first_nan = i;
    }
    if (first_nan < k) {
        values[column] = Float<T>::value(Float<T>::nan);
        index[column] = first_nan;
        return;
    }

    const auto key_at = [&](int i) { return staged ? mine[i * stride] : key_of(source[i * n]); };
    const int rank = (k - 1) / 2;
    Key median = 0;
    for (Key bit = Float<T>::top_bit; bit != 0; bit >>= 1) {
        const Key candidate = median | bit;
        int below = 0;
#pragma unroll 8
        for (int i = 0; i < k; ++i) below += key_at(i) < candidate;
        if (below <= rank) median = candidate;
    }
    int first = 0;
    while (key_at(first) != median) ++first;
    values[column] = Float<T>::value(median);
    index[column] = first;
}

}  // namespace

template <class T>
void abs_median_cuda(const T* x, T* values, std::int64_t* index, AbsMedianShape shape, void* stream) {
    check_abs_median(x, values, index, shape);
    const std::int64_t columns = shape.batch * shape.n;
    if (columns == 0) return;
    const int k = static_cast<int>(shape.k);
    const std::int64_t column_bytes = shape.k * sizeof(T);
    const bool staged = column_bytes * least_threads <= shared_bytes;
    int threads = block_threads;
    while (staged && column_bytes * threads > shared_bytes) threads /= 2;
    const std::int64_t blocks = (columns - 1) / threads + 1;
    if (blocks > most_blocks) {
        throw std::invalid_argument("abs_median: " + std::to_string(columns) +
                                    " columns are more than one launch can take");
    }
    const auto launch_stream = static_cast<cudaStream_t>(stream);
    if (staged) {
        const auto bytes = static_cast<std::size_t>(column_bytes * threads);
        abs_median_kernel<T, true>
            <<<static_cast<unsigned>(blocks), threads, bytes, launch_stream>>>(x, values, index, columns, k, shape.n);
    } else {
        abs_median_kernel<T, false>
            <<<static_cast<unsigned>(blocks), threads, 0, launch_stream>>>(x, values, index, columns, k, shape.n);
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
