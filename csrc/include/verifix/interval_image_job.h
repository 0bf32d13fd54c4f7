// What every implementation of the image of a box shares: plain C types, nothing of external linkage.
#pragma once

#include <stdint.h>

#include "verifix/inline.h"

namespace verifix {

// Arrays of `count` elements. T is float or double; left and right are at least 0.
template <class T>
struct IntervalImage {
    const T *midpoint, *radius;
    T *image_midpoint, *image_radius;
    uint8_t* pieces;  // bit 0: l is on the right piece; bit 1: u is
    T *lower, *upper;  // l and u, or both null
    T left, right;
    int64_t count;
};

// The gradient of any function of the image, and of l and u, in that of midpoint and radius.
template <class T>
struct IntervalImageGradient {
    const uint8_t* pieces;
    const T *image_midpoint, *image_radius;  // gradients that arrive; one of the two pairs may be null
    const T *lower, *upper;
    T *midpoint, *radius;  // gradients that leave
    T left, right;
    int64_t count;
};

template <class T>
struct ImageOfBox {
    T lower, upper, midpoint, radius;
    uint8_t pieces;
};

template <class T>
VERIFIX_INLINE ImageOfBox<T> image_of_box(T midpoint, T radius, T left, T right) {
    constexpr T infinity = T(__builtin_huge_val()), not_a_number = T(__builtin_nan(""));
    T l = midpoint - radius, u = midpoint + radius;
    l = l == infinity ? not_a_number : l;
    u = u == -infinity ? not_a_number : u;
    // a left slope of 0 gives 0, and not 0 * -inf = NaN
    const T low_left = left == T(0) ? T(0) : left * l, high_left = left == T(0) ? T(0) : left * u;
    const T low_right = right * l, high_right = right * u;
    const T low = l < T(0) ? low_left : low_right, high = u < T(0) ? high_left : high_right;
    const T half = (high - low) * T(0.5);
    return {l, u, low + half, half, static_cast<uint8_t>((l >= T(0) ? 1 : 0) | (u >= T(0) ? 2 : 0))};
}

template <class T>
struct GradientOfBox {
    T midpoint, radius;
};

// From the gradients of the image's midpoint and radius, and of l and u.
template <class T>
VERIFIX_INLINE GradientOfBox<T> gradient_of_box(uint8_t pieces, T midpoint, T radius, T lower, T upper, T left, T right) {
    const T slope_l = (pieces & 1) ? right : left, slope_u = (pieces & 2) ? right : left;
    const T l = slope_l * ((midpoint - radius) * T(0.5)) + lower, u = slope_u * ((midpoint + radius) * T(0.5)) + upper;
    return {l + u, u - l};
}

}  // namespace verifix
