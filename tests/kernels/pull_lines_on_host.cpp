// The CUDA code of pull_lines, run on the host: the same blocks and threads, in loops instead of kernels, with the bindings
// of the module. The "stream" is how many blocks there are, their threads last to first; 0: those of the kernel, in order.
#include <pybind11/pybind11.h>

#include "bindings/pull_lines.h"
#include "cuda/pull_lines_items.h"

using namespace verifix;

namespace {

struct HostBlock {
    bool reversed;

    template <class Body>
    void each(int, const Body& body) const {
        for (int i = 0; i < pull_lines_threads; ++i) body(reversed ? pull_lines_threads - 1 - i : i);
    }
};

struct HostPullLines {
    template <class T>
    static void rows(const PullLines<T>& job, std::uintptr_t stream) {
        check_pull_lines(job.n, job.r, job.m, job.rows, job.offset);
        const std::int64_t rows = job.n * job.r;
        if (rows == 0) return;
        const int lanes = pull_lines_lanes(job.m);
        const std::int64_t of_block = pull_lines_threads / lanes;
        const std::int64_t blocks = stream == 0 ? pull_lines_blocks(rows, of_block) : static_cast<std::int64_t>(stream);
        for (std::int64_t block = 0; block < blocks; ++block) {
            T partial[pull_lines_threads];
            for (std::int64_t first = block * of_block; first < rows; first += blocks * of_block) {
                pull_lines_rows(job, lanes, first, partial, HostBlock{stream != 0});
            }
        }
    }

    template <class T>
    static void gradient(const PullLinesGradient<T>& job, std::uintptr_t stream) {
        check_pull_lines(job.n, job.r, job.m, job.rows, job.of_offset);
        if (job.n * job.m == 0 || (job.of_rows == nullptr && !wants_lines(job))) return;
        const std::int64_t given = static_cast<std::int64_t>(stream);
        const std::int64_t blocks = given == 0 ? pull_lines_blocks(job.n * job.m, pull_lines_threads) : given;
        const std::int64_t threads = blocks * pull_lines_threads;
        for (std::int64_t i = 0; i < threads; ++i) pull_lines_gradient_thread(job, given == 0 ? i : threads - 1 - i, threads);
    }
};

}  // namespace

PYBIND11_MODULE(pull_lines_on_host, m) {
    bind_pull_lines<HostPullLines, std::uintptr_t>(m, pybind11::arg("stream"));
}
