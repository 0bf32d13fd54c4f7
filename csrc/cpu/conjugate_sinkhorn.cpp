#include <atomic>
#include <vector>

#include "conjugate_sinkhorn_images.h"
#include "sinkhorn_images.h"
#include "verifix/conjugate_sinkhorn_search.h"
#include "verifix/parallel.h"
#include "verifix/sinkhorn.h"
#include "verifix/transport_classes.h"

namespace verifix {
namespace {

// Below this many elements a second thread costs more than it saves.
constexpr std::int64_t elements_worth_a_thread = 1024;

struct Memory {
    std::vector<double> doubles;
    std::vector<std::int64_t> place;
    ConjugateMemory parts;

    Memory(const ConjugateLayout& layout, std::int64_t classes)
        : doubles(static_cast<std::size_t>(2 * layout.channels * layout.plane + (5 + 3 * classes) * layout.capacity +
                                           classes)),
          place(static_cast<std::size_t>(layout.capacity)) {
        double* next = doubles.data();
        const auto take = [&](std::int64_t size) {
            next += size;
            return next - size;
        };
        for (double** planes : {&parts.g, &parts.z}) *planes = take(layout.channels * layout.plane);
        for (double** line : {&parts.mass, &parts.top, &parts.level, &parts.row, &parts.near}) {
            *line = take(layout.capacity);
        }
        for (double** lines : {&parts.most, &parts.free, &parts.sum}) *lines = take(classes * layout.capacity);
        parts.price = take(classes);
        parts.place = place.data();
    }
};

template <class T>
void run(const ConjugateSinkhorn<T>& job, std::int64_t image, const ConjugateLayout& layout,
         const ConjugateWindow& window, const ConjugateMemory& memory, Isa isa) noexcept {
    switch (isa) {
#if defined(__x86_64__)
        case Isa::avx512:
            return avx512::conjugate_image(job, image, layout, window, memory);
        case Isa::avx2:
            return avx2::conjugate_image(job, image, layout, window, memory);
#endif
        default:
            return base::conjugate_image(job, image, layout, window, memory);
    }
}

}  // namespace

bool conjugate_search(ConjugateSearch& search, double cost, double slope, double budget, double tolerance,
                      std::int64_t max_sweeps) noexcept {
    return conjugate_next(search, cost, slope, budget, tolerance, max_sweeps);
}

template <class T>
void conjugate_sinkhorn_cpu(const ConjugateSinkhorn<T>& job, int threads, Isa isa) {
    if (threads < 1) throw std::invalid_argument("sinkhorn: threads = " + std::to_string(threads) + ": must be >= 1");
    if (!isa_supported(isa)) throw std::invalid_argument(std::string("sinkhorn: this processor lacks ") + isa_name(isa));
    if (!check_sinkhorn(job, true)) return;
    const auto [images, channels, rows, columns, size] = job.shape;
    const std::int64_t radius = size / 2, stride = columns + 2 * radius, pixels = channels * rows * columns;
    const std::int64_t capacity = (pixels + sinkhorn_lanes - 1) / sinkhorn_lanes * sinkhorn_lanes;
    const ConjugateLayout layout = {channels, rows, columns, radius, stride, (rows + 2 * radius) * stride, capacity};

    const TransportClasses classes(job.cost, size);
    const auto count = static_cast<std::int64_t>(classes.cost.size());
    if (capacity > (std::int64_t{1} << 40) / count) {
        throw std::invalid_argument("sinkhorn: " + sinkhorn_text(job.shape) + ": more than 2^40 elements of classes");
    }
    std::vector<std::int64_t> steps;
    for (const auto& [di, dj] : classes.offsets) steps.push_back(di * stride + dj);
    const ConjugateWindow window = {count, classes.cost.data(), classes.first.data(), steps.data()};

    if (images * pixels < elements_worth_a_thread) threads = 1;
    if (threads > images) threads = static_cast<int>(images);
    std::vector<Memory> memory;
    memory.reserve(static_cast<std::size_t>(threads));
    for (int i = 0; i < threads; ++i) memory.emplace_back(layout, count);
    // Images take different numbers of sweeps: whoever is free takes the next one. Nothing depends on who does.
    std::atomic<std::int64_t> next{0};
    parallel_ranges(threads, threads, [&](std::int64_t first, std::int64_t) {
        for (std::int64_t image; (image = next.fetch_add(1, std::memory_order_relaxed)) < images;) {
            run(job, image, layout, window, memory[static_cast<std::size_t>(first)].parts, isa);
        }
    });
}

template void conjugate_sinkhorn_cpu(const ConjugateSinkhorn<float>&, int, Isa);
template void conjugate_sinkhorn_cpu(const ConjugateSinkhorn<double>&, int, Isa);

}  // namespace verifix
