// Philox-4x32-10: four random words of a counter of four words and a key of two (Salmon, Moraes, Dror, Shaw, Parallel
// random numbers: as easy as 1, 2, 3, 2011). How counters name samples is in noise.h.
#pragma once

#include <stdint.h>

#include "verifix/inline.h"

namespace verifix {

struct PhiloxKey {
    uint32_t low, high;
};

struct PhiloxWords {
    uint32_t word[4];
};

constexpr int philox_rounds = 10;
constexpr uint32_t philox_multiplier_0 = 0xD2511F53u, philox_multiplier_1 = 0xCD9E8D57u;
constexpr uint32_t philox_weyl_0 = 0x9E3779B9u, philox_weyl_1 = 0xBB67AE85u;

VERIFIX_INLINE PhiloxWords philox(PhiloxWords counter, PhiloxKey key) {
    uint32_t c0 = counter.word[0], c1 = counter.word[1], c2 = counter.word[2], c3 = counter.word[3];
    for (int round = 0; round < philox_rounds; ++round) {
        const uint64_t p0 = static_cast<uint64_t>(philox_multiplier_0) * c0;
        const uint64_t p1 = static_cast<uint64_t>(philox_multiplier_1) * c2;
        c0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ key.low;
        c1 = static_cast<uint32_t>(p1);
        c2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ key.high;
        c3 = static_cast<uint32_t>(p0);
        key.low += philox_weyl_0;
        key.high += philox_weyl_1;
    }
    return {{c0, c1, c2, c3}};
}

}  // namespace verifix
