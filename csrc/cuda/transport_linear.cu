// A warp for each pair of an image and a row; all sweeps of a pair in one launch.
#include <cuda_runtime.h>

#include "transport_linear_warp.h"

namespace verifix {
namespace {

using namespace transport;

constexpr unsigned everybody = 0xffffffffu;
constexpr int block_threads = 128;
constexpr std::int64_t most_blocks = 0x7fffffff;

struct DeviceWarp {
    int lane;

    template <class V>
    struct PerLane {
        V mine;
        __device__ V& operator[](int) { return mine; }
    };

    template <class Body>
    __device__ void each(const Body& body) const {
        body(lane);
        __syncwarp();
    }

    // Added in halves: lane l gets lane l + width, for a width of 16, 8, ... 1.
    __device__ double total(PerLane<double> x) const {
        for (int step = lanes / 2; step > 0; step /= 2) x.mine += __shfl_down_sync(everybody, x.mine, step);
        return __shfl_sync(everybody, x.mine, 0);
    }

    __device__ bool any(PerLane<int> x) const { return __any_sync(everybody, x.mine); }
    __device__ int least(PerLane<int> x) const { return __reduce_min_sync(everybody, x.mine); }
    __device__ int most(PerLane<int> x) const { return __reduce_max_sync(everybody, x.mine); }

    // How many lanes before each are flagged; and all.
    __device__ int ranks(PerLane<int> flag, PerLane<int>& rank) const {
        const unsigned votes = __ballot_sync(everybody, flag.mine);
        rank.mine = __popc(votes & ((1u << lane) - 1));
        return __popc(votes);
    }
};

template <class T>
__global__ void transport_linear_kernel(const TransportLinear<T> job, const __grid_constant__ Classes classes,
                                        unsigned char* workspace, std::int64_t bytes, std::int64_t warps) {
    const std::int64_t warp = (blockIdx.x * static_cast<std::int64_t>(blockDim.x) + threadIdx.x) / lanes;
    if (warp >= warps) return;
    const std::int64_t pixels = job.channels * job.height * job.width;
    const WarpMemory<T> memory = warp_memory<T>(workspace + warp * bytes, pixels, classes.count);
    PairOnWarp<T, DeviceWarp> on_warp(job, classes, memory, {static_cast<int>(threadIdx.x % lanes)});
    for (std::int64_t pair = warp; pair < job.pairs; pair += warps) on_warp.run(pair);
}

}  // namespace

template <class T>
void transport_linear_cuda(const TransportLinear<T>& job, void* workspace, std::int64_t bytes, void* stream) {
    const std::int64_t pixels = check_transport_linear(job);
    if (job.pairs == 0) return;
    const Classes classes = classes_of(job.cost, job.window);
    const std::int64_t warps = warps_for(job, pixels, classes, bytes);
    const std::int64_t blocks = (warps * lanes + block_threads - 1) / block_threads;
    if (blocks > most_blocks) throw std::invalid_argument("transport_linear: more pairs than one launch can take");
    transport_linear_kernel<T><<<static_cast<unsigned>(blocks), block_threads, 0, static_cast<cudaStream_t>(stream)>>>(
        job, classes, static_cast<unsigned char*>(workspace), warp_bytes<T>(pixels, classes.count), warps);
    const cudaError_t error = cudaGetLastError();
    if (error != cudaSuccess) {
        throw std::runtime_error("transport_linear: the launch for " + std::to_string(job.pairs) + " pairs of " +
                                 std::to_string(pixels) + " pixels failed: " + cudaGetErrorString(error));
    }
}

template void transport_linear_cuda(const TransportLinear<float>&, void*, std::int64_t, void*);
template void transport_linear_cuda(const TransportLinear<double>&, void*, std::int64_t, void*);

}  // namespace verifix
