// Clopper-Pearson bounds of one binomial count, rounded outwards; the same bits on the host and on a device. The method
// and its bound on rounding errors are derived in docs/smoothing.md, "Computing the bounds".
#pragma once

#include <math.h>
#include <stdint.h>

#include "verifix/elementary.h"

namespace verifix {
namespace binomial {

// A probability, bounded from below, and one minus that probability, bounded from above.
struct Bounds {
    double lower, failure;
};

constexpr double unit = 1.1102230246251565e-16;  // 2^-53
constexpr double tiny = 1e-307;           // relative errors hold above; hardware may flush what is below 2^-1022
constexpr double floor_of_error = 1e-13;  // relative, at least this far outwards
constexpr int64_t most_trials = int64_t{1} << 40;

// x and y = 1 - x, with a bound on their relative errors.
struct Root {
    double x, y, x_error, y_error;
};

// log n! less Stirling's formula, for a whole number n >= 1; error below 2^-53.
VERIFIX_HOST_DEVICE inline double stirling_error(double n) {
    constexpr double table[16] = {0,
                                  0.08106146679532725822,
                                  0.041340695955409294094,
                                  0.027677925684998339149,
                                  0.020790672103765093112,
                                  0.016644691189821192163,
                                  0.013876128823070747999,
                                  0.011896709945891770095,
                                  0.010411265261972096497,
                                  0.0092554621827127329177,
                                  0.0083305634333628712565,
                                  0.007573675487951840795,
                                  0.0069428401072095298657,
                                  0.0064089941880042070684,
                                  0.0059513701127588477356,
                                  0.005554733551962801371};
    if (n < 16) return table[static_cast<int>(n)];
    const double w = 1 / (n * n);
    return (1.0 / 12 - w * (1.0 / 360 - w * (1.0 / 1260 - w * (1.0 / 1680 - w * (1.0 / 1188))))) / n;
}

// a log(a / m) + m - a for a, m > 0: what a count a costs where m is expected (Loader's saddle-point form).
VERIFIX_HOST_DEVICE inline double deviance(double a, double m) {
    const double difference = a - m;
    if (::fabs(difference) >= 0.1 * (a + m)) return a * elementary::log(a / m) - difference;
    const double v = difference / (a + m), w = v * v;
    double series = 1.0 / 21;
    for (int k = 19; k >= 3; k -= 2) series = 1.0 / k + w * series;
    return difference * v + 2 * a * v * (w * series);
}

// E[K | K >= a] - n x for K ~ Bin(n, x), which is also the derivative of log P(K >= a) by the logit of x: the continued
// fraction of the incomplete beta function with positive terms (Didonato and Morris 1992), whose convergents enclose it.
// a, b = n - a + 1 >= 2.
VERIFIX_HOST_DEVICE inline double mean_excess(double a, double b, double x, double y, int64_t& steps) {
    const double c = (a * y - b * x) + 1;
    double value = c * (a / (a + 1)), ratio = value, inverse = 0;
    for (double j = 1; j <= b; j += 1) {
        const double s = a + 2 * j - 1, w = j * (b - j) * x;
        const double alpha = w * x * ((a + j - 1) / s) * ((a + b + j - 1) / s);
        const double beta = j + w / s + (a + j) / (s + 2) * (c + j * (1 + y));
        inverse = 1 / (beta + alpha * inverse);
        ratio = beta + alpha / ratio;
        const double factor = ratio * inverse;
        value *= factor;
        steps += 1;
        if (::fabs(factor - 1) <= 2 * unit * (value > 1 ? value : 1)) break;
    }
    return value;
}

// The x with P(Bin(n, x) >= a) = level, for n = a + b - 1, a, b >= 2 and level <= 1/2.
VERIFIX_HOST_DEVICE inline Root solve(double a, double b, double level) {
    const double n = a + b - 1, rest = n - a, log_level = elementary::log(level);
    // Wilson's interval, with the normal quantile of Abramowitz and Stegun 26.2.23.
    const double t = ::sqrt(-2 * log_level);
    double z = t - (2.515517 + t * (0.802853 + t * 0.010328)) / (1 + t * (1.432788 + t * (0.189269 + t * 0.001308)));
    if (!(z > 0)) z = 0;
    const double p = (a - 0.5) / n, q = (b - 0.5) / n, r = z * z / n;
    const double half = z * ::sqrt(p * q / n + r / (4 * n));
    double x = p * p / (p + r / 2 + half), y = (q + r / 2 + half) / (1 + r);
    if (x < y) y = 1 - x; else x = 1 - y;

    const double constant = stirling_error(n) - stirling_error(a) - stirling_error(rest);
    const double scale = ::sqrt(n / rest * (a / 6.2831853071795864769));
    for (int iteration = 0; iteration < 200; ++iteration) {
        int64_t steps = 0;
        const double excess = mean_excess(a, b, x, y, steps);
        const double first = deviance(a, n * x), second = deviance(rest, n * y);
        const double log_ratio = elementary::log(y * scale / excess);
        const double step = -((((constant - first) - second) + log_ratio) - log_level) / excess;
        // Newton's step in the logit, on a concave function: it converges from every start.
        const double capped = step < -700 ? -700 : step > 600 ? 600 : step;
        const double total = 1 + x * elementary::expm1(capped);
        const double error = 16 - 8 * log_level + 10 * (first + second) + 34 * ::fabs(a - n * x) +
                             8 * ::fabs(log_ratio) + 16 * static_cast<double>(steps) +
                             4 * (a * y + b * x) / excess + 2 * excess;
        const double spread = n * x * y;
        x = x * elementary::exp(capped) / total;
        y = y / total;
        if (x < y) y = 1 - x; else x = 1 - y;
        if (spread * step * step <= 4 * unit * excess) {
            const double logit = unit * (error / excess + 8);
            return {x, y, y * logit + 8 * unit, x * logit + 8 * unit};
        }
    }
    return {0.5, 0.5, 1, 1};  // never seen; says nothing
}

// The x with P(Bin(n, x) >= a) = level, for 1 <= a <= n, where level <= 1/2.
VERIFIX_HOST_DEVICE inline Root root(double a, double b, double level) {
    using namespace elementary;
    if (b == 1) {  // x^n = level
        const double log_x = elementary::log(level) / a;
        return {elementary::exp(log_x), -elementary::expm1(log_x), (8 - 8 * log_x) * unit, 16 * unit};
    }
    if (a == 1) {  // (1 - x)^n = 1 - level
        const double log_y = elementary::log1p(-level) / b;
        return {-elementary::expm1(log_y), elementary::exp(log_y), 16 * unit, (8 - 8 * log_y) * unit};
    }
    return solve(a, b, level);
}

VERIFIX_HOST_DEVICE inline double down(double value, double error) {
    return value > tiny ? value * (1 - (error + floor_of_error)) : 0;
}

VERIFIX_HOST_DEVICE inline double up(double value, double error) {
    const double upper = (value > tiny ? value : tiny) * (1 + (error + floor_of_error));
    return upper < 1 ? upper : 1;
}

// With probability at least 1 - level over successes ~ Bin(trials, p): lower <= p, and so 1 - p <= failure. What makes
// no sense (a count or a level out of range) gets the bounds that always hold.
VERIFIX_HOST_DEVICE inline Bounds clopper_pearson(int64_t successes, int64_t trials, double level) {
    if (!(successes > 0 && successes <= trials && trials <= most_trials && level > 0 && level < 1)) return {0, 1};
    const double a = static_cast<double>(successes), b = static_cast<double>(trials - successes + 1);
    if (level <= 0.5) {
        const Root p = root(a, b, level);
        return {down(p.x, p.x_error), up(p.y, p.y_error)};
    }
    const Root q = root(b, a, 1 - level);  // exact: P(Bin(n, 1 - p) >= n - k + 1) = 1 - P(Bin(n, p) >= k)
    return {down(q.y, q.y_error), up(q.x, q.x_error)};
}

}  // namespace binomial
}  // namespace verifix
