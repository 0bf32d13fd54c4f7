// The multiplier of conjugate Sinkhorn; apart from the arithmetic of vectors, as it needs a logarithm.
#pragma once

#include <math.h>
#include <stdint.h>

#include "verifix/conjugate_sinkhorn_step.h"
#include "verifix/elementary.h"

namespace verifix {

constexpr double conjugate_step = 40;  // what the multiplier may grow by at once, besides four times itself

// After a plan of this cost, of which `slope` is the derivative but for its sign: whether another one is needed, then at
// the new multiplier. Newton steps on the logarithm of the cost, and the middle of the bracket where they leave it.
VERIFIX_INLINE bool conjugate_next(ConjugateSearch& search, double cost, double slope, double budget, double tolerance,
                                   int64_t max_sweeps) {
    const double gap = cost - budget, ratio = cost / budget;
    search.good = (search.multiplier == 0 ? gap : ::fabs(gap)) <= tolerance * budget;
    if (search.good || search.sweeps >= max_sweeps) return false;
    if (gap > 0) {
        search.low = search.multiplier;
    } else {
        search.high = search.multiplier;
    }
    const bool newton = slope > 0 && ratio > 0 && ratio < HUGE_VAL;
    const double step = newton ? cost / slope * elementary::log(ratio) : HUGE_VAL;
    const double far = 4 * search.low + conjugate_step, limit = search.high < far ? search.high : far;
    search.multiplier += step;
    if (!(search.low < search.multiplier && search.multiplier < limit)) {
        search.multiplier = search.high < HUGE_VAL ? (search.low + search.high) / 2 : 2 * search.low + 1;
    }
    search.sweeps += 1;
    return true;
}

}  // namespace verifix
