// Conjugate Sinkhorn for one image, by all threads of a block together, with any costs offset by offset; `Block` as in
// sinkhorn_block.h. The arithmetic is that of csrc/cpu/conjugate_sinkhorn.inl without classes of offsets.
#pragma once

#include <math.h>
#include <stdint.h>

#include "sinkhorn_block.h"
#include "verifix/conjugate_sinkhorn_search.h"
#include "verifix/conjugate_sinkhorn_step.h"

namespace verifix {
namespace sinkhorn_block {

// Memory of an image: of each pixel the largest g of the window, the largest level, and x over the sum of shares. The
// workspace of projected Sinkhorn is larger.
constexpr int64_t conjugate_fields = 3;

template <class T, class Block>
class Maximisation {
public:
    VERIFIX_SINKHORN_MEMBER Maximisation(const Block& block, const ConjugateSinkhorn<T>& job, int64_t image,
                                         double* memory)
        : block_(block), shape_(job.shape), cost_(job.cost), pixels_(job.shape.channels * job.shape.rows * job.shape.columns),
          radius_(job.shape.window / 2), scale_(job.regularisation / sinkhorn_log_2), x_(job.x + image * pixels_),
          g_(job.g + image * pixels_), top_(memory), level_(top_ + pixels_), row_(level_ + pixels_) {}

    VERIFIX_SINKHORN_MEMBER void start() {
        block_.each(pixels_, [&](int64_t i) {
            double top = -HUGE_VAL;
            each_offset(i, 1, [&](int64_t, int64_t j) { top = larger(top, static_cast<double>(g_[j])); });
            top_[i] = top;
        });
    }

    // The cost of the plan of a multiplier, and its derivative but for the sign.
    VERIFIX_SINKHORN_MEMBER void sums(double multiplier, double (&found)[2]) {
        block_.sums(pixels_, found, [&](int64_t i, double* sum) {
            if (!(x_[i] > 0)) return;
            double largest = -HUGE_VAL, anchor = 0;
            each_offset(i, 1, [&](int64_t d, int64_t j) {
                const double there = level(i, j, d, multiplier);
                anchor = there > largest ? cost_[d] : anchor;
                largest = larger(there, largest);
            });
            Shares<double> shares;
            each_offset(i, 1, [&](int64_t d, int64_t j) {
                shares.add(falling_power(level(i, j, d, multiplier) - largest), cost_[d], anchor);
            });
            const double row = static_cast<double>(x_[i]) / shares.sum;
            level_[i] = largest;
            row_[i] = row;
            sum[0] += row * shares.cost;
            sum[1] += row * shares.variance();
        });
    }

    // After sums: what arrives at a pixel.
    VERIFIX_INLINE_MEMBER double column(int64_t j, double multiplier) const {
        double sum = 0;
        each_offset(j, -1, [&](int64_t d, int64_t i) {
            if (x_[i] > 0) sum += row_[i] * falling_power(level(i, j, d, multiplier) - level_[i]);
        });
        return sum;
    }

    // The largest g - price c of the window.
    VERIFIX_INLINE_MEMBER double best(int64_t i, double price) const {
        double best = -HUGE_VAL;
        each_offset(i, 1, [&](int64_t d, int64_t j) { best = larger(static_cast<double>(g_[j]) - price * cost_[d], best); });
        return best;
    }

    // The largest |g|: of each of a few parts first. After start and all sums, whose memory it takes.
    VERIFIX_SINKHORN_MEMBER double largest_form() {
        const int64_t count = pixels_ < 256 ? pixels_ : 256;
        block_.each(count, [&](int64_t part) {
            double most = 0;
            for (int64_t i = part; i < pixels_; i += count) most = larger(most, absolute(static_cast<double>(g_[i])));
            level_[part] = most;
        });
        double most = 0;
        for (int64_t part = 0; part < count; ++part) most = larger(most, level_[part]);
        return most;
    }

