#include "verifix/interval_image.h"

#include "interval_image_range.h"
#include "verifix/parallel.h"

namespace verifix {
namespace {

// Below this many entries a second thread costs more than it saves.
constexpr std::int64_t entries_worth_a_thread = 16384;

template <class Job>
void run(const Job& job, int threads, Isa isa) {
    if (threads < 1) {
        throw std::invalid_argument("interval_image: threads = " + std::to_string(threads) + ": must be >= 1");
    }
    if (!isa_supported(isa)) {
        throw std::invalid_argument(std::string("interval_image: this processor lacks ") + isa_name(isa));
    }
    if (!check_job(job)) return;
    if (job.count < entries_worth_a_thread) threads = 1;
    parallel_ranges(job.count, threads, [&](std::int64_t first, std::int64_t last) {
        switch (isa) {
#if defined(__x86_64__)
            case Isa::avx512:
                return avx512::interval_image_range(job, first, last);
            case Isa::avx2:
                return avx2::interval_image_range(job, first, last);
#endif
            default:
                return base::interval_image_range(job, first, last);
        }
    });
}

}  // namespace

template <class T>
void interval_image_cpu(const IntervalImage<T>& job, int threads, Isa isa) {
    run(job, threads, isa);
}

template <class T>
void interval_image_gradient_cpu(const IntervalImageGradient<T>& job, int threads, Isa isa) {
    run(job, threads, isa);
}

template void interval_image_cpu(const IntervalImage<float>&, int, Isa);
template void interval_image_cpu(const IntervalImage<double>&, int, Isa);
template void interval_image_gradient_cpu(const IntervalImageGradient<float>&, int, Isa);
template void interval_image_gradient_cpu(const IntervalImageGradient<double>&, int, Isa);

}  // namespace verifix
