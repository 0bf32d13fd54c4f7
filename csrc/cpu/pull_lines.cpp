#include "verifix/pull_lines.h"

#include "pull_lines_images.h"
#include "verifix/parallel.h"

namespace verifix {
namespace {

// Below this many elements a second thread costs more than it saves.
constexpr std::int64_t elements_worth_a_thread = 16384;

template <class Job, class Run>
void run(const Job& job, const void* offset, int threads, Isa isa, const Run& run_images) {
    check_pull_lines(job.n, job.r, job.m, job.rows, offset);
    if (threads < 1) throw std::invalid_argument("pull_lines: threads = " + std::to_string(threads) + ": must be >= 1");
    if (!isa_supported(isa)) throw std::invalid_argument(std::string("pull_lines: this processor lacks ") + isa_name(isa));
    if (job.n * job.r * job.m < elements_worth_a_thread) threads = 1;
    parallel_ranges(job.n, threads, run_images);
}

}  // namespace

template <class T>
void pull_lines_cpu(const PullLines<T>& job, int threads, Isa isa) {
    run(job, job.offset, threads, isa, [&](std::int64_t first, std::int64_t last) {
        switch (isa) {
#if defined(__x86_64__)
            case Isa::avx512:
                return avx512::pull_lines_images(job, first, last);
            case Isa::avx2:
                return avx2::pull_lines_images(job, first, last);
#endif
            default:
                return base::pull_lines_images(job, first, last);
        }
    });
}

template <class T>
void pull_lines_gradient_cpu(const PullLinesGradient<T>& job, int threads, Isa isa) {
    run(job, job.of_offset, threads, isa, [&](std::int64_t first, std::int64_t last) {
        switch (isa) {
#if defined(__x86_64__)
            case Isa::avx512:
                return avx512::pull_lines_gradient_images(job, first, last);
            case Isa::avx2:
                return avx2::pull_lines_gradient_images(job, first, last);
#endif
            default:
                return base::pull_lines_gradient_images(job, first, last);
        }
    });
}

template void pull_lines_cpu(const PullLines<float>&, int, Isa);
template void pull_lines_cpu(const PullLines<double>&, int, Isa);
template void pull_lines_gradient_cpu(const PullLinesGradient<float>&, int, Isa);
template void pull_lines_gradient_cpu(const PullLinesGradient<double>&, int, Isa);

}  // namespace verifix
