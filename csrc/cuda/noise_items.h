// One block of four coordinates of one row, for each kind of noise: what a thread of noise.cu does. It also compiles for
// the host, where tests run it.
#pragma once

#include <cstdint>

#include "verifix/noise_job.h"

namespace verifix {

// The words of a stream for the coordinates of a block.
VERIFIX_INLINE PhiloxWords words_of(const NoiseNames& names, std::int64_t row, std::int64_t block, std::uint32_t stream) {
    return philox(noise_counter(names, row, block, stream), names.key);
}

// Calls body(word, coordinate) for the coordinates that the block has.
template <class Body>
VERIFIX_INLINE void each_coordinate(const NoiseNames& names, std::int64_t block, const Body& body) {
    for (int i = 0; i < 4; ++i) {
        if (4 * block + i < names.d) body(i, 4 * block + i);
    }
}

template <class T>
VERIFIX_INLINE void noise_item(const AddNoise<T>& job, std::int64_t row, std::int64_t block) {
    const NoiseNames& names = job.names;
    const PhiloxWords words = words_of(names, row, block, 0);
    float numbers[4];
    for (int i = 0; i < 4; i += 2) {
        const std::uint32_t first = words.word[i], second = words.word[i + 1];
        if (job.law == NoiseLaw::gaussian) {
            const Pair pair = normal_pair(first, second);
            numbers[i] = pair.first;
            numbers[i + 1] = pair.second;
        } else if (job.law == NoiseLaw::laplace) {
            numbers[i] = laplace_number(first);
            numbers[i + 1] = laplace_number(second);
        } else {
            numbers[i] = uniform_number(first);
            numbers[i + 1] = uniform_number(second);
        }
    }
    const T* const x = job.x + row / names.count * names.d;
    each_coordinate(names, block, [&](int i, std::int64_t c) {
        const float noise = numbers[i] * (job.scales != nullptr ? job.scales[c] : job.scale);
        job.out[row * names.d + c] = x[c] + static_cast<T>(noise);
    });
}

template <class T>
VERIFIX_INLINE void noise_item(const AddLatticeNoise<T>& job, std::int64_t row, std::int64_t block) {
    const NoiseNames& names = job.names;
    const LatticeLaw& law = job.law;
    const PhiloxWords words = words_of(names, row, block, 0);
    const std::int32_t* const positions = job.positions + row / names.count * names.d;
    const std::int32_t offset = lattice_offset(law.shift);
    each_coordinate(names, block, [&](int i, std::int64_t c) {
        const std::uint32_t flip = lattice_flip(words.word[i]);
        const auto upper = static_cast<std::int32_t>(words.word[i] ^ flip);
        const std::int32_t bucket = lattice_bucket(upper, law.shift, offset);
        const std::int32_t below = law.guide[2 * bucket], inside = law.guide[2 * bucket + 1];
        std::int32_t steps = lattice_steps(law, below + (upper > inside ? 1 : 0), flip);
        if (below < 0 || upper == inside) {
            steps = lattice_exactly(law, words.word[i], words_of(names, row, block, 1).word[i]);
        }
        job.out[row * names.d + c] = static_cast<T>(positions[c] + steps) / job.levels;
    });
}

template <class T>
VERIFIX_INLINE void noise_item(const KeepOrReplace<T>& job, std::int64_t row, std::int64_t block) {
    const NoiseNames& names = job.names;
    const PhiloxWords words = words_of(names, row, block, 0), others = words_of(names, row, block, 1);
    const std::int32_t* const positions = job.positions + row / names.count * names.d;
    each_coordinate(names, block, [&](int i, std::int64_t c) {
        std::int32_t position = positions[c];
        if (words.word[i] >= job.threshold) {
            bool carry = false;
            std::uint32_t other = replacement(others.word[i], job.levels, carry);
            if (carry) {
                const std::uint32_t second = words_of(names, row, block, 2).word[i];
                other = replacement_exactly(others.word[i], second, job.levels);
            }
            position = replaced(static_cast<std::int32_t>(other), position);
        }
        job.out[row * names.d + c] = static_cast<T>(position) / static_cast<T>(job.levels);
    });
}

VERIFIX_INLINE void noise_item(const RandomWords& job, std::int64_t row, std::int64_t block) {
    const PhiloxWords words = words_of(job.names, row, block, 0);
    each_coordinate(job.names, block,
                    [&](int i, std::int64_t c) { job.out[row * job.names.d + c] = words.word[i]; });
}

}  // namespace verifix
