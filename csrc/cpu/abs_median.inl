// The kernel itself, compiled once for each instruction set: VERIFIX_ISA_NAMESPACE and VERIFIX_VECTOR_BYTES say which.
//
// Lanes are columns. A tile of columns is copied into a small array of integer keys (the bits of |x|, which order as
// |x| does), the median of each lane is found without branches, and a pass over the same keys finds the row that
// attains it.

#include <stdint.h>
#include <string.h>

#include "abs_median_columns.h"

namespace verifix {
namespace VERIFIX_ISA_NAMESPACE {
namespace {

template <class T>
struct Float;

template <>
struct Float<float> {
    using Key = int32_t;
    static constexpr Key magnitude = 0x7fffffff, infinity = 0x7f800000, nan = 0x7fc00000, top_bit = 0x40000000;
};

template <>
struct Float<double> {
    using Key = int64_t;
    static constexpr Key magnitude = 0x7fffffffffffffff, infinity = 0x7ff0000000000000, nan = 0x7ff8000000000000,
                         top_bit = 0x4000000000000000;
};

template <class T>
struct Tile {
    using Key = typename Float<T>::Key;
    typedef Key Vector __attribute__((vector_size(VERIFIX_VECTOR_BYTES)));
    static constexpr int64_t lanes = abs_median_tile_bytes / sizeof(T);
    static constexpr int64_t vectors = abs_median_tile_bytes / VERIFIX_VECTOR_BYTES;
    static constexpr int64_t rows = 1024;  // a longer axis goes through the tile in blocks of this many rows

    union Row {
        Key key[lanes];
        Vector vector[vectors];
    };

    const AbsMedianColumns<T>& job;
    const int64_t first, count;  // the columns of this tile
    Row keys[rows];
    Row work[abs_median_network_rows];
    Row median, index;

    Tile(const AbsMedianColumns<T>& job, int64_t tile)
        : job(job), first(tile * lanes), count(job.columns - first < lanes ? job.columns - first : lanes) {}

    // The bits of |value|; every NaN becomes the one canonical NaN, which is above infinity.
    static Key key_of(const T* value) {
        Key bits;
        memcpy(&bits, value, sizeof bits);
        bits &= Float<T>::magnitude;
        return bits > Float<T>::infinity ? Float<T>::nan : bits;
    }

    static void load_row(const T* source, int64_t width, Key* target) {
        for (int64_t lane = 0; lane < width; ++lane) target[lane] = key_of(source + lane);
    }

    // Rows [row, row + size) of these columns into keys[0, size). Lanes beyond `count` repeat the first,
    // and are never written out.
    void load(int64_t row, int64_t size) {
        for (int64_t lane = 0; lane < count;) {
            const int64_t batch = (first + lane) / job.n, column = (first + lane) % job.n;
            const int64_t left = count - lane, width = job.n - column < left ? job.n - column : left;
            const T* source = job.x + (batch * job.k + row) * job.n + column;
            if (width == lanes) {
                for (int64_t r = 0; r < size; ++r) load_row(source + r * job.n, lanes, keys[r].key);
            } else {
                for (int64_t r = 0; r < size; ++r) load_row(source + r * job.n, width, keys[r].key + lane);
            }
            lane += width;
        }
        if (count == lanes) return;
        for (int64_t r = 0; r < size; ++r) {
            for (int64_t lane = count; lane < lanes; ++lane) keys[r].key[lane] = keys[r].key[0];
        }
    }

    // The network's last step leaves the median in row (k - 1) / 2.
    void select_by_network() {
        memcpy(work, keys, job.k * sizeof(Row));
        for (int64_t s = 0; s < job.step_count; ++s) {
            const Exchange step = job.steps[s];
            Vector* low = work[step.low].vector;
            Vector* high = work[step.high].vector;
            for (int64_t v = 0; v < vectors; ++v) {
                const Vector a = low[v], b = high[v];
                if (step.keep & Exchange::minimum) low[v] = a < b ? a : b;
                if (step.keep & Exchange::maximum) high[v] = a < b ? b : a;
            }
        }
        median = work[(job.k - 1) / 2];
    }

    // below[v] += how many of keys[0, size) are below bound[v], in each lane.
    void count_below(int64_t size, const Row& bound, Row& below) const {
        for (int64_t v = 0; v < vectors; ++v) {
            Vector sum = below.vector[v];
            for (int64_t r = 0; r < size; ++r) sum -= keys[r].vector[v] < bound.vector[v];
            below.vector[v] = sum;
        }
    }

