// The CUDA code of interval_image, run on the host: the same threads, in a loop instead of a kernel, with the bindings of
// the module. The "stream" is how many threads there are, the last of them first; 0: those of the kernel, in their order.
#include <pybind11/pybind11.h>

#include "bindings/interval_image.h"
#include "cuda/interval_image_items.h"

using namespace verifix;

namespace {

template <class Job>
void loop(const Job& job, std::uintptr_t stream) {
    if (!check_job(job)) return;
    const std::int64_t given = static_cast<std::int64_t>(stream);
    const std::int64_t threads = given == 0 ? interval_image_blocks(job.count) * interval_image_threads : given;
    for (std::int64_t i = 0; i < threads; ++i) {
        interval_image_thread(job, given == 0 ? i : threads - 1 - i, threads);
    }
}

struct HostIntervalImage {
    template <class T>
    static void image(const IntervalImage<T>& job, std::uintptr_t stream) {
        loop(job, stream);
    }
    template <class T>
    static void gradient(const IntervalImageGradient<T>& job, std::uintptr_t stream) {
        loop(job, stream);
    }
};

}  // namespace

PYBIND11_MODULE(interval_image_on_host, m) {
    bind_interval_image<HostIntervalImage, std::uintptr_t>(m, pybind11::arg("stream"));
}
