// What the search for the best multiplier does between two sweeps over the pixels; shared by CPU and GPU.
//
// Rounding. Let u = 2^-53. A sweep at lam gives each pixel f = max over classes of fl(m - p), where m is a number of
// type T and p = p(lam, c) <= lam c; so f is at least (1 - u) or (1 + u) times max (m - lam c), whichever is smaller:
// rounding is monotone, and the maximum of rounded numbers is the rounded maximum. Then S = sum x f and A = sum x |f|
// are made of products that round once and of at most ceil(n / 32) + 5 additions. With D = n / 32 + 24,
//
//     lam E + sum x max (m - lam c) <= fl(lam E + S) + D 2u (A + lam E) + (n + 1) 2^-1000,
//
// where 2u in place of u and 24 in place of 8 cover the rounding of A, of lam E and of this formula itself. Products
// that underflow lose less than 2^-1000 each, in every mode of the processor. A sum that overflows is infinite or NaN,
// and never a finite bound.
#pragma once

#include <math.h>

#include "verifix/inline.h"

namespace verifix {
namespace transport {

constexpr int lanes = 32;          // partial sums
constexpr int most_sweeps = 100;   // far more than are needed: finitely many plans, each step cuts one off
constexpr int newton_sweeps = 40;  // after these, every other step halves the bracket

// What a sweep adds up: of x f, of x |f|, and the value and the cost of the plan.
struct Sums {
    double dual, size, value, cost;
};

// At most lam c in real arithmetic.
VERIFIX_INLINE double price(double lam, double c) {
    const double below = c == 0 ? 0 : lam * c * (1 - 0x1p-52);
    return below < 0x1p-1000 ? 0 : below;
}

VERIFIX_INLINE double times_budget(double lam, double budget) { return lam == 0 || budget == 0 ? 0 : lam * budget; }

// How much rounding may have changed a sum over n pixels, relative to the sum of absolute values.
VERIFIX_INLINE double relative_rounding(int n) { return (n / lanes + 24) * 0x1p-52; }

VERIFIX_INLINE double upper_bound(double lam, double budget, const Sums& sums, int n) {
    const double paid = times_budget(lam, budget);
    return paid + sums.dual + relative_rounding(n) * (sums.size + paid) + (n + 1) * 0x1p-1000;
}

// The bracket: plans above the budget (left, small lam) and within it (right, large lam).
struct Search {
    double budget, best, best_lam;  // the smallest upper bound so far
    double lam, left_lam, right_lam;
    Sums left, right;
    int n, sweeps;

    // Before the sweep at lam = 0.
    VERIFIX_INLINE_MEMBER void begin(double of_image, int pixels) {
        budget = of_image;
        n = pixels;
        sweeps = 0;
        lam = 0;
    }

    VERIFIX_INLINE_MEMBER void keep(const Sums& sums) {
        const double upper = upper_bound(lam, budget, sums, n);
        if (sweeps == 0 || upper < best) {
            best = upper;
            best_lam = lam;
        }
        ++sweeps;
    }

    // After the sweep at lam = 0: whether another one is needed, which is that at an infinite lam, where nothing moves.
    VERIFIX_INLINE_MEMBER bool after_zero(const Sums& sums) {
        keep(sums);
        left = right = sums;
        left_lam = right_lam = 0;
        if (!(sums.cost > budget)) return false;
        lam = INFINITY;
        return true;
    }

    // After that: whether others are needed, then at `lam`.
    VERIFIX_INLINE_MEMBER bool after_infinity(const Sums& sums) {
        if (budget == 0) keep(sums);
        right = sums;
        right_lam = INFINITY;
        lam = meeting_point();
        return budget > 0 && lam >= 0;
    }

    // After the sweep at lam: whether another one is needed, then at the new lam.
    VERIFIX_INLINE_MEMBER bool after(const Sums& sums) {
        keep(sums);
        const double line = sums.value + lam * (budget - sums.cost);
        const double known = right.value + lam * (budget - right.cost);
        const bool above = sums.cost > budget;
        // no plan is better than the mixture, but by rounding
        bool done = !(line - known > 0x1p-47 * (sums.size + lam * budget)) || sweeps >= most_sweeps;
        done |= above ? sums.cost >= left.cost : sums.cost <= right.cost;
        if (done) return false;
        (above ? left : right) = sums;
        (above ? left_lam : right_lam) = lam;
        lam = meeting_point();
        const bool halve = sweeps > newton_sweeps && sweeps % 2 == 0 && right_lam < INFINITY;
        if (halve) lam = left_lam + (right_lam - left_lam) / 2;
        return lam >= 0;
    }

    // Where the lines of the two plans meet.
    VERIFIX_INLINE_MEMBER double meeting_point() const { return (left.value - right.value) / (left.cost - right.cost); }

    // The share of the left plan in the mixture: such that its cost is at most the budget though sums are rounded.
    VERIFIX_INLINE_MEMBER double share_of_left() const {
        if (!(left.cost > budget)) return 1;
        const double room = budget - right.cost - 4 * relative_rounding(n) * (left.cost + budget);
        const double share = room / (left.cost - right.cost);
        return share > 0 ? share : 0;
    }
};

}  // namespace transport
}  // namespace verifix
