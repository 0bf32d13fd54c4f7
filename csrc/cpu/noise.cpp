#include "verifix/noise.h"

#include "noise_rows.h"
#include "verifix/parallel.h"

namespace verifix {
namespace {

// Below this many numbers a second thread costs more than it saves.
constexpr std::int64_t numbers_worth_a_thread = 16384;

template <class Job>
void run(const Job& job, int threads, Isa isa) {
    if (threads < 1) throw std::invalid_argument("noise: threads = " + std::to_string(threads) + ": must be >= 1");
    if (!isa_supported(isa)) throw std::invalid_argument(std::string("noise: this processor lacks ") + isa_name(isa));
    const std::int64_t count = job.names.n * job.names.count;
    if (count * job.names.d < numbers_worth_a_thread) threads = 1;
    parallel_ranges(count, threads, [&](std::int64_t first, std::int64_t last) {
        switch (isa) {
#if defined(__x86_64__)
            case Isa::avx512:
                return avx512::noise_rows(job, first, last);
            case Isa::avx2:
                return avx2::noise_rows(job, first, last);
#endif
            default:
                return base::noise_rows(job, first, last);
        }
    });
}

}  // namespace

template <class T>
void add_noise_cpu(const AddNoise<T>& job, int threads, Isa isa) {
    if (check_noise(job.names, job.x, job.out)) run(job, threads, isa);
}

template <class T>
void add_lattice_noise_cpu(const AddLatticeNoise<T>& job, int threads, Isa isa) {
    if (check_noise(job.names, job.positions, job.out)) run(job, threads, isa);
}

template <class T>
void keep_or_replace_cpu(const KeepOrReplace<T>& job, int threads, Isa isa) {
    check_replacement(job.threshold, job.levels);
    if (check_noise(job.names, job.positions, job.out)) run(job, threads, isa);
}

void random_words_cpu(const RandomWords& job, int threads, Isa isa) {
    if (check_noise(job.names, job.names.inputs, job.out)) run(job, threads, isa);
}

template void add_noise_cpu(const AddNoise<float>&, int, Isa);
template void add_noise_cpu(const AddNoise<double>&, int, Isa);
template void add_lattice_noise_cpu(const AddLatticeNoise<float>&, int, Isa);
template void add_lattice_noise_cpu(const AddLatticeNoise<double>&, int, Isa);
template void keep_or_replace_cpu(const KeepOrReplace<float>&, int, Isa);
template void keep_or_replace_cpu(const KeepOrReplace<double>&, int, Isa);

}  // namespace verifix
