#include "verifix/narrow_adjoint.h"

#include "narrow_adjoint_images.h"
#include "verifix/parallel.h"

namespace verifix {
namespace {

// Below this many elements of the rows a second thread costs more than it saves.
constexpr std::int64_t elements_worth_a_thread = 16384;

template <class T, class Run>
void run(const NarrowShape& shape, bool complete, int threads, Isa isa, const Run& run_images) {
    check_narrow<T>(shape);
    if (!complete && shape.n > 0) throw std::invalid_argument("narrow_adjoint: a null pointer");
    if (threads < 1) throw std::invalid_argument("narrow_adjoint: threads = " + std::to_string(threads) + ": must be >= 1");
    if (!isa_supported(isa)) throw std::invalid_argument(std::string("narrow_adjoint: this processor lacks ") + isa_name(isa));
    if (shape.n * shape.height * shape.width * shape.channels < elements_worth_a_thread) threads = 1;
    parallel_ranges(shape.n, threads, run_images);
}

}  // namespace

template <class T>
void narrow_adjoint_cpu(const NarrowAdjoint<T>& job, int threads, Isa isa) {
    run<T>(job.shape, job.rows != nullptr && job.weight != nullptr && job.result != nullptr, threads, isa,
        [&](std::int64_t first, std::int64_t last) {
        switch (isa) {
#if defined(__x86_64__)
            case Isa::avx512:
                return avx512::narrow_adjoint_images(job, first, last);
            case Isa::avx2:
                return avx2::narrow_adjoint_images(job, first, last);
#endif
            default:
                return base::narrow_adjoint_images(job, first, last);
        }
    });
}

template <class T>
void narrow_adjoint_gradient_cpu(const NarrowAdjointGradient<T>& job, int threads, Isa isa) {
    run<T>(job.shape, job.rows != nullptr && job.weight != nullptr && job.of_result != nullptr, threads, isa,
        [&](std::int64_t first, std::int64_t last) {
        switch (isa) {
#if defined(__x86_64__)
            case Isa::avx512:
                return avx512::narrow_adjoint_gradient_images(job, first, last);
            case Isa::avx2:
                return avx2::narrow_adjoint_gradient_images(job, first, last);
#endif
            default:
                return base::narrow_adjoint_gradient_images(job, first, last);
        }
    });
}

template void narrow_adjoint_cpu(const NarrowAdjoint<float>&, int, Isa);
template void narrow_adjoint_cpu(const NarrowAdjoint<double>&, int, Isa);
template void narrow_adjoint_gradient_cpu(const NarrowAdjointGradient<float>&, int, Isa);
template void narrow_adjoint_gradient_cpu(const NarrowAdjointGradient<double>&, int, Isa);

}  // namespace verifix
