// The kernel itself, compiled once for each instruction set: VERIFIX_ISA_NAMESPACE and VERIFIX_VECTOR_BYTES say which.
//
// Lanes are pixels. The pixels of an image that hold mass are gathered into blocks, offsets one after another; entries
// that leave the image are -inf there. All that follows works on the blocks, in float64, and never looks at other lanes.

#include <stdint.h>
#include <string.h>

#include "transport_project_images.h"

namespace verifix {
namespace VERIFIX_ISA_NAMESPACE {
namespace {

typedef double Vector __attribute__((vector_size(VERIFIX_VECTOR_BYTES)));
typedef int64_t Mask __attribute__((vector_size(VERIFIX_VECTOR_BYTES)));

constexpr int64_t vector_lanes = VERIFIX_VECTOR_BYTES / 8, vectors = transport_block / vector_lanes;
constexpr double infinity = __builtin_inf();

union Block {
    double lane[transport_block];
    Vector vector[vectors];
};

bool any(Mask mask) {
    int64_t all = 0;
    for (int64_t lane = 0; lane < vector_lanes; ++lane) all |= mask[lane];
    return all != 0;
}

Vector all_lanes(double value) { return Vector{} + value; }

// `fixed` is the number of offsets, 0: what the job says.
template <class T, int fixed>
struct Image {
    const ProjectPlan<T>& job;
    const int64_t offsets, height, width, area, pixels;
    const T* plan;
    const T* x;
    T* out;
    Block* rows;    // `offsets` blocks for each block of pixels
    Block* mass;    // x of these
    int64_t* pixel; // and which they are
    Block* moved;   // the rows of one block, at some multiplier, their maximum at 0
    int64_t blocks = 0, bright = 0;
    double first_sums[transport_slots], second_sums[transport_slots];

    Image(const ProjectPlan<T>& job, double* workspace)
        : job(job), offsets(fixed ? fixed : job.shape.window * job.shape.window), height(job.shape.height),
          width(job.shape.width), area(height * width), pixels(job.shape.channels * area) {
        const int64_t most = (pixels + transport_block - 1) / transport_block;
        rows = reinterpret_cast<Block*>(workspace);
        mass = rows + most * offsets;
        moved = mass + most;
        pixel = reinterpret_cast<int64_t*>(moved + offsets);
    }

    int64_t count() const { return fixed ? fixed : offsets; }

    // Entry (d) of pixel p in memory.
    int64_t entry(int64_t p, int64_t d) const { return (p / area * offsets + d) * area + p % area; }

    // The pixels with mass; false where something that counts is no number, or x is negative.
    bool gather() {
        bright = 0;
        bool valid = true;
        for (int64_t p = 0; p < pixels; ++p) {
            const double value = static_cast<double>(x[p]);
            valid = valid && value >= 0 && value <= transport_largest;
            if (value != 0) pixel[bright++] = p;
        }
        blocks = (bright + transport_block - 1) / transport_block;
        for (int64_t b = 0; b < blocks; ++b) valid = gather_block(b) && valid;
        return valid;
    }

    bool gather_block(int64_t b) {
        Block* const row = rows + b * offsets;
        const int64_t lanes = bright - b * transport_block < transport_block ? bright - b * transport_block : transport_block;
        const int64_t radius = job.shape.window / 2;
        bool valid = true;
        for (int64_t lane = 0; lane < transport_block; ++lane) {
            if (lane >= lanes) {
                mass[b].lane[lane] = 0;
                for (int64_t d = 0; d < count(); ++d) row[d].lane[lane] = 0;
                continue;
            }
            const int64_t p = pixel[b * transport_block + lane], i = p % area / width, j = p % width;
            const T* const source = plan + entry(p, 0);
            mass[b].lane[lane] = static_cast<double>(x[p]);
            if (i >= radius && i < height - radius && j >= radius && j < width - radius) {
                for (int64_t d = 0; d < count(); ++d) {
                    const double value = static_cast<double>(source[d * area]);
                    valid = transport_entry_valid(value) && valid;
                    row[d].lane[lane] = value;
                }
                continue;
            }
            for (int64_t d = 0, di = -radius; di <= radius; ++di) {
                for (int64_t dj = -radius; dj <= radius; ++dj, ++d) {
                    const bool inside = i + di >= 0 && i + di < height && j + dj >= 0 && j + dj < width;
                    const double value = inside ? static_cast<double>(source[d * area]) : -infinity;
                    valid = (!inside || transport_entry_valid(value)) && valid;
                    row[d].lane[lane] = value;
                }
            }
        }
        return valid;
    }

    void clear_sums() {
        for (int i = 0; i < transport_slots; ++i) first_sums[i] = second_sums[i] = 0;
    }

    void add_to_sums(int64_t b, const Block& first, const Block& second) {
        const int64_t lanes = bright - b * transport_block < transport_block ? bright - b * transport_block : transport_block;
        for (int64_t lane = 0; lane < lanes; ++lane) {
            const int64_t slot = pixel[b * transport_block + lane] % transport_slots;
            first_sums[slot] += first.lane[lane];
            second_sums[slot] += second.lane[lane];
        }
    }

