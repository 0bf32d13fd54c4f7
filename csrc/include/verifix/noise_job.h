// What is to be drawn, as kernels take it, and how one block of four coordinates is drawn. Shared by the CPU kernels of
// every instruction set and by the device: plain C types, nothing of external linkage.
//
// Every random word is a function of its name: Philox at the counter (block, sample, input, purpose + stream 2^30),
// keyed by the seed; coordinate c takes word c % 4 of block c / 4. Stream 0 has the words that are always needed, streams
// 1 and 2 further ones. verifix/kernels/noise_reference.py is the same in plain torch.
#pragma once

#include <stdint.h>

#include "verifix/normal.h"
#include "verifix/philox.h"

namespace verifix {

enum class NoiseLaw { gaussian, laplace, uniform };

// Rows are (input, sample), row = input * count + sample; each has d coordinates, in (d + 3) / 4 blocks.
struct NoiseNames {
    const int64_t* inputs;  // (n,) numbers below 2^32
    int64_t n, start, count, d;
    PhiloxKey key;
    uint32_t purpose;
};

constexpr int noise_stream_shift = 30;

VERIFIX_INLINE int64_t noise_blocks(const NoiseNames& names) { return (names.d + 3) / 4; }

VERIFIX_INLINE PhiloxWords noise_counter(const NoiseNames& names, int64_t row, int64_t block, uint32_t stream) {
    return {{static_cast<uint32_t>(block), static_cast<uint32_t>(names.start + row % names.count),
             static_cast<uint32_t>(names.inputs[row / names.count]), names.purpose | stream << noise_stream_shift}};
}

// x (n, d) + scale * Z as (n, count, d); scales (d,) where there is one for each coordinate, else null.
template <class T>
struct AddNoise {
    NoiseNames names;
    NoiseLaw law;
    const T* x;
    const float* scales;
    float scale;
    T* out;
};

// The thresholds of verifix/kernels/lattice.py, 2^64 P(K <= k) for k = -steps to -1, and its guide: for each bucket
// the number of thresholds below it (-1: more than one inside) and the upper 31 bits of the one inside.
struct LatticeLaw {
    const int64_t* thresholds;
    int64_t steps;
    const int32_t* guide;  // (buckets, 2)
    int shift;
};

// (positions + K) / levels.
template <class T>
struct AddLatticeNoise {
    NoiseNames names;
    LatticeLaw law;
    const int32_t* positions;
    T levels;
    T* out;
};

// position / levels where a word is below the threshold, else one of the `levels` other values.
template <class T>
struct KeepOrReplace {
    NoiseNames names;
    const int32_t* positions;
    uint64_t threshold;  // 0 to 2^32
    uint32_t levels;     // below 2^16
    T* out;
};

struct RandomWords {
    NoiseNames names;
    int64_t* out;
};

// Whether a word is above one half, all bits set, else none. The law is symmetric, and the complement goes as many steps
// the other way.
VERIFIX_INLINE uint32_t lattice_flip(uint32_t word) { return 0u - (word >> 31); }

VERIFIX_INLINE int32_t lattice_offset(int shift) { return (0x3F800000 >> shift) - 1; }

// The bucket of the upper 31 bits of a draw, by their size as a float.
VERIFIX_INLINE int32_t lattice_bucket(int32_t upper, int shift, int32_t offset) {
    const int32_t bucket = static_cast<int32_t>(bits_of(static_cast<float>(upper)) >> shift) - offset;
    return bucket < 0 ? 0 : bucket;
}

// How many thresholds are not above the draw, by bisection of all 63 bits.
VERIFIX_INLINE int64_t lattice_count(const LatticeLaw& law, int64_t draw) {
    int64_t low = 0, high = law.steps;
    while (low < high) {
        const int64_t middle = (low + high) / 2;
        if (law.thresholds[middle] <= draw) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

VERIFIX_INLINE int32_t lattice_steps(const LatticeLaw& law, int32_t count, uint32_t flip) {
    const int32_t steps = count - static_cast<int32_t>(law.steps);
    return flip != 0 ? -steps : steps;
}

// By inversion of 64 bits, from a word and the word of stream 1 of the same name.
VERIFIX_INLINE int32_t lattice_exactly(const LatticeLaw& law, uint32_t word, uint32_t second) {
    const uint32_t flip = lattice_flip(word);
    const uint64_t draw = static_cast<uint64_t>(word ^ flip) << 32 | (second ^ flip);
    return lattice_steps(law, static_cast<int32_t>(lattice_count(law, static_cast<int64_t>(draw))), flip);
}

// The upper word of levels * (64 random bits), without the carry of the lower word of those bits; `carry` says whether
// there could be one.
VERIFIX_INLINE uint32_t replacement(uint32_t word, uint32_t levels, bool& carry) {
    const uint64_t product = static_cast<uint64_t>(word) * levels;
    carry = static_cast<uint32_t>(product) > 0u - levels;
    return static_cast<uint32_t>(product >> 32);
}

VERIFIX_INLINE uint32_t replacement_exactly(uint32_t word, uint32_t second, uint32_t levels) {
    return static_cast<uint32_t>((static_cast<uint64_t>(word) * levels + (static_cast<uint64_t>(second) * levels >> 32)) >> 32);
}

VERIFIX_INLINE int32_t replaced(int32_t other, int32_t position) { return other + (other >= position ? 1 : 0); }

}  // namespace verifix
