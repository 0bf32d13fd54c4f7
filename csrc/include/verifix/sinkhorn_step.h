// The arithmetic of Sinkhorn sweeps, on numbers or on vectors of them: V is T, or a vector of T for which SinkhornBits
// says which vector of unsigned integers has its size. The same bits for every instruction set.
//
// exponent = beta / log 2, so that v = 2^exponent; target = lambda w; columns = lambda times the column sums of the plan
// whose rows are x.
#pragma once

#include <stdint.h>
#include <string.h>

#include "verifix/inline.h"

namespace verifix {

constexpr double sinkhorn_log_2 = 0.69314718055994530942;
constexpr double sinkhorn_certain = 1 - 0x1p-40;  // of the budget: what is left out covers the rounding of a plan's cost

template <class V>
struct SinkhornBits;
template <>
struct SinkhornBits<float> {
    typedef uint32_t type;
};
template <>
struct SinkhornBits<double> {
    typedef uint64_t type;
};

// `largest`: exponents are kept within it, so that no product of u and v, nor a sum of 2^13 of them, overflows.
// `rounding` has its unit at 1: added, the nearest whole number is in its lower bits.
template <class T>
struct SinkhornNumbers;
template <>
struct SinkhornNumbers<float> {
    static constexpr float largest = 55, rounding = 0x1.8p+23f, smallest = 0x1p-126f;
    static constexpr int mantissa = 23, degree = 6;
};
template <>
struct SinkhornNumbers<double> {
    static constexpr double largest = 490, rounding = 0x1.8p+52, smallest = 0x1p-1022;
    static constexpr int mantissa = 52, degree = 12;
};

template <class V>
VERIFIX_INLINE V larger(V a, V b) {
    return a > b ? a : b;
}

// 2^exponent for an exponent in [-1000, 1000] (double) or [-120, 120] (float): by its nearest whole number, and the
// series of the rest, which is at most 1/2 in size. Off by a few units in the last place.
template <class T, class V>
VERIFIX_INLINE V power_of_two(V exponent) {
    typedef typename SinkhornBits<V>::type Bits;
    constexpr int degree = SinkhornNumbers<T>::degree;
    // log(2)^k / k!
    constexpr double coefficient[] = {
        1.0, 0.6931471805599453, 0.2402265069591007, 0.055504108664821576, 0.009618129107628477,
        0.0013333558146428441, 0.00015403530393381606, 1.5252733804059838e-05, 1.3215486790144305e-06, 1.0178086009239696e-07,
        7.054911620801121e-09, 4.44553827187081e-10, 2.5678435993488196e-11};
    const V shifted = exponent + SinkhornNumbers<T>::rounding;
    const V rest = exponent - (shifted - SinkhornNumbers<T>::rounding);
    V series = rest * static_cast<T>(coefficient[degree]) + static_cast<T>(coefficient[degree - 1]);
    for (int k = degree - 2; k >= 0; --k) series = series * rest + static_cast<T>(coefficient[k]);
    Bits whole, bits;
    memcpy(&whole, &shifted, sizeof whole);
    memcpy(&bits, &series, sizeof bits);
    bits += whole << SinkhornNumbers<T>::mantissa;
    memcpy(&series, &bits, sizeof bits);
    return series;
}

template <class V>
VERIFIX_INLINE V absolute(V value) {
    typename SinkhornBits<V>::type bits;
    memcpy(&bits, &value, sizeof bits);
    bits = bits << 1 >> 1;
    memcpy(&value, &bits, sizeof bits);
    return value;
}

// What is wrong with a column, times lambda: 0 at the best beta.
template <class T, class V>
VERIFIX_INLINE V column_error(V target, V exponent, V columns) {
    return (target - exponent * static_cast<T>(sinkhorn_log_2)) - columns;
}

// The next exponent. The step is Newton's towards the root of its own column's equation where the error is negative, and
// below log(1 + it) where it is positive: it does not pass the root.
template <class T, class V>
VERIFIX_INLINE V next_exponent(V exponent, V error, V columns, V& velocity, T relaxation, T momentum) {
    const V step = error / ((columns + T{1}) + larger(error * static_cast<T>(0.5), V{}));
    velocity = step * relaxation + velocity * momentum;
    const V next = larger(exponent + velocity, V{} - SinkhornNumbers<T>::largest);
    return -larger(-next, V{} - SinkhornNumbers<T>::largest);
}

// What of the last step is repeated: the more, the longer the residual has not grown, as slow images need it.
VERIFIX_INLINE double sinkhorn_momentum(double momentum, int64_t age) {
    return larger(momentum, static_cast<double>(age) / static_cast<double>(age + 20));
}

// The next multiplier: a Newton step on the logarithm of the cost, of which it is nearly a linear function, with
// 2 (q - 1) / (q + 1) for log q; at least 0.
VERIFIX_INLINE double next_multiplier(double multiplier, double cost, double second, double eps) {
    if (!(second > 0)) return multiplier > 0x1p-10 ? multiplier / 2 : 0.0;
    const double next = multiplier + cost / second * (2 * (cost - eps) / (cost + eps));
    return next > 0 ? next : 0.0;
}

// exp(-multiplier cost - 1)
VERIFIX_INLINE double sinkhorn_weight(double multiplier, double cost) {
    const double exponent = (-1 - multiplier * cost) / sinkhorn_log_2;
    return power_of_two<double>(larger(exponent, -1000.0));
}

// Whether the column residual and the cost are right to the tolerance.
VERIFIX_INLINE bool sinkhorn_satisfied(double residual, double cost, double multiplier, double eps,
                                       double tolerance) {
    const double gap = multiplier == 0 ? cost - eps : absolute(cost - eps);
    return residual <= tolerance && gap <= tolerance * eps;
}

}  // namespace verifix
