// The projection of one transport plan, as a block of threads does it; free of CUDA, so that tests run it on the host.
//
// A Block has two functions: pixels(count, body) calls body(p) for those of `count` pixels that are a thread's own, and
// sums(count, body) calls body(p, first, second) for these, adds up what they add to first and second in the order of
// transport_slots, and gives the totals to every thread; largest(value) is the largest value of any thread, and
// all(flag) whether it is true for all. What a pixel's plan needs, its own thread reads and writes.
#pragma once

#include "verifix/transport_project_job.h"

#if defined(__CUDACC__)
#define VERIFIX_TRANSPORT_MEMBER __device__ __forceinline__
#else
#define VERIFIX_TRANSPORT_MEMBER inline
#endif

namespace verifix {

// One row: the K numbers of a pixel at some multiplier, less the largest of them, -infinity where they leave the image.
// `fixed` is K, and the row is kept; 0: each entry is read and computed again whenever it is needed.
template <class T, int fixed>
struct TransportRow {
    const T* plan;  // of this pixel, offset 0
    const double* cost;
    int64_t offsets, window, height, width, i, j;
    double multiplier = 0, top = -__builtin_inf(), kept[fixed ? fixed : 1] = {};

    VERIFIX_TRANSPORT_MEMBER int64_t count() const { return fixed ? fixed : offsets; }

    VERIFIX_TRANSPORT_MEMBER bool inside(int64_t d) const {
        const int64_t to_i = i + d / window - window / 2, to_j = j + d % window - window / 2;
        return to_i >= 0 && to_i < height && to_j >= 0 && to_j < width;
    }

    VERIFIX_TRANSPORT_MEMBER double entry(int64_t d) const {
        return inside(d) ? static_cast<double>(plan[d * height * width]) : -__builtin_inf();
    }

    VERIFIX_TRANSPORT_MEMBER void move_to(double at) {
        multiplier = at;
        top = -__builtin_inf();
        for (int64_t d = 0; d < count(); ++d) {
            const double value = entry(d) - multiplier * cost[d];
            if (fixed) kept[fixed ? d : 0] = value;
            top = value > top ? value : top;
        }
        if (fixed) {
            for (int64_t d = 0; d < count(); ++d) kept[fixed ? d : 0] -= top;
        }
    }

    VERIFIX_TRANSPORT_MEMBER double at(int64_t d) const {
        return fixed ? kept[fixed ? d : 0] : entry(d) - multiplier * cost[d] - top;
    }

    // tau with sum max(row - tau, 0) = mass: Newton from below.
    VERIFIX_TRANSPORT_MEMBER double threshold(double mass) const {
        double tau = -mass;
        for (bool run = mass > 0; run;) {
            double total = 0, above = 0;
            for (int64_t d = 0; d < count(); ++d) {
                const double value = at(d);
                total += value > tau ? value : 0.0;
                above += value > tau ? 1.0 : 0.0;
            }
            const double following = (total - mass) / above;
            run = following > tau;
            tau = run ? following : tau;
        }
        return tau;
    }
};

template <class T, int fixed, class Block>
struct TransportImage {
    const ProjectPlan<T>& job;
    const Block& block;
    const T* plan;
    const T* x;
    T* out;
    int64_t offsets, area, pixels;

    VERIFIX_TRANSPORT_MEMBER TransportImage(const ProjectPlan<T>& job, const Block& block, int64_t image)
        : job(job), block(block), offsets(job.shape.window * job.shape.window),
          area(job.shape.height * job.shape.width), pixels(job.shape.channels * area) {
        plan = job.plan + image * pixels * offsets;
        x = job.x + image * pixels;
        out = job.out + image * pixels * offsets;
    }

    VERIFIX_TRANSPORT_MEMBER int64_t first_entry(int64_t p) const { return p / area * offsets * area + p % area; }

