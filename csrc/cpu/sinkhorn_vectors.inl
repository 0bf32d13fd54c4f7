// What the kernels of both Sinkhorn iterations share: vectors, sums in fixed lanes, and a first look at an image. For one
// instruction set, as VERIFIX_ISA_NAMESPACE and VERIFIX_VECTOR_BYTES say.

#include <stdint.h>
#include <string.h>

#include "sinkhorn_images.h"
#include "verifix/sinkhorn_step.h"

namespace verifix {

template <>
struct SinkhornBits<float __attribute__((vector_size(VERIFIX_VECTOR_BYTES)))> {
    typedef uint32_t type __attribute__((vector_size(VERIFIX_VECTOR_BYTES)));
};
template <>
struct SinkhornBits<double __attribute__((vector_size(VERIFIX_VECTOR_BYTES)))> {
    typedef uint64_t type __attribute__((vector_size(VERIFIX_VECTOR_BYTES)));
};

namespace VERIFIX_ISA_NAMESPACE {
namespace {

template <class T>
struct Vectors;
template <>
struct Vectors<float> {
    typedef float V __attribute__((vector_size(VERIFIX_VECTOR_BYTES)));
};
template <>
struct Vectors<double> {
    typedef double V __attribute__((vector_size(VERIFIX_VECTOR_BYTES)));
};

template <class T>
VERIFIX_INLINE typename Vectors<T>::V load(const T* from) {
    typename Vectors<T>::V value;
    memcpy(&value, from, sizeof value);
    return value;
}

template <class T>
VERIFIX_INLINE void store(T* to, typename Vectors<T>::V value) {
    memcpy(to, &value, sizeof value);
}

template <class T>
constexpr int64_t width = VERIFIX_VECTOR_BYTES / sizeof(T);  // of a vector
template <class T>
constexpr int64_t parts = sinkhorn_lanes / width<T>;  // vectors of a block

// Sums of blocks, lane by lane, and in the end of lanes in their order.
template <class T>
struct Sum {
    typename Vectors<T>::V part[parts<T>] = {};

    double total() const {
        T lanes[sinkhorn_lanes];
        memcpy(lanes, part, sizeof lanes);
        double sum = 0;
        for (const T lane : lanes) sum += static_cast<double>(lane);
        return sum;
    }
};

// x and w of one image: their mass, and whether it can be projected at all.
struct Facts {
    double mass = 0, change = 0;  // the largest |w - x|
    bool usable = true;
};

template <class T>
Facts look(const T* x, const T* w, int64_t count) {
    double part[sinkhorn_lanes] = {}, change[sinkhorn_lanes] = {};
    uint64_t good[sinkhorn_lanes];
    for (int64_t l = 0; l < sinkhorn_lanes; ++l) good[l] = 1;
    const auto take = [&](int64_t i, int64_t l) {
        const double source = static_cast<double>(x[i]), difference = static_cast<double>(w[i]) - source;
        part[l] += source;
        change[l] = larger(change[l], absolute(difference));
        good[l] &= static_cast<uint64_t>(source >= 0) & static_cast<uint64_t>(difference - difference == 0);
    };
    int64_t i = 0;
    for (; i + sinkhorn_lanes <= count; i += sinkhorn_lanes) {
        for (int64_t l = 0; l < sinkhorn_lanes; ++l) take(i + l, l);
    }
    for (int64_t l = 0; i + l < count; ++l) take(i + l, l);
    Facts facts;
    for (int64_t l = 0; l < sinkhorn_lanes; ++l) {
        facts.mass += part[l];
        facts.change = larger(facts.change, change[l]);
        facts.usable = facts.usable && good[l] == 1;
    }
    facts.usable = facts.usable && facts.mass - facts.mass == 0;
    return facts;
}

}  // namespace
}  // namespace VERIFIX_ISA_NAMESPACE
}  // namespace verifix
