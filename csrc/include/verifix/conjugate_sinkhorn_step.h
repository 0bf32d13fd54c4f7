// The arithmetic of conjugate Sinkhorn, on numbers or on vectors of them, as in sinkhorn_step.h; all in double.
//
// beta = lambda g is fixed, and rows that sum to x eliminate alpha: the share of offset d in the mass of pixel i is
//
//     2^(level_d - m) / sum over d of 2^(level_d - m),   level_d = lambda (g_(i+d) - top_i) / log 2 - psi c_d / log 2,
//
// with top_i the largest g of the window and m the largest level, so that all powers are at most 1, one of them is 1, and
// nothing overflows whatever lambda is. One equation is left, cost(psi) = budget.
#pragma once

#include <math.h>
#include <stdint.h>

#include "verifix/inline.h"
#include "verifix/sinkhorn_step.h"

namespace verifix {

// 2^exponent for exponents up to 0; 0 below -1000, and where it is not a number: less infinity from less infinity.
template <class V>
VERIFIX_INLINE V falling_power(V exponent) {
    const V power = power_of_two<double>(larger(exponent, V{} - 1000.0));
    return exponent > -1000.0 ? power : V{};
}

// The level before costs; `scale` is lambda / log 2. Finite also where an offset leads out of the image, with -infinity.
template <class V>
VERIFIX_INLINE V free_level(V g, V top, double scale) {
    return larger((g - top) * scale, V{} - 1e300);
}

// What psi takes from the level of an offset.
VERIFIX_INLINE double level_price(double multiplier, double cost) { return multiplier * (cost / sinkhorn_log_2); }

// Of the shares of one pixel. Costs count from `anchor`, that of the largest share, so that where it is nearly 1 the
// variance is not a difference of large numbers.
template <class V>
struct Shares {
    V sum{}, cost{}, first{}, second{};

    VERIFIX_INLINE_MEMBER void add(V share, double cost_there, V anchor) {
        const V away = (V{} + cost_there) - anchor, moved = share * away;
        sum += share;
        cost += share * cost_there;
        first += moved;
        second += moved * away;
    }

    // Of the costs, times the sum.
    VERIFIX_INLINE_MEMBER V variance() const { return larger(second - first * (first / sum), V{}); }
};

// What is known of the multiplier: cost(low) > budget >= cost(high).
struct ConjugateSearch {
    double low = 0, high = HUGE_VAL, multiplier = 0;
    int64_t sweeps = 0;
    bool good = false;
};

// What of the plan is within the budget; the rest stays where it was.
VERIFIX_INLINE double conjugate_kept(double cost, double budget) {
    return cost <= sinkhorn_certain * budget ? 1.0 : sinkhorn_certain * budget / cost;
}

// The bound from `terms`, the sum of x times the largest g - price c of the window: any price makes one. Each term is off
// by 3 roundings, and a sum of so many by less than as many of the sum of sizes; 2^-52 is two of them. Products that
// underflow lose less than 2^-1000 each, in every mode of the processor.
VERIFIX_INLINE double conjugate_bound(double terms, double price, double budget, double mass, double largest_g,
                                      double largest_cost, int64_t pixels) {
    const double count = static_cast<double>(pixels + 8);
    const double size = mass * (largest_g + price * largest_cost) + price * budget;
    return price * budget + terms + count * 0x1p-52 * size + count * 0x1p-1000;
}

// The same where nothing moves, from the sums of g x and of its size.
VERIFIX_INLINE double resting_bound(double value, double size, int64_t pixels) {
    return value + 4 * static_cast<double>(pixels) * 0x1p-52 * size + static_cast<double>(pixels) * 0x1p-1000;
}

}  // namespace verifix
