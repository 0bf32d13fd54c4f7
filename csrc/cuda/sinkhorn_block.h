// Projected Sinkhorn for one image, by all threads of a block together: the iteration of csrc/cpu/sinkhorn.inl, with any
// costs offset by offset. `Block` says what together means: each(count, body) calls body(i) for all i and then waits for
// all; sums(count, total, body) does so with body(i, sums), which adds to sums, and gives every thread their totals. Sums
// are in double, in an order that depends on nothing but the count.
#pragma once

#include <math.h>
#include <stdint.h>

#include "verifix/inline.h"
#include "verifix/sinkhorn_job.h"
#include "verifix/sinkhorn_step.h"

// Not inlined: all of it inside one kernel takes a minute to compile.
#if defined(__CUDACC__)
#define VERIFIX_SINKHORN_MEMBER __host__ __device__ __noinline__
#else
#define VERIFIX_SINKHORN_MEMBER
#endif

namespace verifix {
namespace sinkhorn_block {

constexpr int64_t fields = 4;    // x, target, exponent, velocity
constexpr int64_t bordered = 2;  // v, u
constexpr int64_t weights = 4;   // of an offset: itself, times the cost, times its square, times lambda

VERIFIX_INLINE int64_t elements(const SinkhornShape& shape) {
    const int64_t border = shape.window - 1;
    return shape.channels * (fields * shape.rows * shape.columns +
                             bordered * (shape.rows + border) * (shape.columns + border)) +
           weights * shape.window * shape.window;
}

// Blocks that are there at a time, and the memory of all of them in bytes: of each, wide and narrow elements.
constexpr int64_t most_blocks = 1024;

VERIFIX_INLINE int64_t blocks(const SinkhornShape& shape) {
    return shape.images < most_blocks ? shape.images : most_blocks;
}

VERIFIX_INLINE int64_t workspace(const SinkhornShape& shape) {
    return blocks(shape) * elements(shape) * static_cast<int64_t>(sizeof(double) + sizeof(float));
}

struct Found {
    double residual, cost, second;
};

template <class T, class Block>
class Iterates {
public:
    VERIFIX_SINKHORN_MEMBER Iterates(const Block& block, const SinkhornShape& shape, const SinkhornRule& rule,
                                   const double* cost, T* memory)
        : block_(block), shape_(shape), rule_(rule), cost_(cost), pixels_(shape.channels * shape.rows * shape.columns),
          radius_(shape.window / 2), stride_(shape.columns + 2 * radius_),
          plane_((shape.rows + 2 * radius_) * stride_) {
        x_ = memory;
        target_ = x_ + pixels_;
        exponent_ = target_ + pixels_;
        velocity_ = exponent_ + pixels_;
        v_ = velocity_ + pixels_;
        u_ = v_ + shape.channels * plane_;
        weight_ = u_ + shape.channels * plane_;
    }

    template <class Source>
    VERIFIX_SINKHORN_MEMBER void start(const Source* x, const Source* w, double mass) {
        const double lowest = -SinkhornNumbers<double>::largest * sinkhorn_log_2;
        block_.each(2 * shape_.channels * plane_, [&](int64_t i) { v_[i] = 0; });
        block_.each(pixels_, [&](int64_t i) {
            x_[i] = static_cast<T>(static_cast<double>(x[i]) / mass);
            u_[at(i)] = x_[i];
            exponent_[i] = velocity_[i] = 0;
        });
        begin(0, 1);
        // Nothing arrives where no mass is near: there z = 0 = w - beta / lambda, whatever w is.
        block_.each(pixels_, [&](int64_t i) {
            const double target = rule_.regularisation * (static_cast<double>(w[i]) / mass);
            target_[i] = column(i) > 0 ? static_cast<T>(larger(target, lowest)) : T{0};
        });
        set_v();
    }

    template <class Other>
    VERIFIX_SINKHORN_MEMBER void take(const Other* exponent) {
        block_.each(pixels_, [&](int64_t i) { exponent_[i] = static_cast<T>(exponent[i]); });
        set_v();
    }

    VERIFIX_INLINE_MEMBER const T* exponent() const { return exponent_; }

    // Whether an exponent is held where numbers end.
    VERIFIX_SINKHORN_MEMBER bool held() const {
        double total[1];
        block_.sums(pixels_, total, [&](int64_t i, double* sum) {
            sum[0] += absolute(exponent_[i]) >= SinkhornNumbers<T>::largest ? 1 : 0;
        });
        return total[0] > 0;
    }

