#include "verifix/sinkhorn.h"

#include <atomic>
#include <memory>
#include <new>
#include <vector>

#include "sinkhorn_images.h"
#include "verifix/parallel.h"

namespace verifix {
namespace {

// Below this many elements a second thread costs more than it saves.
constexpr std::int64_t elements_worth_a_thread = 1024;
constexpr std::size_t boundary = 64;

struct Free {
    void operator()(void* memory) const { ::operator delete(memory, std::align_val_t{boundary}); }
};
using Memory = std::unique_ptr<void, Free>;

Memory allocate(std::size_t bytes) { return Memory(::operator new(bytes, std::align_val_t{boundary})); }

template <class T>
void run(const Sinkhorn<T>& job, std::int64_t image, bool symmetric, const SinkhornMemory<T>& memory,
         Isa isa) noexcept {
    switch (isa) {
#if defined(__x86_64__)
        case Isa::avx512:
            return avx512::sinkhorn_image(job, image, symmetric, memory);
        case Isa::avx2:
            return avx2::sinkhorn_image(job, image, symmetric, memory);
#endif
        default:
            return base::sinkhorn_image(job, image, symmetric, memory);
    }
}

}  // namespace

template <class T>
void projected_sinkhorn_cpu(const Sinkhorn<T>& job, int threads, Isa isa) {
    if (threads < 1) throw std::invalid_argument("sinkhorn: threads = " + std::to_string(threads) + ": must be >= 1");
    if (!isa_supported(isa)) throw std::invalid_argument(std::string("sinkhorn: this processor lacks ") + isa_name(isa));
    if (!check_sinkhorn(job, true)) return;
    const SinkhornLayout layout = sinkhorn_layout(job.shape);
    const std::int64_t images = job.shape.images;
    if (images * layout.channels * layout.rows * layout.columns < elements_worth_a_thread) threads = 1;
    if (threads > images) threads = static_cast<int>(images);

    constexpr bool narrow = sizeof(T) < sizeof(double);
    const std::size_t elements = static_cast<std::size_t>(layout.elements);
    std::vector<Memory> held;
    std::vector<SinkhornMemory<T>> memory;
    for (int i = 0; i < threads; ++i) {
        held.push_back(allocate(elements * sizeof(double)));
        memory.push_back({nullptr, static_cast<double*>(held.back().get())});
        if (narrow) {
            held.push_back(allocate(elements * sizeof(T)));
            memory.back().narrow = static_cast<T*>(held.back().get());
        }
    }
    const bool symmetric = layout.radius <= sinkhorn_special_radius && symmetric_costs(job.cost, job.shape.window);
    // Images take different numbers of sweeps: whoever is free takes the next one. Nothing depends on who does.
    std::atomic<std::int64_t> next{0};
    parallel_ranges(threads, threads, [&](std::int64_t first, std::int64_t) {
        for (std::int64_t image; (image = next.fetch_add(1, std::memory_order_relaxed)) < images;) {
            run(job, image, symmetric, memory[static_cast<std::size_t>(first)], isa);
        }
    });
}

template void projected_sinkhorn_cpu(const Sinkhorn<float>&, int, Isa);
template void projected_sinkhorn_cpu(const Sinkhorn<double>&, int, Isa);

}  // namespace verifix
