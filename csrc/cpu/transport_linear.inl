// The kernel itself, compiled once for each instruction set: VERIFIX_ISA_NAMESPACE and VERIFIX_VECTOR_BYTES say which.
//
// Of a row, the pixels that see an entry other than zero lie in a box per channel; class maxima are found there. Of an
// image, those of these pixels that have mass are gathered, in their order, and swept.

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "transport_linear_pairs.h"
#include "verifix/transport_linear_arithmetic.h"

namespace verifix {
namespace VERIFIX_ISA_NAMESPACE {
namespace {

using namespace transport;

typedef double Vector __attribute__((vector_size(VERIFIX_VECTOR_BYTES)));
typedef double VectorInMemory __attribute__((vector_size(VERIFIX_VECTOR_BYTES), aligned(8), may_alias));
constexpr int64_t vector_lanes = VERIFIX_VECTOR_BYTES / 8;
constexpr int vectors = lanes / vector_lanes;  // of each sum

template <class T>
struct Worker {
    const TransportPairs<T>& job;
    const TransportScratch<T>& scratch;
    const int64_t plane, padded_width, padded_plane, pixels;
    int64_t at_row = -1;
    bool finite = true, has_nan = false;
    int n = 0, rounded = 0;  // gathered pixels, and the same in whole groups of lanes

    Worker(const TransportPairs<T>& job, const TransportScratch<T>& scratch)
        : job(job),
          scratch(scratch),
          plane(job.height * job.width),
          padded_width(job.width + 2 * job.radius),
          padded_plane(padded_width * (job.height + 2 * job.radius)),
          pixels(plane * job.channels) {
        for (int64_t i = 0; i < padded_plane * job.channels; ++i) scratch.padded[i] = static_cast<T>(-INFINITY);
    }

    T* padded_at(int64_t channel, int64_t i, int64_t j) const {
        return scratch.padded + channel * padded_plane + (i + job.radius) * padded_width + j + job.radius;
    }

    // Where a row of a plane is not zero; false where nowhere.
    bool extent(const T* source, int64_t& left, int64_t& right) const {
        T any = 0;
        for (int64_t j = 0; j < job.width; ++j) any = source[j] != 0 ? static_cast<T>(1) : any;
        if (any == 0) return false;
        int64_t from = 0, to = job.width;
        while (source[from] == 0) ++from;
        while (source[to - 1] == 0) --to;
        left = from < left ? from : left;
        right = to > right ? to : right;
        return true;
    }

    // The class maxima of a row, where it can be seen; one row after the other reuses them.
    void load_row(int64_t row) {
        if (row == at_row) return;
        at_row = row;
        const T* const g = job.g + row * pixels;
        int broken = 0, nan = 0;
        for (int64_t i = 0; i < pixels; ++i) {
            broken |= g[i] - g[i] != 0;
            nan |= g[i] != g[i];
        }
        finite = broken == 0;
        has_nan = nan != 0;
        if (!finite) return;
        for (int64_t c = 0; c < job.channels; ++c) {
            const TransportBox box = scratch.boxes[c] = seen_box(c);
            for (int64_t i = box.top; i < box.bottom; ++i) load_class_maxima(c, i, box);
        }
    }

    TransportBox seen_box(int64_t c) const {
        const T* const g = job.g + at_row * pixels + c * plane;
        TransportBox box = {job.height, 0, job.width, 0};
        for (int64_t i = 0; i < job.height; ++i) {
            const T* const source = g + i * job.width;
            memcpy(padded_at(c, i, 0), source, job.width * sizeof(T));
            if (!extent(source, box.left, box.right)) continue;
            if (i < box.top) box.top = i;
            box.bottom = i + 1;
        }
        if (box.bottom > box.top) {
            box.top = box.top > job.radius ? box.top - job.radius : 0;
            box.left = box.left > job.radius ? box.left - job.radius : 0;
            box.bottom = box.bottom + job.radius < job.height ? box.bottom + job.radius : job.height;
            box.right = box.right + job.radius < job.width ? box.right + job.radius : job.width;
        }
        return box;
    }

