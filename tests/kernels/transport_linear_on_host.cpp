// The CUDA code of transport_linear, run on the host: the same pairs, with the lanes of a warp one after the other.
// The "stream" is the order of the lanes: 0 for first to last, 1 for last to first.
#include <pybind11/pybind11.h>

#include "bindings/transport_linear.h"
#include "cuda/transport_linear_warp.h"

namespace verifix {
namespace {

using namespace transport;

struct HostWarp {
    bool backwards;

    template <class V>
    struct PerLane {
        V of[lanes];
        V& operator[](int lane) { return of[lane]; }
    };

    template <class Body>
    void each(const Body& body) const {
        for (int lane = 0; lane < lanes; ++lane) body(backwards ? lanes - 1 - lane : lane);
    }

    double total(PerLane<double> x) const {
        for (int step = lanes / 2; step > 0; step /= 2) {
            for (int lane = 0; lane < step; ++lane) x.of[lane] += x.of[lane + step];
        }
        return x.of[0];
    }

    bool any(PerLane<int> x) const {
        bool found = false;
        for (const int flag : x.of) found |= flag != 0;
        return found;
    }
    int least(PerLane<int> x) const {
        int found = x.of[0];
        for (const int value : x.of) found = value < found ? value : found;
        return found;
    }
    int most(PerLane<int> x) const {
        int found = x.of[0];
        for (const int value : x.of) found = value > found ? value : found;
        return found;
    }
    int ranks(PerLane<int> flag, PerLane<int>& rank) const {
        int found = 0;
        for (int lane = 0; lane < lanes; ++lane) {
            rank.of[lane] = found;
            found += flag.of[lane] != 0;
        }
        return found;
    }
};

}  // namespace

template <class T>
void transport_linear_cuda(const TransportLinear<T>& job, void* workspace, std::int64_t bytes, void* stream) {
    const std::int64_t pixels = check_transport_linear(job);
    if (job.pairs == 0) return;
    const Classes classes = classes_of(job.cost, job.window);
    const std::int64_t warps = warps_for(job, pixels, classes, bytes), each = warp_bytes<T>(pixels, classes.count);
    for (std::int64_t warp = 0; warp < warps; ++warp) {
        const auto memory =
            warp_memory<T>(static_cast<unsigned char*>(workspace) + warp * each, pixels, classes.count);
        PairOnWarp<T, HostWarp> on_warp(job, classes, memory, {stream != nullptr});
        for (std::int64_t pair = warp; pair < job.pairs; pair += warps) on_warp.run(pair);
    }
}

struct OnHost {
    template <class T>
    static void run(const TransportLinear<T>& job, std::uintptr_t workspace, std::int64_t bytes, std::uintptr_t stream) {
        transport_linear_cuda(job, memory<void>(workspace), bytes, memory<void>(stream));
    }
};

}  // namespace verifix

PYBIND11_MODULE(transport_linear_on_host, m) {
    verifix::bind_transport_linear<verifix::OnHost, std::uintptr_t, std::int64_t, std::uintptr_t>(
        m, pybind11::arg("workspace"), pybind11::arg("bytes"), pybind11::arg("stream"));
}
