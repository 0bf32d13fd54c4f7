// The CUDA code of projected and conjugate Sinkhorn, run on the host: the same functions, with loops in place of threads, under the
// bindings of the module. The "stream" is the order of the items: 0 for first to last, 1 for last to first.
#include <pybind11/pybind11.h>

#include "bindings/sinkhorn.h"
#include "cuda/conjugate_sinkhorn_block.h"
#include "cuda/sinkhorn_block.h"

using namespace verifix;

namespace {

class Loops {
public:
    explicit Loops(bool backwards) : backwards_(backwards) {}

    template <class Body>
    void each(std::int64_t count, const Body& body) const {
        for (std::int64_t i = 0; i < count; ++i) body(backwards_ ? count - 1 - i : i);
    }

    // Forwards and backwards give the same sums: what items add is kept, and added in one order.
    template <int N, class Body>
    void sums(std::int64_t count, double (&total)[N], const Body& body) const {
        std::vector<std::array<double, N>> parts(static_cast<std::size_t>(count));
        each(count, [&](std::int64_t i) { body(i, parts[static_cast<std::size_t>(i)].data()); });
        for (int n = 0; n < N; ++n) total[n] = 0;
        for (const auto& part : parts) {
            for (int n = 0; n < N; ++n) total[n] += part[static_cast<std::size_t>(n)];
        }
    }

private:
    bool backwards_;
};

struct HostSinkhorn {
    template <class T>
    static void projected(const Sinkhorn<T>& job, std::uintptr_t workspace, std::uintptr_t stream) {
        if (!check_sinkhorn(job, false)) return;
        const Loops loops(stream != 0);
        double* const wide = reinterpret_cast<double*>(workspace);
        T* const narrow = reinterpret_cast<T*>(wide + sinkhorn_block::elements(job.shape));
        for (std::int64_t image = 0; image < job.shape.images; ++image) {
            sinkhorn_block::project(job, image, loops, narrow, wide);
        }
    }

    template <class T>
    static void conjugate(const ConjugateSinkhorn<T>& job, std::uintptr_t workspace, std::uintptr_t stream) {
        if (!check_sinkhorn(job, false)) return;
        const Loops loops(stream != 0);
        for (std::int64_t image = 0; image < job.shape.images; ++image) {
            sinkhorn_block::maximise(job, image, loops, reinterpret_cast<double*>(workspace));
        }
    }
};

}  // namespace

PYBIND11_MODULE(sinkhorn_on_host, m) {
    bind_sinkhorn<HostSinkhorn, std::uintptr_t, std::uintptr_t>(m, py::arg("workspace"), py::arg("stream"));
    m.def("sinkhorn_workspace", [](const std::array<std::int64_t, 5>& s) {
        return sinkhorn_block::workspace({s[0], s[1], s[2], s[3], s[4]});
    });
}
