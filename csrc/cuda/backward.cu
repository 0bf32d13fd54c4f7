// Kernels of backward passes: one block for some items of a pair, or for a sum over all entries of a node.
#include <cuda_runtime.h>

#include "backward_pass.h"

namespace verifix {
namespace {

constexpr int warps = 4;  // of a block that runs items

template <class Step>
__global__ void __launch_bounds__(warps* gather::lanes)
    items_kernel(const __grid_constant__ Step step, std::int64_t count) {
    const std::int64_t item = static_cast<std::int64_t>(blockIdx.x) * warps + threadIdx.y;
    if (item >= count) return;
    step(static_cast<std::int32_t>(blockIdx.y), static_cast<std::int32_t>(item), static_cast<int>(threadIdx.x));
}

template <class T, template <class> class Sum>
__global__ void __launch_bounds__(gather::parts* gather::lanes) sums_kernel(const __grid_constant__ Sum<T> sum) {
    __shared__ gather::Sums<T> found[gather::parts][gather::lanes];
    const auto pair = static_cast<std::int32_t>(blockIdx.x);
    const int lane = static_cast<int>(threadIdx.x), part = static_cast<int>(threadIdx.y);
    found[part][lane] = sum.part(pair, part, lane);
    __syncthreads();
    if (part > 0) return;
    gather::Sums<T> total = found[0][lane];
    for (int i = 1; i < gather::parts; ++i) sum.combine(total, found[i][lane]);
    sum.finish(pair, lane, total);
}

class Kernels {
public:
    explicit Kernels(void* stream) : stream_(static_cast<cudaStream_t>(stream)) {}

    template <class Step>
    void items(const Step& step, std::int32_t pairs, std::int64_t count) {
        const dim3 grid(static_cast<unsigned>((count - 1) / warps + 1), static_cast<unsigned>(pairs));
        items_kernel<<<grid, dim3(gather::lanes, warps), 0, stream_>>>(step, count);
        check();
    }

    template <class T, template <class> class Sum>
    void sums(const Sum<T>& sum, std::int32_t pairs) {
        sums_kernel<<<static_cast<unsigned>(pairs), dim3(gather::lanes, gather::parts), 0, stream_>>>(sum);
        check();
    }

private:
    static void check() {
        const cudaError_t error = cudaGetLastError();
        if (error != cudaSuccess) throw std::runtime_error(std::string("backward pass: a launch failed: ") + cudaGetErrorString(error));
    }

    cudaStream_t stream_;
};

}  // namespace

template <class T>
void backward_cuda(const BackwardSchedule<T>& schedule, const BackwardRequest<T>& request, const BackwardMemory& memory,
                   void* stream) {
    Kernels kernels(stream);
    BackwardPass<T, Kernels>(schedule, request, memory, kernels).run();
}

template void backward_cuda(const BackwardSchedule<float>&, const BackwardRequest<float>&, const BackwardMemory&, void*);
template void backward_cuda(const BackwardSchedule<double>&, const BackwardRequest<double>&, const BackwardMemory&, void*);

}  // namespace verifix