    // lowest[v] = the lowest of keys[0, size) that is not below bound[v], or what it was if that is lower.
    void lowest_from(int64_t size, const Row& bound, Row& lowest) const {
        for (int64_t v = 0; v < vectors; ++v) {
            Vector least = lowest.vector[v];
            for (int64_t r = 0; r < size; ++r) {
                const Vector key = keys[r].vector[v];
                least = (key >= bound.vector[v]) & (key < least) ? key : least;
            }
            lowest.vector[v] = least;
        }
    }

    template <class Body>
    void for_each_block(const Body& body) {
        for (int64_t row = 0; row < job.k; row += rows) {
            const int64_t size = job.k - row < rows ? job.k - row : rows;
            if (job.k > rows) load(row, size);
            body(size);
        }
    }

    // From the top bit down, the largest bound that at most (k - 1) / 2 keys are below. With all bits this is the
    // median. Once exactly that many keys are below the bound in every lane, the median is the lowest key
    // from the bound on.
    void select_by_counting() {
        const Key rank = (job.k - 1) / 2;
        Row bound, below_bound;
        memset(&bound, 0, sizeof bound);
        memset(&below_bound, 0, sizeof below_bound);
        bool separated = false;
        for (Key bit = Float<T>::top_bit; bit != 0 && !separated; bit >>= 1) {
            Row candidate, below;
            for (int64_t v = 0; v < vectors; ++v) candidate.vector[v] = bound.vector[v] | bit;
            memset(&below, 0, sizeof below);
            for_each_block([&](int64_t size) { count_below(size, candidate, below); });
            Key unequal = 0;
            for (int64_t lane = 0; lane < lanes; ++lane) {
                const bool taken = below.key[lane] <= rank;
                bound.key[lane] = taken ? candidate.key[lane] : bound.key[lane];
                below_bound.key[lane] = taken ? below.key[lane] : below_bound.key[lane];
                unequal |= below_bound.key[lane] ^ rank;
            }
            separated = unequal == 0;
        }
        median = bound;
        if (!separated) return;
        for (int64_t lane = 0; lane < lanes; ++lane) median.key[lane] = Float<T>::nan;
        for_each_block([&](int64_t size) { lowest_from(size, bound, median); });
    }

    // The first row of each lane that attains the median, or that is NaN; going down, so that the first row
    // is the last one written.
    void find_index() {
        Row nan;
        memset(&index, 0, sizeof index);
        memset(&nan, -1, sizeof nan);
        const int64_t last_block = (job.k - 1) / rows * rows;
        for (int64_t row = last_block; row >= 0; row -= rows) {
            const int64_t size = job.k - row < rows ? job.k - row : rows;
            if (job.k > rows) load(row, size);
            for (int64_t v = 0; v < vectors; ++v) {
                const Vector target = median.vector[v];
                Vector attains = index.vector[v], is_nan = nan.vector[v];
                for (int64_t r = size - 1; r >= 0; --r) {
                    const Vector key = keys[r].vector[v], here = Vector{} + static_cast<Key>(row + r);
                    attains = key == target ? here : attains;
                    is_nan = key == Float<T>::nan ? here : is_nan;
                }
                index.vector[v] = attains;
                nan.vector[v] = is_nan;
            }
        }
        for (int64_t v = 0; v < vectors; ++v) {
            const Vector none = nan.vector[v] < 0;
            index.vector[v] = none ? index.vector[v] : nan.vector[v];
            median.vector[v] = none ? median.vector[v] : Vector{} + Float<T>::nan;
        }
    }

    void run() {
        if (job.k <= rows) load(0, job.k);
        if (job.k <= abs_median_network_rows) {
            select_by_network();
        } else {
            select_by_counting();
        }
        find_index();
        memcpy(job.values + first, median.key, count * sizeof(T));
        for (int64_t lane = 0; lane < count; ++lane) job.index[first + lane] = index.key[lane];
    }
};

}  // namespace

void abs_median_tiles(const AbsMedianColumns<float>& job, int64_t first, int64_t last) noexcept {
    for (int64_t tile = first; tile < last; ++tile) Tile<float>(job, tile).run();
}

void abs_median_tiles(const AbsMedianColumns<double>& job, int64_t first, int64_t last) noexcept {
    for (int64_t tile = first; tile < last; ++tile) Tile<double>(job, tile).run();
}

}  // namespace VERIFIX_ISA_NAMESPACE
}  // namespace verifix