    VERIFIX_TRANSPORT_MEMBER TransportRow<T, fixed> row(int64_t p) const {
        TransportRow<T, fixed> found;
        found.plan = plan + first_entry(p);
        found.cost = job.cost;
        found.offsets = offsets;
        found.window = job.shape.window;
        found.height = job.shape.height;
        found.width = job.shape.width;
        found.i = p % area / job.shape.width;
        found.j = p % job.shape.width;
        return found;
    }

    VERIFIX_TRANSPORT_MEMBER bool valid() const {
        bool good = transport_costs_valid(job.cost, offsets);
        block.pixels(pixels, [&](int64_t p) {
            const double mass = static_cast<double>(x[p]);
            good = good && mass >= 0 && mass <= transport_largest;
            if (mass == 0) return;
            const auto own = row(p);
            for (int64_t d = 0; d < offsets; ++d) good = good && (!own.inside(d) || transport_entry_valid(own.entry(d)));
        });
        return block.all(good);
    }

    // A multiplier from which on nothing moves; what the plan costs as it is and how many pixels have mass; and whether
    // its rows are those of a plan, up to rounding.
    VERIFIX_TRANSPORT_MEMBER double bracket(TwoSums* sums, bool* rows_hold) const {
        double high = 0;
        bool hold = true;
        *sums = block.sums(pixels, [&](int64_t p, double& spent, double& bright) {
            const double mass = static_cast<double>(x[p]);
            if (mass == 0) return;
            const auto own = row(p);
            double free = -__builtin_inf(), total = 0, cost = 0;
            for (int64_t d = 0; d < offsets; ++d) {
                if (!own.inside(d)) continue;
                const double value = own.entry(d);
                if (job.cost[d] == 0) free = value > free ? value : free;
                total += value;
                cost += value * job.cost[d];
                hold = hold && !(value < 0);
            }
            for (int64_t d = 0; d < offsets; ++d) {
                if (!own.inside(d) || !(job.cost[d] > 0)) continue;
                const double needed = (own.entry(d) - free + mass) / job.cost[d];
                high = needed > high ? needed : high;
            }
            const double miss = total > mass ? total - mass : mass - total;
            hold = hold && miss <= static_cast<double>(offsets) * TransportNumber<T>::epsilon * mass;
            spent += cost;
            bright += 1;
        });
        *rows_hold = block.all(hold);
        return block.largest(high);
    }

    VERIFIX_TRANSPORT_MEMBER TwoSums cost_at(double multiplier) const {
        return block.sums(pixels, [&](int64_t p, double& spent, double& slope) {
            const double mass = static_cast<double>(x[p]);
            if (mass == 0) return;
            auto own = row(p);
            own.move_to(multiplier);
            const double tau = own.threshold(mass);
            double cost = 0, above = 0, first = 0, second = 0;
            for (int64_t d = 0; d < own.count(); ++d) {
                const double value = own.at(d), c = job.cost[d];
                const bool is_above = value > tau;
                cost += is_above ? (value - tau) * c : 0.0;
                above += is_above ? 1.0 : 0.0;
                first += is_above ? c : 0.0;
                second += is_above ? c * c : 0.0;
            }
            const double falls = second - first * first / above;
            spent += cost;
            slope += above > 0 && falls > 0 ? falls : 0.0;
        });
    }

    // Writes the plan of a multiplier, rows scaled to x and rounded to T, and returns what it costs.
    VERIFIX_TRANSPORT_MEMBER double settle(double multiplier) const {
        return block
            .sums(pixels,
                  [&](int64_t p, double& spent, double&) {
                      T* const target = out + first_entry(p);
                      const double mass = static_cast<double>(x[p]);
                      if (mass == 0) {
                          for (int64_t d = 0; d < offsets; ++d) target[d * area] = 0;
                          return;
                      }
                      auto own = row(p);
                      own.move_to(multiplier);
                      const double tau = own.threshold(mass);
                      double total = 0, cost = 0;
                      for (int64_t d = 0; d < own.count(); ++d) total += own.at(d) > tau ? own.at(d) - tau : 0.0;
                      const double scale = mass / total;
                      for (int64_t d = 0; d < own.count(); ++d) {
                          const double move = own.at(d) > tau ? own.at(d) - tau : 0.0;
                          const double without = d == own.count() / 2 ? mass : 0.0;
                          const T rounded = static_cast<T>(total > 0 ? move * scale : without);
                          cost += static_cast<double>(rounded) * job.cost[d];
                          target[d * area] = rounded;
                      }
                      spent += cost;
                  })
            .first;
    }

