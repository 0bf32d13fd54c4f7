// The median of one column as a thread of abs_median.cu finds it, and how many threads share the memory of a block. It
// also compiles for the host, where tests run it.
#pragma once

#include <stdint.h>
#include <string.h>

#include "verifix/inline.h"

namespace verifix {

// The bits of |x|, which order as |x| does.
template <class T>
struct MedianKey;

template <>
struct MedianKey<float> {
    using Key = uint32_t;
    static constexpr Key size = 0x7fffffffu, infinity = 0x7f800000u, nan = 0x7fc00000u, top_bit = 0x40000000u;
};

template <>
struct MedianKey<double> {
    using Key = uint64_t;
    static constexpr Key size = 0x7fffffffffffffffu, infinity = 0x7ff0000000000000u, nan = 0x7ff8000000000000u,
                         top_bit = 0x4000000000000000u;
};

// Every NaN becomes the one canonical NaN, which is above infinity.
template <class T>
VERIFIX_INLINE typename MedianKey<T>::Key median_key(T value) {
    typename MedianKey<T>::Key bits;
    memcpy(&bits, &value, sizeof bits);
    bits &= MedianKey<T>::size;
    return bits > MedianKey<T>::infinity ? MedianKey<T>::nan : bits;
}

template <class T>
VERIFIX_INLINE T median_value(typename MedianKey<T>::Key bits) {
    T value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

struct MedianBlock {
    int threads;
    bool staged;    // whether the keys of the columns fit in shared memory
    int64_t bytes;  // of that
};

template <class T>
inline MedianBlock median_block(int64_t k) {
    constexpr int most_threads = 128, least_threads = 32;
    constexpr int64_t shared_bytes = 48 * 1024;  // what every device gives without asking
    const int64_t column_bytes = k * static_cast<int64_t>(sizeof(T));
    if (column_bytes * least_threads > shared_bytes) return {most_threads, false, 0};
    int threads = most_threads;
    while (column_bytes * threads > shared_bytes) threads /= 2;
    return {threads, true, column_bytes * threads};
}

// Of source[0], source[n], ... source[(k - 1) n]. A thread's own words of shared memory are mine[0], mine[stride], ...
template <class T, bool staged>
VERIFIX_INLINE void median_of_column(const T* source, int k, int64_t n, typename MedianKey<T>::Key* mine, int stride,
                                     T* value, int64_t* index) {
    using Key = typename MedianKey<T>::Key;
    int first_nan = k;
    for (int i = k - 1; i >= 0; --i) {
        const Key key = median_key(source[i * n]);
        if (staged) mine[i * stride] = key;
        if (key == MedianKey<T>::nan) first_nan = i;
    }
    if (first_nan < k) {
        *value = median_value<T>(MedianKey<T>::nan);
        *index = first_nan;
        return;
    }

    const auto key_at = [&](int i) { return staged ? mine[i * stride] : median_key(source[i * n]); };
    const int rank = (k - 1) / 2;
    Key median = 0;
    for (Key bit = MedianKey<T>::top_bit; bit != 0; bit >>= 1) {
        const Key candidate = median | bit;
        int below = 0;
#if defined(__CUDA_ARCH__)
#pragma unroll 8
#endif
        for (int i = 0; i < k; ++i) below += key_at(i) < candidate;
        if (below <= rank) median = candidate;
    }
    int first = 0;
    while (key_at(first) != median) ++first;
    *value = median_value<T>(median);
    *index = first;
}

}  // namespace verifix
