// The kernels themselves, compiled once for each instruction set: VERIFIX_ISA_NAMESPACE and VERIFIX_VECTOR_BYTES say
// which.
//
// Lanes are counters. The blocks of all rows in order are cut into groups; a group of counters gives four arrays of
// words, a law makes numbers of them, word by word, and these are brought into the order of coordinates and added to
// the piece of each row that the group covers.

#include <stdint.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "noise_rows.h"

namespace verifix {
namespace VERIFIX_ISA_NAMESPACE {
namespace {

constexpr int counters = 32;         // of a group
constexpr int size = 4 * counters;   // words, and coordinates, of a group
constexpr int vector_lanes = VERIFIX_VECTOR_BYTES / 4;
constexpr int together = 2;  // vectors of counters that go through the rounds side by side

typedef uint32_t Words __attribute__((vector_size(VERIFIX_VECTOR_BYTES)));
typedef uint64_t Longs __attribute__((vector_size(VERIFIX_VECTOR_BYTES)));

// Products of the words 0, 2, 4... with a factor below 2^32.
VERIFIX_INLINE Longs multiply_even(Words words, uint32_t factor) {
    const Longs factors = Longs{} + factor;
#if VERIFIX_VECTOR_BYTES == 64
    return reinterpret_cast<Longs>(_mm512_maskz_mul_epu32(
        0xFF, reinterpret_cast<__m512i>(words), reinterpret_cast<__m512i>(factors)));
#elif VERIFIX_VECTOR_BYTES == 32
    return reinterpret_cast<Longs>(_mm256_mul_epu32(reinterpret_cast<__m256i>(words), reinterpret_cast<__m256i>(factors)));
#elif defined(__x86_64__)
    return reinterpret_cast<Longs>(_mm_mul_epu32(reinterpret_cast<__m128i>(words), reinterpret_cast<__m128i>(factors)));
#else
    return (reinterpret_cast<Longs>(words) & 0xFFFFFFFFu) * factors;
#endif
}

struct Product {
    Words high, low;
};

// Words 2i and 2i + 1 of a vector are the lower and the upper half of a long.
VERIFIX_INLINE Product multiply(Words words, uint32_t factor) {
    constexpr uint64_t upper = 0xFFFFFFFF00000000u, lower = 0xFFFFFFFFu;
    const Longs even = multiply_even(words, factor);
    const Longs odd = multiply_even(reinterpret_cast<Words>(reinterpret_cast<Longs>(words) >> 32), factor);
    return {reinterpret_cast<Words>((even >> 32) | (odd & upper)), reinterpret_cast<Words>((even & lower) | (odd << 32))};
}

// Counters and, in their place, the words drawn at them.
union Group {
    uint32_t word[4][counters];
    Words vector[4][counters / vector_lanes];
};

void draw(Group& group, PhiloxKey key) {
    for (int first = 0; first < counters / vector_lanes; first += together) {
        Words c[4][together];
        for (int v = 0; v < together; ++v) {
            for (int i = 0; i < 4; ++i) c[i][v] = group.vector[i][first + v];
        }
        PhiloxKey round_key = key;
        for (int round = 0; round < philox_rounds; ++round) {
            for (int v = 0; v < together; ++v) {
                const Product p0 = multiply(c[0][v], philox_multiplier_0), p1 = multiply(c[2][v], philox_multiplier_1);
                c[0][v] = p1.high ^ c[1][v] ^ round_key.low;
                c[1][v] = p1.low;
                c[2][v] = p0.high ^ c[3][v] ^ round_key.high;
                c[3][v] = p0.low;
            }
            round_key.low += philox_weyl_0;
            round_key.high += philox_weyl_1;
        }
        for (int v = 0; v < together; ++v) {
            for (int i = 0; i < 4; ++i) group.vector[i][first + v] = c[i][v];
        }
    }
}

// Where a group begins, and what its counters are.
struct Place {
    int64_t row, block;
};

void count_from(Group& group, const NoiseNames& names, int64_t blocks, Place place, int64_t limit, uint32_t stream) {
    PhiloxWords counter = noise_counter(names, place.row, place.block, stream);
    for (int lane = 0; lane < counters; ++lane) {
        for (int i = 0; i < 4; ++i) group.word[i][lane] = counter.word[i];
        ++counter.word[0];
        if (++place.block < blocks) continue;
        // The next row; beyond the last one lanes are drawn and not used.
        place = {place.row + 1 < limit ? place.row + 1 : place.row, 0};
        counter = noise_counter(names, place.row, 0, stream);
    }
}

void in_one_row(Group& group, PhiloxWords counter) {
    for (int lane = 0; lane < counters; ++lane) {
        group.word[0][lane] = counter.word[0] + static_cast<uint32_t>(lane);
        for (int i = 1; i < 4; ++i) group.word[i][lane] = counter.word[i];
    }
}

// Draws the groups of rows [first, last). `make(group, counted)` turns the words of stream 0 into numbers of 32 bits, in
// place; counted(other, stream) gives it the counters of another stream of the same group.
// `emit(row, coordinate, count, numbers)` takes them to a piece of a row.
template <class Make, class Emit>
void rows(const NoiseNames& names, int64_t first, int64_t last, const Make& make, const Emit& emit) {
    const int64_t blocks = noise_blocks(names);
    Place place = {first, 0};
    while (place.row < last) {
        const auto counted = [&](Group& group, uint32_t stream) {
            if (place.block + counters <= blocks) {
                in_one_row(group, noise_counter(names, place.row, place.block, stream));
            } else {
                count_from(group, names, blocks, place, last, stream);
            }
        };
        Group group;
        counted(group, 0);
        draw(group, names.key);
        make(group, counted);

        uint32_t numbers[size];
        for (int lane = 0; lane < counters; ++lane) {
            for (int i = 0; i < 4; ++i) numbers[4 * lane + i] = group.word[i][lane];
        }
        for (int64_t lane = 0; lane < counters && place.row < last;) {
            const int64_t left = counters - lane, ahead = blocks - place.block, run = ahead < left ? ahead : left;
            const int64_t coordinate = 4 * place.block, rest = names.d - coordinate;
            if (run == counters && rest >= size) {
                emit(place.row, coordinate, size, numbers);
            } else {
                emit(place.row, coordinate, rest < 4 * run ? rest : 4 * run, numbers + 4 * lane);
            }
            lane += run;
            place.block += run;
            if (place.block == blocks) place = {place.row + 1, 0};
        }
    }
}

template <class Number>
VERIFIX_INLINE void each_word(Group& group, const Number& number) {
    for (int i = 0; i < 4; ++i) {
        for (int lane = 0; lane < counters; ++lane) group.word[i][lane] = number(group.word[i][lane]);
    }
}

template <NoiseLaw law>
void to_numbers(Group& group) {
    if (law == NoiseLaw::laplace) return each_word(group, [](uint32_t word) { return bits_of(laplace_number(word)); });
    if (law == NoiseLaw::uniform) return each_word(group, [](uint32_t word) { return bits_of(uniform_number(word)); });
    for (int i = 0; i < 4; i += 2) {
        for (int lane = 0; lane < counters; ++lane) {
            const Pair pair = normal_pair(group.word[i][lane], group.word[i + 1][lane]);
            group.word[i][lane] = bits_of(pair.first);
            group.word[i + 1][lane] = bits_of(pair.second);
        }
    }
}

template <NoiseLaw law, class T>
void add_noise_rows(const AddNoise<T>& job, int64_t first, int64_t last) {
    const int64_t d = job.names.d;
    const auto make = [](Group& group, const auto&) { to_numbers<law>(group); };
    rows(job.names, first, last, make, [&](int64_t row, int64_t coordinate, int64_t count, const uint32_t* numbers) {
        const T* const x = job.x + row / job.names.count * d + coordinate;
        T* const __restrict out = job.out + row * d + coordinate;
        if (job.scales != nullptr) {
            const float* const scales = job.scales + coordinate;
            for (int64_t i = 0; i < count; ++i) out[i] = x[i] + static_cast<T>(float_of(numbers[i]) * scales[i]);
        } else {
            const float scale = job.scale;
            for (int64_t i = 0; i < count; ++i) out[i] = x[i] + static_cast<T>(float_of(numbers[i]) * scale);
        }
    });
}

template <class T>
void add_noise_rows(const AddNoise<T>& job, int64_t first, int64_t last) {
    switch (job.law) {
        case NoiseLaw::gaussian:
            return add_noise_rows<NoiseLaw::gaussian>(job, first, last);
        case NoiseLaw::laplace:
            return add_noise_rows<NoiseLaw::laplace>(job, first, last);
        case NoiseLaw::uniform:
            return add_noise_rows<NoiseLaw::uniform>(job, first, last);
    }
}

// The word of another stream at the same place of a group.
VERIFIX_INLINE uint32_t word_at(const Group& counters_of_stream, PhiloxKey key, int i, int lane) {
    const auto& word = counters_of_stream.word;
    return philox({{word[0][lane], word[1][lane], word[2][lane], word[3][lane]}}, key).word[i];
}

// Calls body(i, lane) where a mark is set: rarely.
template <class Body>
VERIFIX_INLINE void each_marked(const uint32_t (&marks)[4][counters], const Body& body) {
    uint32_t any = 0;
    for (int i = 0; i < 4; ++i) {
        for (int lane = 0; lane < counters; ++lane) any |= marks[i][lane];
    }
    if (any == 0) return;
    for (int i = 0; i < 4; ++i) {
        for (int lane = 0; lane < counters; ++lane) {
            if (marks[i][lane] != 0) body(i, lane);
        }
    }
}

// Words to lattice steps. The guide decides by the upper 31 bits, but for the few draws that it marks.
template <class Counted>
void to_steps(Group& group, const LatticeLaw& law, PhiloxKey key, const Counted& counted) {
    const int32_t offset = lattice_offset(law.shift);
    const int shift = law.shift;
    uint32_t marks[4][counters], word[4][counters];
    int32_t bucket[4][counters], below[4][counters], inside[4][counters];
    // Loads from here and there stand by themselves, so that what is before and after them is done in vectors.
    for (int i = 0; i < 4; ++i) {
        for (int lane = 0; lane < counters; ++lane) {
            const uint32_t drawn = group.word[i][lane];
            bucket[i][lane] = lattice_bucket(static_cast<int32_t>(drawn ^ lattice_flip(drawn)), shift, offset);
        }
    }
    for (int i = 0; i < 4; ++i) {
        for (int lane = 0; lane < counters; ++lane) {
            const int32_t* const row = law.guide + 2 * bucket[i][lane];
            below[i][lane] = row[0];
            inside[i][lane] = row[1];
        }
    }
    for (int i = 0; i < 4; ++i) {
        for (int lane = 0; lane < counters; ++lane) {
            const uint32_t drawn = group.word[i][lane], flip = lattice_flip(drawn);
            const int32_t upper = static_cast<int32_t>(drawn ^ flip);
            const int32_t count = below[i][lane] + (upper > inside[i][lane] ? 1 : 0);
            word[i][lane] = drawn;
            marks[i][lane] = static_cast<uint32_t>((below[i][lane] < 0) | (upper == inside[i][lane]));
            const int32_t steps = count - static_cast<int32_t>(law.steps), sign = static_cast<int32_t>(flip);
            group.word[i][lane] = static_cast<uint32_t>((steps ^ sign) - sign);
        }
    }
    Group again;
    bool again_counted = false;
    each_marked(marks, [&](int i, int lane) {
        if (!again_counted) counted(again, 1);
        again_counted = true;
        const uint32_t second = word_at(again, key, i, lane);
        group.word[i][lane] = static_cast<uint32_t>(lattice_exactly(law, word[i][lane], second));
    });
}

template <class T>
void add_lattice_noise_rows(const AddLatticeNoise<T>& job, int64_t first, int64_t last) {
    const int64_t d = job.names.d;
    const auto make = [&](Group& group, const auto& counted) { to_steps(group, job.law, job.names.key, counted); };
    rows(job.names, first, last, make, [&](int64_t row, int64_t coordinate, int64_t count, const uint32_t* numbers) {
        const int32_t* const positions = job.positions + row / job.names.count * d + coordinate;
        T* const __restrict out = job.out + row * d + coordinate;
        const T levels = job.levels;
        for (int64_t i = 0; i < count; ++i) {
            out[i] = static_cast<T>(positions[i] + static_cast<int32_t>(numbers[i])) / levels;
        }
    });
}

constexpr int32_t kept = -1;

// Words to the number of another value, or `kept`.
template <class Counted>
void to_replacements(Group& group, uint64_t threshold, uint32_t levels, PhiloxKey key, const Counted& counted) {
    Group other;
    counted(other, 1);
    draw(other, key);
    uint32_t marks[4][counters], word[4][counters];
    for (int i = 0; i < 4; ++i) {
        for (int lane = 0; lane < counters; ++lane) {
            const bool keep = group.word[i][lane] < threshold;
            bool carry = false;
            const uint32_t number = replacement(other.word[i][lane], levels, carry);
            word[i][lane] = other.word[i][lane];
            marks[i][lane] = static_cast<uint32_t>(!keep & carry);
            group.word[i][lane] = keep ? static_cast<uint32_t>(kept) : number;
        }
    }
    Group again;
    bool again_counted = false;
    each_marked(marks, [&](int i, int lane) {
        if (!again_counted) counted(again, 2);
        again_counted = true;
        group.word[i][lane] = replacement_exactly(word[i][lane], word_at(again, key, i, lane), levels);
    });
}

template <class T>
void keep_or_replace_rows(const KeepOrReplace<T>& job, int64_t first, int64_t last) {
    const int64_t d = job.names.d;
    const auto make = [&](Group& group, const auto& counted) {
        to_replacements(group, job.threshold, job.levels, job.names.key, counted);
    };
    rows(job.names, first, last, make, [&](int64_t row, int64_t coordinate, int64_t count, const uint32_t* numbers) {
        const int32_t* const positions = job.positions + row / job.names.count * d + coordinate;
        T* const __restrict out = job.out + row * d + coordinate;
        const T levels = static_cast<T>(job.levels);
        for (int64_t i = 0; i < count; ++i) {
            const int32_t other = static_cast<int32_t>(numbers[i]), position = positions[i];
            out[i] = static_cast<T>(other == kept ? position : replaced(other, position)) / levels;
        }
    });
}

}  // namespace

void noise_rows(const AddNoise<float>& job, int64_t first, int64_t last) noexcept { add_noise_rows(job, first, last); }
void noise_rows(const AddNoise<double>& job, int64_t first, int64_t last) noexcept { add_noise_rows(job, first, last); }

void noise_rows(const AddLatticeNoise<float>& job, int64_t first, int64_t last) noexcept {
    add_lattice_noise_rows(job, first, last);
}
void noise_rows(const AddLatticeNoise<double>& job, int64_t first, int64_t last) noexcept {
    add_lattice_noise_rows(job, first, last);
}

void noise_rows(const KeepOrReplace<float>& job, int64_t first, int64_t last) noexcept {
    keep_or_replace_rows(job, first, last);
}
void noise_rows(const KeepOrReplace<double>& job, int64_t first, int64_t last) noexcept {
    keep_or_replace_rows(job, first, last);
}

void noise_rows(const RandomWords& job, int64_t first, int64_t last) noexcept {
    const auto make = [](Group&, const auto&) {};
    rows(job.names, first, last, make, [&](int64_t row, int64_t coordinate, int64_t count, const uint32_t* numbers) {
        int64_t* const __restrict out = job.out + row * job.names.d + coordinate;
        for (int64_t i = 0; i < count; ++i) out[i] = numbers[i];
    });
}

}  // namespace VERIFIX_ISA_NAMESPACE
}  // namespace verifix
