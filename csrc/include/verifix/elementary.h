// log, log1p, exp and expm1 in double precision from nothing but IEEE operations, so that they have the same bits on
// every processor and on a GPU, which libraries do not promise. Relative errors are below 4 u, u = 2^-53, as long as
// results are normal numbers (docs/smoothing.md).
#pragma once

#include <math.h>

#if defined(__CUDACC__)
#define VERIFIX_HOST_DEVICE __host__ __device__
#else
#define VERIFIX_HOST_DEVICE
#endif

namespace verifix {
namespace elementary {

constexpr double log_2_high = 6.93147180369123816490e-01;  // 32 bits: multiples below 2^21 are exact
constexpr double log_2_low = 1.90821492927058770002e-10;

// x > 0.
VERIFIX_HOST_DEVICE inline double log(double x) {
    int exponent = 0;
    double mantissa = ::frexp(x, &exponent);
    if (mantissa < 0.70710678118654752440) {
        mantissa = 2 * mantissa;
        exponent -= 1;
    }
    // log(1 + f) = 2 artanh(s) = 2 s + s R with s = f / (2 + f), and 2 s = f - s f.
    const double f = mantissa - 1, s = f / (2 + f), w = s * s;
    double series = 2.0 / 21;
    for (int k = 19; k >= 3; k -= 2) series = 2.0 / k + w * series;
    const double log_mantissa = f - s * (f - w * series);
    return exponent * log_2_high + (log_mantissa + exponent * log_2_low);
}

// x >= -1/2.
VERIFIX_HOST_DEVICE inline double log1p(double x) {
    const double sum = 1 + x;
    return sum == 1 ? x : log(sum) * (x / (sum - 1));
}

// exp(x) - 1 where |x| is at most log(2) / 2.
VERIFIX_HOST_DEVICE inline double expm1_small(double x) {
    double series = 1;
    for (int k = 16; k >= 2; --k) series = 1 + x / k * series;
    return x * series;
}

// -800 < x < 700; what is left after whole powers of 2 are split off.
VERIFIX_HOST_DEVICE inline double reduce(double x, int& exponent) {
    exponent = static_cast<int>(::floor(x / 0.69314718055994530942 + 0.5));
    return (x - exponent * log_2_high) - exponent * log_2_low;
}

VERIFIX_HOST_DEVICE inline double exp(double x) {
    int exponent = 0;
    const double rest = reduce(x, exponent);
    return ::ldexp(1 + expm1_small(rest), exponent);
}

VERIFIX_HOST_DEVICE inline double expm1(double x) {
    int exponent = 0;
    const double rest = reduce(x, exponent);
    return ::ldexp(expm1_small(rest), exponent) + (::ldexp(1.0, exponent) - 1);
}

}  // namespace elementary
}  // namespace verifix