    VERIFIX_SINKHORN_MEMBER Found sweep(double multiplier, int64_t age) {
        const T relaxation = static_cast<T>((age == 0 ? 1 : rule_.relaxation) / sinkhorn_log_2);
        const T momentum = age == 0 ? T{0} : static_cast<T>(sinkhorn_momentum(rule_.momentum, age));
        begin(multiplier, rule_.regularisation);
        Found found{0, 0, 0};
        rows(found);
        double total[1];
        block_.sums(pixels_, total, [&](int64_t i, double* sum) {
            const int64_t there = at(i);
            const T exponent = exponent_[i], columns = column(i) * v_[there];
            const T error = column_error<T>(target_[i], exponent, columns);
            sum[0] += static_cast<double>(absolute(error));
            T velocity = velocity_[i];
            const T next = next_exponent<T>(exponent, error, columns, velocity, relaxation, momentum);
            velocity_[i] = velocity;
            exponent_[i] = next;
            v_[there] = power_of_two<T>(next);
        });
        found.residual = total[0] / rule_.regularisation;
        return found;
    }

    // Puts lambda times the column sums of the plan with rows x in place of v; of it, `kept` is within the budget.
    VERIFIX_SINKHORN_MEMBER Found finish(double multiplier, double eps, double& kept) {
        begin(multiplier, rule_.regularisation);
        Found found{0, 0, 0};
        rows(found);
        block_.each(pixels_, [&](int64_t i) { v_[at(i)] *= column(i); });
        kept = found.cost <= sinkhorn_certain * eps ? 1.0 : sinkhorn_certain * eps / found.cost;
        found.cost *= kept;
        const T scale = static_cast<T>(kept), rest = static_cast<T>(rule_.regularisation * (1 - kept));
        double total[1];
        block_.sums(pixels_, total, [&](int64_t i, double* sum) {
            const T columns = v_[at(i)] * scale + x_[i] * rest;
            sum[0] += static_cast<double>(absolute(column_error<T>(target_[i], exponent_[i], columns)));
        });
        found.residual = total[0] / rule_.regularisation;
        return found;
    }

    template <class Source>
    VERIFIX_SINKHORN_MEMBER void write(const Source* x, double mass, double kept, Source* z) const {
        const double scale = kept / rule_.regularisation * mass, rest = 1 - kept;
        block_.each(pixels_, [&](int64_t i) {
            z[i] = static_cast<Source>(static_cast<double>(v_[at(i)]) * scale + static_cast<double>(x[i]) * rest);
        });
    }

private:
    // Of a pixel, where borders count.
    VERIFIX_INLINE_MEMBER int64_t at(int64_t i) const {
        const int64_t row = i / shape_.columns, channel = row / shape_.rows;
        return channel * plane_ + (row - channel * shape_.rows + radius_) * stride_ + i - row * shape_.columns + radius_;
    }

    VERIFIX_SINKHORN_MEMBER void begin(double multiplier, double regularisation) {
        block_.each(shape_.window * shape_.window, [&](int64_t d) {
            const double weight = sinkhorn_weight(multiplier, cost_[d]);
            weight_[weights * d] = static_cast<T>(weight);
            weight_[weights * d + 1] = static_cast<T>(weight * cost_[d]);
            weight_[weights * d + 2] = static_cast<T>(weight * cost_[d] * cost_[d]);
            weight_[weights * d + 3] = static_cast<T>(regularisation * weight);
        });
    }

    // u from v, so that the plan has rows x; its cost.
    VERIFIX_SINKHORN_MEMBER void rows(Found& found) {
        double total[2];
        block_.sums(pixels_, total, [&](int64_t i, double* sum) {
            const int64_t there = at(i);
            T row = 0, cost = 0, squared = 0;
            const T* weight = weight_;
            for (int64_t a = -radius_; a <= radius_; ++a) {
                const T* const v = v_ + there + a * stride_;
                for (int64_t b = -radius_; b <= radius_; ++b, weight += weights) {
                    row += v[b] * weight[0];
                    cost += v[b] * weight[1];
                    squared += v[b] * weight[2];
                }
            }
            const T scale = x_[i] / larger(row, SinkhornNumbers<T>::smallest);
            u_[there] = scale;
            sum[0] += static_cast<double>(scale * cost);
            sum[1] += static_cast<double>(scale * squared);
        });
        found.cost = total[0];
        found.second = total[1];
    }

    // Lambda times what arrives, but for the factor v.
    VERIFIX_INLINE_MEMBER T column(int64_t i) const {
        const int64_t there = at(i);
        T sum = 0;
        const T* weight = weight_ + 3;
        for (int64_t a = -radius_; a <= radius_; ++a) {
            const T* const u = u_ + there - a * stride_;
            for (int64_t b = -radius_; b <= radius_; ++b, weight += weights) sum += u[-b] * weight[0];
        }
        return sum;
    }

    VERIFIX_SINKHORN_MEMBER void set_v() {
        block_.each(pixels_, [&](int64_t i) { v_[at(i)] = power_of_two<T>(exponent_[i]); });
    }