    void load_class_maxima(int64_t c, int64_t i, const TransportBox& box) const {
        const int64_t count = box.right - box.left;
        for (int32_t p = 0; p < job.classes; ++p) {
            T* const largest = scratch.largest + p * pixels + c * plane + i * job.width + box.left;
            const T* const center = padded_at(c, i, box.left);
            for (int32_t k = job.first[p]; k < job.first[p + 1]; ++k) {
                const T* const source = center + job.offsets[k].di * padded_width + job.offsets[k].dj;
                if (k == job.first[p]) {
                    memcpy(largest, source, count * sizeof(T));
                } else {
                    for (int64_t j = 0; j < count; ++j) largest[j] = source[j] > largest[j] ? source[j] : largest[j];
                }
            }
        }
    }

    // The pixels with mass that see the row.
    void gather(const T* x) {
        n = 0;
        for (int64_t c = 0; c < job.channels; ++c) {
            const TransportBox& box = scratch.boxes[c];
            for (int64_t i = box.top; i < box.bottom; ++i) {
                const int64_t line = c * plane + i * job.width;
                for (int64_t j = box.left; j < box.right; ++j) {
                    scratch.place[n] = static_cast<int32_t>(line + j);
                    n += x[line + j] != 0;
                }
            }
        }
        rounded = (n + lanes - 1) / lanes * lanes;
        for (int k = 0; k < n; ++k) {
            const double mass = static_cast<double>(x[scratch.place[k]]);
            scratch.mass[k] = mass >= 0 ? mass : NAN;
        }
        for (int k = n; k < rounded; ++k) scratch.mass[k] = 0;
        for (int32_t p = 0; p < job.classes; ++p) {
            double* const values = scratch.values + p * scratch.capacity;
            const T* const largest = scratch.largest + p * pixels;
            for (int k = 0; k < n; ++k) values[k] = static_cast<double>(largest[scratch.place[k]]);
            for (int k = n; k < rounded; ++k) values[k] = 0;
        }
    }

    static Vector load(const double* from) { return *reinterpret_cast<const VectorInMemory*>(from); }

    static double total(const Vector* sums) {
        double part[lanes];
        memcpy(part, sums, sizeof part);
        for (int width = lanes / 2; width > 0; width /= 2) {
            for (int lane = 0; lane < width; ++lane) part[lane] += part[lane + width];
        }
        return part[0];
    }

    Sums sweep(double lam) const {
        for (int32_t p = 0; p < job.classes; ++p) scratch.price[p] = price(lam, job.class_cost[p]);
        Vector dual[vectors], size[vectors], value[vectors], cost[vectors];
        for (int v = 0; v < vectors; ++v) {  // one after the other: their sums stay in registers
            Vector sum_dual = {}, sum_size = {}, sum_value = {}, sum_cost = {};
            for (int k = v * static_cast<int>(vector_lanes); k < rounded; k += lanes) {
                const double* const values = scratch.values + k;
                Vector chosen = load(values), best = chosen, paid = {};
                for (int32_t p = 1; p < job.classes; ++p) {
                    const Vector m = load(values + p * scratch.capacity), net = m - scratch.price[p];
                    const auto better = net > best;
                    best = better ? net : best;
                    chosen = better ? m : chosen;
                    paid = better ? Vector{} + job.class_cost[p] : paid;
                }
                const Vector mass = load(scratch.mass + k), product = mass * best;
                sum_dual += product;
                sum_size += product < 0 ? -product : product;
                sum_value += mass * chosen;
                sum_cost += mass * paid;
            }
            dual[v] = sum_dual, size[v] = sum_size, value[v] = sum_value, cost[v] = sum_cost;
        }
        return {total(dual), total(size), total(value), total(cost)};
    }

