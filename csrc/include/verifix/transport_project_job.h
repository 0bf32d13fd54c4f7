// Transport plans: the arguments of their kernels, and the arithmetic that the CPU and the device share.
//
// A plan is contiguous (n, channels, offsets, height, width): entry (b, c, d, i, j) is the mass that leaves pixel (i, j)
// of channel c for (i + di, j + dj), where d = (di + r) * window + (dj + r), offsets = window * window, r = window / 2.
// Entries that leave the image do not count, nor do those of a pixel without mass.
#pragma once

#include <float.h>
#include <stdint.h>

#include "verifix/inline.h"

namespace verifix {

struct TransportShape {
    int64_t n, channels, window, height, width;
};

template <class T>
struct ProjectPlan {
    TransportShape shape;
    const T* plan;         // as above
    const T* x;            // (n, channels, height, width)
    const double* cost;    // (offsets,)
    const double* budget;  // (n,)
    const double* start;   // (n,), or null
    T* out;                // as the plan
    double* multiplier;    // (n,)
};

// How sums over the pixels of an image are added up: pixel p into number p % transport_slots, in order, and these by halves.
constexpr int transport_slots = 256;
constexpr double transport_largest = 1e150, transport_nan = __builtin_nan("");

template <class T>
struct TransportNumber;

template <>
struct TransportNumber<float> {
    static constexpr double epsilon = FLT_EPSILON, smallest = FLT_MIN;
};

template <>
struct TransportNumber<double> {
    static constexpr double epsilon = DBL_EPSILON, smallest = DBL_MIN;
};

struct TwoSums {
    double first, second;
};

// What is spent at most: the budget, less what adding up so many costs in another order could round up.
VERIFIX_INLINE double transport_target(double budget, double terms) { return budget * (1 - (terms + 16) * 0x1p-52); }

VERIFIX_INLINE bool transport_entry_valid(double value) { return value <= transport_largest && value >= -transport_largest; }

VERIFIX_INLINE bool transport_costs_valid(const double* cost, int64_t offsets) {
    bool valid = cost[offsets / 2] == 0;
    for (int64_t d = 0; d < offsets; ++d) {
        valid = valid && (cost[d] == 0 || (cost[d] >= 1 / transport_largest && cost[d] <= transport_largest));
    }
    return valid;
}

// The multiplier at which the plan costs the target, or 0: Newton's iteration inside a bracket [0, high] that only
// shrinks. cost_at(multiplier) is what the plan costs and how fast that falls.
template <class CostAt>
VERIFIX_INLINE double transport_multiplier(double target, double start, double high, const CostAt& cost_at) {
    constexpr int most_steps = 100, newton_steps = 10;
    constexpr double close = 0x1p-46;
    double low = 0, now = start > 0 ? (start < high ? start : high) : 0;
    if (target == 0) {
        now = high;
    } else if (target == __builtin_inf()) {
        now = 0;
    }
    bool tried_zero = false;
    for (int step = 0; step < most_steps; ++step) {
        const TwoSums sums = cost_at(now);
        const double excess = sums.first - target, slope = sums.second;
        tried_zero = tried_zero || now == 0;
        if (excess > 0) {
            low = now;
        } else {
            high = now;
        }
        const double distance = excess < 0 ? -excess : excess;
        if (distance <= close * target || (now == 0 && !(excess > 0))) return now;
        const double middle = low + (high - low) * 0.5;
        double following = now + excess / slope;
        if (following <= 0 && !tried_zero) following = 0;
        const bool outside = !(following > low && following < high) && !(following == 0 && !tried_zero);
        if (outside || (step >= newton_steps && step % 2 == 0)) {
            if (!(middle > low && middle < high)) return high;
            following = middle;
        }
        now = following;
    }
    return now;
}

// How much of the moves a plan that costs `spent` keeps; 1: all.
template <class T>
VERIFIX_INLINE double transport_kept(double spent, double target) {
    return spent > target ? target / spent * (1 - 4 * TransportNumber<T>::epsilon) : 1.0;
}

// A move made smaller by that; what would be subnormal, where rounding is not relative, stays where it is.
template <class T>
VERIFIX_INLINE double transport_smaller(double move, double kept) {
    const double smaller = static_cast<double>(static_cast<T>(move * kept));
    return smaller < TransportNumber<T>::smallest ? 0.0 : smaller;
}

}  // namespace verifix
