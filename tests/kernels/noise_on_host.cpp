// The CUDA code of noise, run on the host: the same items, in loops instead of kernels, with the bindings of the module.
// The "stream" is the order of the items: 0 for first to last, 1 for last to first; both must give the same bits.
#include <pybind11/pybind11.h>

#include "bindings/noise.h"
#include "cuda/noise_items.h"

using namespace verifix;

namespace {

struct HostNoise {
    template <class Job>
    static void loop(const Job& job, const void* source, std::uintptr_t order) {
        if (!check_noise(job.names, source, job.out)) return;
        const std::int64_t blocks = noise_blocks(job.names), items = job.names.n * job.names.count * blocks;
        for (std::int64_t i = 0; i < items; ++i) {
            const std::int64_t item = order == 0 ? i : items - 1 - i;
            noise_item(job, item / blocks, item % blocks);
        }
    }
    template <class T>
    static void add_noise(const AddNoise<T>& job, std::uintptr_t order) {
        loop(job, job.x, order);
    }
    template <class T>
    static void add_lattice_noise(const AddLatticeNoise<T>& job, std::uintptr_t order) {
        loop(job, job.positions, order);
    }
    template <class T>
    static void keep_or_replace(const KeepOrReplace<T>& job, std::uintptr_t order) {
        loop(job, job.positions, order);
    }
    static void random_words(const RandomWords& job, std::uintptr_t order) { loop(job, job.names.inputs, order); }
};

}  // namespace

PYBIND11_MODULE(noise_on_host, m) { bind_noise<HostNoise, std::uintptr_t>(m, py::arg("stream")); }
