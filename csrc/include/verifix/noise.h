// Noise by name: every number is a function of the seed, the purpose, the input, the sample and the coordinate, and of
// nothing else; all implementations agree in every bit. noise_job.h has the arguments.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

#include "verifix/isa.h"
#include "verifix/noise_job.h"

namespace verifix {

// All of these throw std::invalid_argument where names are impossible (negative sizes, samples beyond 2^32, more than
// 2^63 - 1 elements), a pointer is null though there are elements, threads < 1, or the processor lacks the instructions.
// T is float or double. Input numbers are taken modulo 2^32, and positions must be small enough to add steps.
template <class T>
void add_noise_cpu(const AddNoise<T>& job, int threads, Isa isa);
template <class T>
void add_lattice_noise_cpu(const AddLatticeNoise<T>& job, int threads, Isa isa);
template <class T>
void keep_or_replace_cpu(const KeepOrReplace<T>& job, int threads, Isa isa);
void random_words_cpu(const RandomWords& job, int threads, Isa isa);

// The same on the current CUDA device, enqueued on `stream` (a cudaStream_t); all pointers are device memory. Does not
// wait. Throws std::runtime_error where the launch fails.
template <class T>
void add_noise_cuda(const AddNoise<T>& job, void* stream);
template <class T>
void add_lattice_noise_cuda(const AddLatticeNoise<T>& job, void* stream);
template <class T>
void keep_or_replace_cuda(const KeepOrReplace<T>& job, void* stream);
void random_words_cuda(const RandomWords& job, void* stream);

inline NoiseLaw noise_law(const std::string& name) {
    if (name == "gaussian") return NoiseLaw::gaussian;
    if (name == "laplace") return NoiseLaw::laplace;
    if (name == "uniform") return NoiseLaw::uniform;
    throw std::invalid_argument("law = " + name + ": must be gaussian, laplace or uniform");
}

// What all check first; false where there is nothing to draw.
inline bool check_noise(const NoiseNames& names, const void* source, const void* out) {
    constexpr std::int64_t words = std::int64_t{1} << 32;
    const std::string text =
        std::to_string(names.n) + ", " + std::to_string(names.count) + ", " + std::to_string(names.d);
    if (names.n < 0 || names.count < 0 || names.d < 0) {
        throw std::invalid_argument("noise: shape (" + text + "): sizes must be >= 0");
    }
    if (names.start < 0 || names.start > words || names.count > words - names.start || names.d > 4 * words) {
        throw std::invalid_argument("noise: shape (" + text + ") from sample " + std::to_string(names.start) +
                                    ": samples and blocks must be numbered below 2^32");
    }
    std::int64_t rows = 0, elements = 0;
    if (__builtin_mul_overflow(names.n, names.count, &rows) || __builtin_mul_overflow(rows, names.d + 3, &elements)) {
        throw std::invalid_argument("noise: shape (" + text + "): more than 2^63 - 1 elements");
    }
    if (rows == 0 || names.d == 0) return false;
    if (names.inputs == nullptr || source == nullptr || out == nullptr) {
        throw std::invalid_argument("noise: a null pointer with shape (" + text + ")");
    }
    return true;
}

inline void check_replacement(std::uint64_t threshold, std::uint32_t levels) {
    if (threshold > std::uint64_t{1} << 32 || levels < 1 || levels > 65535) {
        throw std::invalid_argument("noise: threshold " + std::to_string(threshold) + ", levels " +
                                    std::to_string(levels) + ": must be at most 2^32, and from 1 to 65535");
    }
}

// That the guide has a row for every bucket, and the table no more steps than positions leave room for.
inline void check_lattice_law(const LatticeLaw& law, std::int64_t guide_rows) {
    constexpr std::int64_t most_steps = std::int64_t{1} << 18;
    if (law.shift < 11 || law.shift > 19 || guide_rows != (std::int64_t{31} << (23 - law.shift)) + 2) {
        throw std::invalid_argument("noise: a guide of " + std::to_string(guide_rows) + " rows with shift " +
                                    std::to_string(law.shift) + " is none of verifix/kernels/lattice.py");
    }
    if (law.steps < 0 || law.steps > most_steps || law.guide == nullptr ||
        (law.steps > 0 && law.thresholds == nullptr)) {
        throw std::invalid_argument("noise: a table of " + std::to_string(law.steps) + " steps cannot be used");
    }
}

}  // namespace verifix