    TwoSums sums() {
        for (int half = transport_slots / 2; half > 0; half /= 2) {
            for (int i = 0; i < half; ++i) {
                first_sums[i] += first_sums[i + half];
                second_sums[i] += second_sums[i + half];
            }
        }
        return {first_sums[0], second_sums[0]};
    }

    // A multiplier from which on nothing moves, and whether the plan is feasible as it is, up to rounding.
    double bracket(double target, bool* feasible) {
        Vector high = {};
        Mask wrong = {};
        const Vector loose = all_lanes(static_cast<double>(offsets) * TransportNumber<T>::epsilon);
        clear_sums();
        for (int64_t b = 0; b < blocks; ++b) {
            Block* const row = rows + b * offsets;
            Block spent;
            for (int64_t v = 0; v < vectors; ++v) {
                const Vector own = mass[b].vector[v];
                Vector free = all_lanes(-infinity), total = {}, cost = {};
                for (int64_t d = 0; d < count(); ++d) {
                    const Vector value = row[d].vector[v];
                    if (job.cost[d] == 0) free = value > free ? value : free;
                    const Vector inside = value > -infinity ? value : Vector{};
                    total += inside;
                    cost += inside * job.cost[d];
                    wrong |= inside < 0;
                }
                for (int64_t d = 0; d < count(); ++d) {
                    if (!(job.cost[d] > 0)) continue;
                    const Vector needed = (row[d].vector[v] - free + own) / job.cost[d];
                    high = (own > 0) & (needed > high) ? needed : high;
                }
                const Vector miss = total > own ? total - own : own - total;
                wrong |= ~(miss <= loose * own);
                spent.vector[v] = cost;
            }
            add_to_sums(b, spent, spent);
        }
        *feasible = !any(wrong) && sums().first <= target;
        double highest = 0;
        for (int64_t lane = 0; lane < vector_lanes; ++lane) highest = high[lane] > highest ? high[lane] : highest;
        return highest;
    }

    // Puts the rows of a block at a multiplier into `moved`, and returns the thresholds tau with
    // sum max(moved - tau, 0) = x: Newton from below, each step that changes anything leaves fewer entries above.
    Block thresholds(int64_t b, double multiplier) {
        const Block* const row = rows + b * offsets;
        Block tau;
        for (int64_t v = 0; v < vectors; ++v) {
            Vector top = all_lanes(-infinity);
            for (int64_t d = 0; d < count(); ++d) {
                const Vector value = row[d].vector[v] - multiplier * job.cost[d];
                moved[d].vector[v] = value;
                top = value > top ? value : top;
            }
            for (int64_t d = 0; d < count(); ++d) moved[d].vector[v] -= top;
            const Vector own = mass[b].vector[v];
            Vector threshold = -own;
            Mask run = own > 0;
            do {
                Vector total = {}, above = {};
                for (int64_t d = 0; d < count(); ++d) {
                    const Vector value = moved[d].vector[v];
                    const Mask is_above = value > threshold;
                    total += is_above ? value : Vector{};
                    above += is_above ? all_lanes(1) : Vector{};
                }
                const Vector following = (total - own) / above;
                run &= following > threshold;
                threshold = run ? following : threshold;
            } while (any(run));
            tau.vector[v] = threshold;
        }
        return tau;
    }

    // What the plan of a multiplier costs, and how fast that falls as the multiplier grows.
    TwoSums cost_at(double multiplier) {
        clear_sums();
        for (int64_t b = 0; b < blocks; ++b) {
            const Block tau = thresholds(b, multiplier);
            Block spent, slope;
            for (int64_t v = 0; v < vectors; ++v) {
                Vector cost = {}, above = {}, first = {}, second = {};
                for (int64_t d = 0; d < count(); ++d) {
                    const Vector value = moved[d].vector[v] - tau.vector[v], c = all_lanes(job.cost[d]);
                    const Mask is_above = moved[d].vector[v] > tau.vector[v];
                    cost += is_above ? value * c : Vector{};
                    above += is_above ? all_lanes(1) : Vector{};
                    first += is_above ? c : Vector{};
                    second += is_above ? c * c : Vector{};
                }
                const Vector falls = second - first * first / above;
                spent.vector[v] = cost;
                slope.vector[v] = (above > 0) & (falls > 0) ? falls : Vector{};
            }
            add_to_sums(b, spent, slope);
        }
        return sums();
    }

    // To T and back. In memory that the compiler must not see through: at -O3, g++ 12 drops such a pair of conversions
    // of elements of a vector.
    static void round_lanes(Block* block) {
        T rounded[transport_block];
        for (int64_t lane = 0; lane < transport_block; ++lane) rounded[lane] = static_cast<T>(block->lane[lane]);
        asm volatile("" : "+m"(rounded));
        for (int64_t lane = 0; lane < transport_block; ++lane) block->lane[lane] = static_cast<double>(rounded[lane]);
    }

