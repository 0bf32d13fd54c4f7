#include "verifix/transport_linear.h"

#include <algorithm>
#include <atomic>
#include <vector>

#include "transport_linear_pairs.h"
#include "verifix/parallel.h"
#include "verifix/transport_classes.h"
#include "verifix/transport_linear_arithmetic.h"

namespace verifix {
namespace {

// Below this many pixels a second thread costs more than it saves.
constexpr std::int64_t pixels_worth_a_thread = 1024;

// Memory of a worker, and where its parts are.
template <class T>
struct Memory {
    std::vector<T> padded, largest;
    std::vector<double> mass, values, image, price;
    std::vector<std::int32_t> place;
    std::vector<TransportBox> boxes;
    TransportScratch<T> scratch;

    Memory(const TransportLinear<T>& job, std::int64_t size, std::int64_t classes) {
        const std::int64_t capacity = (size + transport::lanes - 1) / transport::lanes * transport::lanes;
        padded.resize(job.channels * (job.height + job.window - 1) * (job.width + job.window - 1));
        largest.resize(classes * size);
        mass.resize(capacity);
        values.resize(classes * capacity);
        place.resize(capacity);
        image.resize(job.z == nullptr ? 0 : size);
        price.resize(classes);
        boxes.resize(job.channels);
        scratch = {capacity,     padded.data(), largest.data(), mass.data(), values.data(),
                   place.data(), image.data(),  price.data(),   boxes.data()};
    }
};

template <class T>
void run_pairs(const TransportPairs<T>& job, const TransportScratch<T>& scratch, std::int64_t first, std::int64_t last,
               Isa isa) noexcept {
    switch (isa) {
#if defined(__x86_64__)
        case Isa::avx512:
            return avx512::transport_linear_pairs(job, scratch, first, last);
        case Isa::avx2:
            return avx2::transport_linear_pairs(job, scratch, first, last);
#endif
        default:
            return base::transport_linear_pairs(job, scratch, first, last);
    }
}

void check_indices(const char* name, const std::int64_t* index, std::int64_t count, std::int64_t end) {
    for (std::int64_t k = 0; k < count; ++k) {
        if (index[k] < 0 || index[k] >= end) {
            throw std::invalid_argument("transport_linear: " + std::string(name) + "[" + std::to_string(k) + "] = " +
                                        std::to_string(index[k]) + ": must be from 0 to " + std::to_string(end - 1));
        }
    }
}

}  // namespace

template <class T>
void transport_linear_cpu(const TransportLinear<T>& job, int threads, Isa isa) {
    const std::int64_t size = check_transport_linear(job);
    if (threads < 1) {
        throw std::invalid_argument("transport_linear: threads = " + std::to_string(threads) + ": must be >= 1");
    }
    if (!isa_supported(isa)) {
        throw std::invalid_argument(std::string("transport_linear: this processor lacks ") + isa_name(isa));
    }
    if (job.pairs == 0) return;
    check_indices("image", job.image, job.pairs, job.images);
    check_indices("row", job.row, job.pairs, job.rows);
    const TransportClasses classes(job.cost, job.window);
    std::vector<TransportOffset> offsets;
    for (const auto& [di, dj] : classes.offsets) offsets.push_back({di, dj});
    const TransportPairs<T> pairs{job.channels, job.height, job.width, job.window / 2,
                                  static_cast<std::int32_t>(classes.cost.size()),
                                  job.x, job.g, job.image, job.row, offsets.data(), classes.first.data(),
                                  classes.cost.data(), job.budget, job.upper, job.multiplier, job.z, job.value,
                                  job.plan_cost};
    if (job.pairs * size < pixels_worth_a_thread) threads = 1;
    threads = static_cast<int>(std::min<std::int64_t>(threads, job.pairs));
    std::vector<Memory<T>> memory;
    memory.reserve(threads);
    for (int worker = 0; worker < threads; ++worker) {
        memory.emplace_back(job, size, static_cast<std::int64_t>(classes.cost.size()));
    }
    std::atomic<int> workers{0};
    parallel_ranges(job.pairs, threads, [&](std::int64_t first, std::int64_t last) {
        run_pairs(pairs, memory[workers.fetch_add(1)].scratch, first, last, isa);
    });
}

template void transport_linear_cpu(const TransportLinear<float>&, int, Isa);
template void transport_linear_cpu(const TransportLinear<double>&, int, Isa);

}  // namespace verifix
