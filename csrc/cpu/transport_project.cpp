#include "verifix/transport_project.h"

#include <atomic>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#include "transport_project_images.h"
#include "verifix/parallel.h"

namespace verifix {
namespace {

// Below this many entries a second thread costs more than it saves.
constexpr std::int64_t entries_worth_a_thread = 16384;
constexpr std::int64_t alignment = 64;

void check_threads(const char* name, int threads) {
    if (threads >= 1) return;
    throw std::invalid_argument(std::string(name) + ": threads = " + std::to_string(threads) + ": must be >= 1");
}

int useful_threads(TransportShape shape, int threads) {
    return transport_entries(shape) < entries_worth_a_thread ? 1 : threads;
}

struct Free {
    void operator()(double* memory) const { ::operator delete[](memory, std::align_val_t{alignment}); }
};
using Memory = std::unique_ptr<double[], Free>;

Memory aligned_memory(std::int64_t count) {
    return Memory(static_cast<double*>(
        ::operator new[](static_cast<std::size_t>(count) * sizeof(double), std::align_val_t{alignment})));
}

// The columns [first, last) that a step of `step` columns starts from and stays in the image with.
struct Columns {
    std::int64_t first, last;
    Columns(std::int64_t step, std::int64_t width) : first(step < 0 ? -step : 0), last(step > 0 ? width - step : width) {
        if (last < first) first = last = 0;
    }
};

// One channel of one image: output rows one after another, offsets one after another, sums in float64.
template <class T>
void add_up(const T* plan, T* image, TransportShape shape, double* sums) noexcept {
    const std::int64_t radius = shape.window / 2, height = shape.height, width = shape.width;
    for (std::int64_t i = 0; i < height; ++i) {
        for (std::int64_t j = 0; j < width; ++j) sums[j] = 0;
        for (std::int64_t d = 0; d < shape.window * shape.window; ++d) {
            const std::int64_t row = i - (d / shape.window - radius), step = d % shape.window - radius;
            if (row < 0 || row >= height) continue;
            const Columns from(step, width);
            const T* const source = plan + (d * height + row) * width;
            for (std::int64_t j = from.first; j < from.last; ++j) sums[j + step] += static_cast<double>(source[j]);
        }
        for (std::int64_t j = 0; j < width; ++j) image[i * width + j] = static_cast<T>(sums[j]);
    }
}

template <class T>
void spread(const T* image, T* plan, TransportShape shape) noexcept {
    const std::int64_t radius = shape.window / 2, height = shape.height, width = shape.width;
    for (std::int64_t d = 0; d < shape.window * shape.window; ++d) {
        const std::int64_t down = d / shape.window - radius, step = d % shape.window - radius;
        const Columns from(step, width);
        for (std::int64_t i = 0; i < height; ++i) {
            T* const target = plan + (d * height + i) * width;
            const bool inside = i + down >= 0 && i + down < height && from.first < from.last;
            const std::int64_t first = inside ? from.first : width, last = inside ? from.last : width;
            for (std::int64_t j = 0; j < first; ++j) target[j] = 0;
            if (inside) {
                const auto bytes = static_cast<std::size_t>(last - first) * sizeof(T);
                std::memcpy(target + first, image + (i + down) * width + first + step, bytes);
            }
            for (std::int64_t j = last; j < width; ++j) target[j] = 0;
        }
    }
}

}  // namespace

template <class T>
void project_plan_cpu(const ProjectPlan<T>& job, int threads, Isa isa) {
    if (!check_project_plan(job)) return;
    check_threads("project_plan", threads);
    if (!isa_supported(isa)) {
        throw std::invalid_argument(std::string("project_plan: this processor lacks ") + isa_name(isa));
    }
    threads = useful_threads(job.shape, threads);
    if (threads > job.shape.n) threads = static_cast<int>(job.shape.n);
    std::vector<Memory> memory;
    for (int i = 0; i < threads; ++i) memory.push_back(aligned_memory(transport_workspace(job.shape)));
    std::atomic<std::size_t> next{0};
    parallel_ranges(job.shape.n, threads, [&](std::int64_t first, std::int64_t last) {
        double* const workspace = memory[next++].get();
        switch (isa) {
#if defined(__x86_64__)
            case Isa::avx512:
                return avx512::project_plans(job, first, last, workspace);
            case Isa::avx2:
                return avx2::project_plans(job, first, last, workspace);
#endif
            default:
                return base::project_plans(job, first, last, workspace);
        }
    });
}

template <class T>
void plan_image_cpu(const T* plan, T* image, TransportShape shape, int threads) {
    check_threads("plan_image", threads);
    if (!check_plan_image(plan, image, shape)) return;
    const std::int64_t planes = shape.n * shape.channels, pixels = shape.height * shape.width;
    threads = useful_threads(shape, threads);
    const Memory sums = aligned_memory(threads * shape.width);
    std::atomic<std::int64_t> next{0};
    parallel_ranges(planes, threads, [&](std::int64_t first, std::int64_t last) {
        double* const mine = sums.get() + next++ * shape.width;
        for (std::int64_t p = first; p < last; ++p) {
            add_up(plan + p * shape.window * shape.window * pixels, image + p * pixels, shape, mine);
        }
    });
}

template <class T>
void plan_gradient_cpu(const T* image, T* plan, TransportShape shape, int threads) {
    check_threads("plan_gradient", threads);
    if (!check_plan_image(plan, image, shape)) return;
    const std::int64_t planes = shape.n * shape.channels, pixels = shape.height * shape.width;
    parallel_ranges(planes, useful_threads(shape, threads), [&](std::int64_t first, std::int64_t last) {
        for (std::int64_t p = first; p < last; ++p) {
            spread(image + p * pixels, plan + p * shape.window * shape.window * pixels, shape);
        }
    });
}

template void project_plan_cpu(const ProjectPlan<float>&, int, Isa);
template void project_plan_cpu(const ProjectPlan<double>&, int, Isa);
template void plan_image_cpu(const float*, float*, TransportShape, int);
template void plan_image_cpu(const double*, double*, TransportShape, int);
template void plan_gradient_cpu(const float*, float*, TransportShape, int);
template void plan_gradient_cpu(const double*, double*, TransportShape, int);

}  // namespace verifix