    // Replaces the rows by the plan of a multiplier, rows scaled to x and rounded to T, and returns what it costs.
    double settle(double multiplier) {
        clear_sums();
        for (int64_t b = 0; b < blocks; ++b) {
            const Block tau = thresholds(b, multiplier);
            Block* const row = rows + b * offsets;
            for (int64_t v = 0; v < vectors; ++v) {
                Vector total = {};
                for (int64_t d = 0; d < count(); ++d) {
                    const Vector value = moved[d].vector[v];
                    const Vector move = value > tau.vector[v] ? value - tau.vector[v] : Vector{};
                    moved[d].vector[v] = move;
                    total += move;
                }
                const Vector own = mass[b].vector[v], scale = own / total;
                for (int64_t d = 0; d < count(); ++d) {
                    const Vector without = d == count() / 2 ? own : Vector{};
                    row[d].vector[v] = total > 0 ? moved[d].vector[v] * scale : without;
                }
            }
            Block spent = {};
            for (int64_t d = 0; d < count(); ++d) {
                round_lanes(row + d);
                for (int64_t v = 0; v < vectors; ++v) spent.vector[v] += row[d].vector[v] * job.cost[d];
            }
            add_to_sums(b, spent, spent);
        }
        return sums().first;
    }

    // All moves made smaller, what would be subnormal becomes 0; what no longer moves stays.
    void shrink(double kept) {
        for (int64_t b = 0; b < blocks; ++b) {
            Block* const row = rows + b * offsets;
            Block returned = {};
            for (int64_t d = 0; d < count(); ++d) {
                if (!(job.cost[d] > 0)) continue;
                Block smaller;
                for (int64_t v = 0; v < vectors; ++v) smaller.vector[v] = row[d].vector[v] * kept;
                round_lanes(&smaller);
                for (int64_t v = 0; v < vectors; ++v) {
                    const Vector move = smaller.vector[v] < TransportNumber<T>::smallest ? Vector{} : smaller.vector[v];
                    returned.vector[v] += row[d].vector[v] - move;
                    row[d].vector[v] = move;
                }
            }
            for (int64_t v = 0; v < vectors; ++v) row[count() / 2].vector[v] += returned.vector[v];
        }
    }

    void write() {
        memset(out, 0, static_cast<size_t>(offsets * pixels) * sizeof(T));
        for (int64_t at = 0; at < bright; ++at) {
            const Block* const row = rows + at / transport_block * offsets;
            T* const target = out + entry(pixel[at], 0);
            for (int64_t d = 0; d < count(); ++d) {
                const double value = row[d].lane[at % transport_block];
                target[d * area] = value == -infinity ? T{0} : static_cast<T>(value);
            }
        }
    }

    double project(int64_t image) {
        plan = job.plan + image * pixels * offsets;
        x = job.x + image * pixels;
        out = job.out + image * pixels * offsets;
        const double budget = job.budget[image], start = job.start == nullptr ? 0 : job.start[image];
        if (!gather() || !(budget >= 0)) {
            for (int64_t i = 0; i < pixels * offsets; ++i) out[i] = static_cast<T>(transport_nan);
            return transport_nan;
        }
        const double target = transport_target(budget, static_cast<double>(offsets * bright));
        bool feasible = false;
        const double high = bracket(target, &feasible);
        double multiplier = 0;
        if (!feasible) {
            multiplier = transport_multiplier(target, start, high, [&](double now) { return cost_at(now); });
            const double kept = transport_kept<T>(settle(multiplier), target);
            if (kept < 1) shrink(kept);
        }
        write();
        return multiplier;
    }
};

template <class T, int fixed>
void project_all(const ProjectPlan<T>& job, int64_t first, int64_t last, double* workspace) {
    Image<T, fixed> image(job, workspace);
    for (int64_t i = first; i < last; ++i) job.multiplier[i] = image.project(i);
}

template <class T>
void project_range(const ProjectPlan<T>& job, int64_t first, int64_t last, double* workspace) {
    if (!transport_costs_valid(job.cost, job.shape.window * job.shape.window)) {
        const int64_t entries = job.shape.window * job.shape.window * job.shape.channels * job.shape.height * job.shape.width;
        for (int64_t i = first * entries; i < last * entries; ++i) job.out[i] = static_cast<T>(transport_nan);
        for (int64_t i = first; i < last; ++i) job.multiplier[i] = transport_nan;
        return;
    }
    switch (job.shape.window) {
        case 3:
            return project_all<T, 9>(job, first, last, workspace);
        case 5:
            return project_all<T, 25>(job, first, last, workspace);
        case 7:
            return project_all<T, 49>(job, first, last, workspace);
        default:
            return project_all<T, 0>(job, first, last, workspace);
    }
}

}  // namespace

void project_plans(const ProjectPlan<float>& job, int64_t first, int64_t last, double* workspace) noexcept {
    project_range(job, first, last, workspace);
}

void project_plans(const ProjectPlan<double>& job, int64_t first, int64_t last, double* workspace) noexcept {
    project_range(job, first, last, workspace);
}

}  // namespace VERIFIX_ISA_NAMESPACE
}  // namespace verifix