    const Block& block_;
    const SinkhornShape shape_;
    const SinkhornRule rule_;
    const double* cost_;
    int64_t pixels_, radius_, stride_, plane_;
    T *x_, *target_, *exponent_, *velocity_, *v_, *u_, *weight_;
};

struct Progress {
    double multiplier = 1, residual = HUGE_VAL, before = HUGE_VAL;
    int64_t sweeps = 0, age = 0;
};

template <class Iterates>
VERIFIX_SINKHORN_MEMBER void advance(Iterates& iterates, Progress& progress, const SinkhornRule& rule, double eps) {
    bool done = false;
    while (!done && progress.sweeps < rule.max_sweeps) {
        progress.age = progress.residual > progress.before ? 0 : progress.age + 1;
        const Found found = iterates.sweep(progress.multiplier, progress.age);
        done = sinkhorn_satisfied(found.residual, found.cost, progress.multiplier, eps, rule.tolerance);
        progress.before = progress.residual;
        progress.residual = found.residual;
        progress.multiplier = next_multiplier(progress.multiplier, found.cost, found.second, eps);
        progress.sweeps += 1;
    }
}

template <class T>
VERIFIX_INLINE void write_numbers(const Sinkhorn<T>& job, int64_t image, double residual, double cost,
                                  double multiplier, int64_t sweeps, bool converged) {
    job.column_residual[image] = residual;
    job.plan_cost[image] = cost;
    job.multiplier[image] = multiplier;
    job.sweeps[image] = sweeps;
    job.converged[image] = converged;
}

// The mass of an image, and whether it, what belongs to it, and the costs of the window can be used.
struct Look {
    double mass;
    bool usable;
};

template <class T, class Block>
VERIFIX_SINKHORN_MEMBER Look look_at(const Block& block, const T* x, const T* w, int64_t size, const double* costs,
                                     int64_t window) {
    double found[2], bad_costs[1];
    block.sums(size, found, [&](int64_t i, double* sum) {
        const double source = static_cast<double>(x[i]), difference = static_cast<double>(w[i]) - source;
        sum[0] += source;
        sum[1] += source >= 0 && difference - difference == 0 ? 0 : 1;
    });
    const int64_t offsets = window * window;
    block.sums(offsets, bad_costs, [&](int64_t d, double* sum) {
        const double cost = costs[d];
        sum[0] += d == offsets / 2 ? cost != 0 : !(cost > 0 && cost - cost == 0);
    });
    return {found[0], found[1] == 0 && bad_costs[0] == 0 && found[0] - found[0] == 0};
}

// In the type of the images as far as its range goes, else in double; points are made in double. `memory` is that of the
// type of the images, and may be null where it is double.
template <class T, class Block>
VERIFIX_INLINE void project(const Sinkhorn<T>& job, int64_t image, const Block& block, T* memory, double* wide_memory) {
    const int64_t size = job.shape.channels * job.shape.rows * job.shape.columns, first = image * size;
    const T *const x = job.x + first, *const w = job.w + first;
    T* const z = job.z + first;
    const double budget = job.budget[image];
    const Look look = look_at(block, x, w, size, job.cost, job.shape.window);
    const double mass = look.mass;
    double far[1];
    if (!look.usable || !(budget >= 0 && budget - budget == 0)) {
        block.each(size, [&](int64_t i) { z[i] = static_cast<T>(NAN); });
        block.each(1, [&](int64_t) { write_numbers(job, image, NAN, NAN, NAN, 0, false); });
        return;
    }
    if (mass == 0 || budget == 0) {
        block.each(size, [&](int64_t i) { z[i] = x[i]; });
        block.each(1, [&](int64_t) { write_numbers(job, image, 0, 0, 0, 0, true); });
        return;
    }
    const double eps = budget / mass;
    Iterates<double, Block> wide(block, job.shape, job.rule, job.cost, wide_memory);
    wide.start(x, w, mass);
    Progress progress;
    const auto finish = [&]() {
        double kept = 1;
        const Found end = wide.finish(progress.multiplier, eps, kept);
        const bool good = sinkhorn_satisfied(end.residual, end.cost, progress.multiplier, eps, job.rule.tolerance);
        if (!good && progress.sweeps < job.rule.max_sweeps) {
            wide.take(wide.exponent());
            return false;
        }
        wide.write(x, mass, kept, z);
        block.each(1, [&](int64_t) {
            write_numbers(job, image, end.residual, end.cost * mass, progress.multiplier, progress.sweeps, good);
        });
        return true;
    };
    if (sizeof(T) < sizeof(double)) {
        // beta = lambda (w - z): a guess, as z may be further from w than x is. Where it fails, all is done again.
        const double most = 0.75 * sinkhorn_log_2 * SinkhornNumbers<T>::largest / job.rule.regularisation * mass;
        block.sums(size, far, [&](int64_t i, double* sum) {
            sum[0] += absolute(static_cast<double>(w[i]) - static_cast<double>(x[i])) < most ? 0 : 1;
        });
        if (far[0] == 0) {
            Iterates<T, Block> iterates(block, job.shape, job.rule, job.cost, memory);
            iterates.start(x, w, mass);
            for (;;) {
                advance(iterates, progress, job.rule, eps);
                if (iterates.held()) break;
                wide.take(iterates.exponent());
                if (finish()) return;
            }
            progress = Progress();
            wide.start(x, w, mass);
        }
    }
    while (!finish()) advance(wide, progress, job.rule, eps);
}

}  // namespace sinkhorn_block
}  // namespace verifix