    // The class that a pixel chooses at lam, as a sweep does.
    int32_t choice(int k, double lam) const {
        double best = scratch.values[k];
        int32_t chosen = 0;
        for (int32_t p = 1; p < job.classes; ++p) {
            const double net = scratch.values[p * scratch.capacity + k] - price(lam, job.class_cost[p]);
            if (net > best) {
                best = net;
                chosen = p;
            }
        }
        return chosen;
    }

    // Adds mass to the first place of a class with the largest entry of the row.
    void add_mass(int32_t place, int32_t p, double mass) const {
        const int64_t c = place / plane, i = place % plane / job.width, j = place % job.width;
        const T largest = scratch.largest[p * pixels + place];
        for (int32_t k = job.first[p]; k < job.first[p + 1]; ++k) {
            const TransportOffset at = job.offsets[k];
            if (*padded_at(c, i + at.di, j + at.dj) == largest) {
                scratch.image[place + at.di * job.width + at.dj] += mass;
                return;
            }
        }
    }

    void write_maximiser(const Search& search, const T* x, T* z) const {
        const double share = search.share_of_left();
        memset(scratch.image, 0, pixels * sizeof(double));
        for (int k = 0; k < n; ++k) {
            const int32_t place = scratch.place[k];
            const double mass = scratch.mass[k], left = share * mass;
            add_mass(place, choice(k, search.left_lam), left);
            if (share < 1) add_mass(place, choice(k, search.right_lam), mass - left);
        }
        // pixels that do not see the row keep their mass
        int next = 0;
        for (int64_t i = 0; i < pixels; ++i) {
            const bool gathered = next < n && scratch.place[next] == i;
            next += gathered;
            z[i] = static_cast<T>(gathered ? scratch.image[i] : scratch.image[i] + static_cast<double>(x[i]));
        }
    }

    void run(int64_t pair) {
        load_row(job.row[pair]);
        const T* const x = job.x + job.image[pair] * pixels;
        Search search{};
        Sums sums = {0, 0, 0, 0};
        if (finite) {
            gather(x);
            search.begin(job.budget[job.image[pair]], n);
            if (n > 0) {
                sums = sweep(search.lam);
                bool open = search.after_zero(sums);
                if (open) open = search.after_infinity(sweep(search.lam));
                while (open) open = search.after(sweep(search.lam));
            }
        }
        const bool sound = finite && !(search.budget < 0) && search.budget == search.budget;
        job.upper[pair] = !sound ? (has_nan || finite ? NAN : INFINITY) : n > 0 ? search.best : 0;
        job.multiplier[pair] = !sound ? NAN : n > 0 ? search.best_lam : 0;
        if (job.z == nullptr) return;
        T* const z = job.z + pair * pixels;
        if (!sound || n == 0) {
            for (int64_t i = 0; i < pixels; ++i) z[i] = x[i];
            job.value[pair] = sound ? 0 : NAN;
            job.plan_cost[pair] = 0;
            return;
        }
        const double share = search.share_of_left();
        write_maximiser(search, x, z);
        job.value[pair] = search.right.value + share * (search.left.value - search.right.value);
        job.plan_cost[pair] = search.right.cost + share * (search.left.cost - search.right.cost);
    }
};

}  // namespace

void transport_linear_pairs(const TransportPairs<float>& job, const TransportScratch<float>& scratch, int64_t first,
                            int64_t last) noexcept {
    Worker<float> worker(job, scratch);
    for (int64_t pair = first; pair < last; ++pair) worker.run(pair);
}

void transport_linear_pairs(const TransportPairs<double>& job, const TransportScratch<double>& scratch, int64_t first,
                            int64_t last) noexcept {
    Worker<double> worker(job, scratch);
    for (int64_t pair = first; pair < last; ++pair) worker.run(pair);
}

}  // namespace VERIFIX_ISA_NAMESPACE
}  // namespace verifix
