#include "verifix/relu_lines.h"

#include "relu_lines_range.h"
#include "verifix/parallel.h"

namespace verifix {
namespace {

// Below this many entries a second thread costs more than it saves.
constexpr std::int64_t entries_worth_a_thread = 16384;

template <class Job>
void run(const Job& job, bool complete, int threads, Isa isa) {
    if (job.count < 0 || (job.count > 0 && !complete)) {
        throw std::invalid_argument("relu_lines: a count of " + std::to_string(job.count) + ", or a null pointer");
    }
    if (threads < 1) throw std::invalid_argument("relu_lines: threads = " + std::to_string(threads) + ": must be >= 1");
    if (!isa_supported(isa)) throw std::invalid_argument(std::string("relu_lines: this processor lacks ") + isa_name(isa));
    if (job.count < entries_worth_a_thread) threads = 1;
    parallel_ranges(job.count, threads, [&](std::int64_t first, std::int64_t last) {
        switch (isa) {
#if defined(__x86_64__)
            case Isa::avx512:
                return avx512::relu_lines_range(job, first, last);
            case Isa::avx2:
                return avx2::relu_lines_range(job, first, last);
#endif
            default:
                return base::relu_lines_range(job, first, last);
        }
    });
}

}  // namespace

template <class T>
void relu_lines_cpu(const ReluLines<T>& job, int threads, Isa isa) {
    run(job, job.lower && job.upper && job.slope && job.offset && job.steep, threads, isa);
}

template <class T>
void relu_lines_gradient_cpu(const ReluLinesGradient<T>& job, int threads, Isa isa) {
    run(job, job.lower && job.upper && job.of_slope && job.of_offset && job.of_lower && job.of_upper, threads, isa);
}

template void relu_lines_cpu(const ReluLines<float>&, int, Isa);
template void relu_lines_cpu(const ReluLines<double>&, int, Isa);
template void relu_lines_gradient_cpu(const ReluLinesGradient<float>&, int, Isa);
template void relu_lines_gradient_cpu(const ReluLinesGradient<double>&, int, Isa);

}  // namespace verifix