    VERIFIX_INLINE_MEMBER double largest_cost() const {
        double most = 0;
        for (int64_t d = 0; d < shape_.window * shape_.window; ++d) most = larger(most, cost_[d]);
        return most;
    }

private:
    // Calls body(d, j) for the pixels j of the image that offset d leads to from i, or with sign -1 from which it leads there.
    template <class Body>
    VERIFIX_INLINE_MEMBER void each_offset(int64_t i, int64_t sign, const Body& body) const {
        const int64_t line = i / shape_.columns, row = line % shape_.rows, column = i - line * shape_.columns;
        int64_t d = 0;
        for (int64_t a = -radius_; a <= radius_; ++a) {
            for (int64_t b = -radius_; b <= radius_; ++b, ++d) {
                const int64_t there = row + sign * a, beside = column + sign * b;
                if (there < 0 || there >= shape_.rows || beside < 0 || beside >= shape_.columns) continue;
                body(d, i + sign * (a * shape_.columns + b));
            }
        }
    }

    VERIFIX_INLINE_MEMBER double level(int64_t i, int64_t j, int64_t d, double multiplier) const {
        return free_level(static_cast<double>(g_[j]), top_[i], scale_) - level_price(multiplier, cost_[d]);
    }

    const Block& block_;
    const SinkhornShape shape_;
    const double* cost_;
    int64_t pixels_, radius_;
    double scale_;
    const T *x_, *g_;
    double *top_, *level_, *row_;
};

template <class T>
VERIFIX_INLINE void write_numbers(const ConjugateSinkhorn<T>& job, int64_t image, double value, double upper,
                                  double cost, const ConjugateSearch& search) {
    job.value[image] = value;
    job.upper[image] = upper;
    job.plan_cost[image] = cost;
    job.multiplier[image] = search.multiplier;
    job.sweeps[image] = search.sweeps;
    job.converged[image] = search.good;
}

template <class T, class Block>
VERIFIX_INLINE void maximise(const ConjugateSinkhorn<T>& job, int64_t image, const Block& block, double* memory) {
    const int64_t size = job.shape.channels * job.shape.rows * job.shape.columns, first = image * size;
    const T *const x = job.x + first, *const g = job.g + first;
    T* const z = job.z + first;
    const double budget = job.budget[image];
    const Look look = look_at(block, x, g, size, job.cost, job.shape.window);
    ConjugateSearch search;
    if (!look.usable || !(budget >= 0 && budget - budget == 0)) {
        search.multiplier = NAN;
        block.each(size, [&](int64_t i) { z[i] = static_cast<T>(NAN); });
        block.each(1, [&](int64_t) { write_numbers(job, image, NAN, NAN, NAN, search); });
        return;
    }
    double sums[2];
    if (look.mass == 0 || budget == 0) {
        block.sums(size, sums, [&](int64_t i, double* sum) {
            const double product = static_cast<double>(g[i]) * static_cast<double>(x[i]);
            z[i] = x[i];
            sum[0] += product;
            sum[1] += absolute(product);
        });
        search.good = true;
        const double upper = look.mass == 0 ? sums[0] : resting_bound(sums[0], sums[1], size);
        block.each(1, [&](int64_t) { write_numbers(job, image, sums[0], upper, 0, search); });
        return;
    }
    Maximisation<T, Block> one(block, job, image, memory);
    one.start();
    one.sums(search.multiplier, sums);
    while (conjugate_next(search, sums[0], sums[1], budget, job.tolerance, job.max_sweeps)) {
        one.sums(search.multiplier, sums);
    }
    const double cost = sums[0], kept = conjugate_kept(cost, budget), rest = 1 - kept;
    const double price = search.multiplier / job.regularisation;
    block.sums(size, sums, [&](int64_t i, double* sum) {
        const double point = kept * one.column(i, search.multiplier) + rest * static_cast<double>(x[i]);
        z[i] = static_cast<T>(point);
        sum[0] += static_cast<double>(g[i]) * point;
        if (x[i] > 0) sum[1] += static_cast<double>(x[i]) * one.best(i, price);
    });
    const double upper =
        conjugate_bound(sums[1], price, budget, look.mass, one.largest_form(), one.largest_cost(), size);
    block.each(1, [&](int64_t) { write_numbers(job, image, sums[0], upper, kept * cost, search); });
}

}  // namespace sinkhorn_block
}  // namespace verifix