    VERIFIX_TRANSPORT_MEMBER void shrink(double kept) const {
        block.pixels(pixels, [&](int64_t p) {
            if (x[p] == 0) return;
            T* const target = out + first_entry(p);
            double returned = 0;
            for (int64_t d = 0; d < offsets; ++d) {
                if (!(job.cost[d] > 0)) continue;
                const double move = static_cast<double>(target[d * area]), smaller = transport_smaller<T>(move, kept);
                returned += move - smaller;
                target[d * area] = static_cast<T>(smaller);
            }
            T* const center = target + offsets / 2 * area;
            *center = static_cast<T>(static_cast<double>(*center) + returned);
        });
    }

    // The plan as it is, without what does not count.
    VERIFIX_TRANSPORT_MEMBER void copy() const {
        block.pixels(pixels, [&](int64_t p) {
            const auto own = row(p);
            for (int64_t d = 0; d < offsets; ++d) {
                const bool counts = x[p] != 0 && own.inside(d);
                out[first_entry(p) + d * area] = counts ? static_cast<T>(own.entry(d)) : T{0};
            }
        });
    }

    // The multiplier, of which every thread gets the same.
    VERIFIX_TRANSPORT_MEMBER double project(double budget, double start) const {
        if (!valid() || !(budget >= 0)) {
            block.pixels(pixels, [&](int64_t p) {
                for (int64_t d = 0; d < offsets; ++d) out[first_entry(p) + d * area] = static_cast<T>(transport_nan);
            });
            return transport_nan;
        }
        TwoSums sums{};
        bool rows_hold = false;
        const double high = bracket(&sums, &rows_hold);
        const double target = transport_target(budget, static_cast<double>(offsets) * sums.second);
        if (rows_hold && sums.first <= target) {
            copy();
            return 0;
        }
        const double multiplier = transport_multiplier(target, start, high, [&](double now) { return cost_at(now); });
        const double kept = transport_kept<T>(settle(multiplier), target);
        if (kept < 1) shrink(kept);
        return multiplier;
    }
};

// One entry of the image that a plan makes, and one entry of the adjoint; `index` counts entries of what is made.
template <class T>
VERIFIX_INLINE void plan_image_item(const T* plan, T* image, TransportShape shape, int64_t index) {
    const int64_t area = shape.height * shape.width, i = index % area / shape.width, j = index % shape.width;
    const int64_t offsets = shape.window * shape.window, radius = shape.window / 2;
    double total = 0;
    for (int64_t d = 0; d < offsets; ++d) {
        const int64_t from_i = i - (d / shape.window - radius), from_j = j - (d % shape.window - radius);
        if (from_i < 0 || from_i >= shape.height || from_j < 0 || from_j >= shape.width) continue;
        total += static_cast<double>(plan[(index / area * offsets + d) * area + from_i * shape.width + from_j]);
    }
    image[index] = static_cast<T>(total);
}

template <class T>
VERIFIX_INLINE void plan_gradient_item(const T* image, T* plan, TransportShape shape, int64_t index) {
    const int64_t area = shape.height * shape.width, i = index % area / shape.width, j = index % shape.width;
    const int64_t offsets = shape.window * shape.window, radius = shape.window / 2, d = index / area % offsets;
    const int64_t to_i = i + d / shape.window - radius, to_j = j + d % shape.window - radius;
    const bool inside = to_i >= 0 && to_i < shape.height && to_j >= 0 && to_j < shape.width;
    plan[index] = inside ? image[index / area / offsets * area + to_i * shape.width + to_j] : T{0};
}

}  // namespace verifix
