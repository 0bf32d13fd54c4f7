// One pair of an image and a row on one warp: the same numbers as csrc/cpu/transport_linear.inl, whose 32 partial sums
// are the lanes here. `Warp` says what lanes can do together; transport_linear.cu has that of the device, and the tests
// one that runs the lanes in turn, so that this code is tested where there is no GPU.
#pragma once

#include <math.h>
#include <stdint.h>

#include "verifix/transport_classes.h"
#include "verifix/transport_linear.h"
#include "verifix/transport_linear_arithmetic.h"

#if defined(__CUDACC__)
#define VERIFIX_WARP __device__ __forceinline__
#else
#define VERIFIX_WARP inline
#endif

namespace verifix {
namespace transport {

constexpr int most_offsets = 225;  // of a window of 15 x 15

// Classes of offsets, small enough to be an argument of a kernel.
struct Classes {
    double cost[most_offsets];
    int16_t first[most_offsets + 1];
    int8_t di[most_offsets], dj[most_offsets];
    int count;
};

// What a warp keeps of its pair. Sizes are in elements: pixels, and classes * pixels for the values.
template <class T>
struct WarpMemory {
    int32_t* place;
    int32_t* left;   // where each pixel's mass goes, as an offset of the window; -1 where it is not gathered
    int32_t* right;  // likewise
    T* values;
};

template <class T>
inline std::int64_t warp_bytes(std::int64_t pixels, std::int64_t classes) {
    const std::int64_t bytes = pixels * (classes * static_cast<std::int64_t>(sizeof(T)) + 3 * 4);
    return (bytes + 15) / 16 * 16;
}

template <class T>
VERIFIX_WARP WarpMemory<T> warp_memory(unsigned char* at, std::int64_t pixels, std::int64_t classes) {
    T* const values = reinterpret_cast<T*>(at);
    int32_t* const place = reinterpret_cast<int32_t*>(values + classes * pixels);
    return {place, place + pixels, place + 2 * pixels, values};
}

template <class T, class Warp>
struct PairOnWarp {
    const TransportLinear<T>& job;
    const Classes& classes;
    const WarpMemory<T> memory;
    const Warp warp;
    const T* x;
    const T* g;
    int height, width, plane, pixels, radius, n;

    VERIFIX_WARP PairOnWarp(const TransportLinear<T>& job, const Classes& classes, WarpMemory<T> memory, Warp warp)
        : job(job), classes(classes), memory(memory), warp(warp), x(nullptr), g(nullptr) {
        height = static_cast<int>(job.height);
        width = static_cast<int>(job.width);
        plane = height * width;
        pixels = plane * static_cast<int>(job.channels);
        radius = static_cast<int>(job.window / 2);
        n = 0;
    }

    // Whether a row has a NaN, and whether it has one or an infinite entry.
    VERIFIX_WARP void inspect(bool& nan, bool& finite) {
        typename Warp::template PerLane<int> broken{}, unordered{};
        warp.each([&](int lane) {
            for (int i = lane; i < pixels; i += lanes) {
                broken[lane] |= g[i] - g[i] != 0;
                unordered[lane] |= g[i] != g[i];
            }
        });
        finite = !warp.any(broken);
        nan = warp.any(unordered);
    }

    // The pixels of a channel that have mass and lie in the smallest box that holds all that see the row.
    VERIFIX_WARP void gather(int c) {
        typename Warp::template PerLane<int> top{}, bottom{}, left{}, right{}, flag{}, rank{};
        warp.each([&](int lane) {
            top[lane] = height, left[lane] = width, bottom[lane] = right[lane] = 0;
            for (int i = lane; i < plane; i += lanes) {
                if (g[c * plane + i] == 0) continue;
                const int row = i / width, column = i % width;
                top[lane] = row < top[lane] ? row : top[lane];
                bottom[lane] = row + 1 > bottom[lane] ? row + 1 : bottom[lane];
                left[lane] = column < left[lane] ? column : left[lane];
                right[lane] = column + 1 > right[lane] ? column + 1 : right[lane];
            }
        });
        const int from_row = warp.least(top) - radius, to_row = warp.most(bottom) + radius;
        const int from_column = warp.least(left) - radius, to_column = warp.most(right) + radius;
        if (to_row <= from_row + 2 * radius) return;
        for (int begin = 0; begin < plane; begin += lanes) {
            warp.each([&](int lane) {
                const int i = begin + lane, row = i / width, column = i % width;
                flag[lane] = i < plane && row >= from_row && row < to_row && column >= from_column &&
                             column < to_column && x[c * plane + i] != 0;
            });
            const int found = warp.ranks(flag, rank);
            warp.each([&](int lane) {
                if (flag[lane]) memory.place[n + rank[lane]] = c * plane + begin + lane;
            });
            n += found;
        }
    }

    VERIFIX_WARP double mass(int place) const {
        const double mass = static_cast<double>(x[place]);
        return mass >= 0 ? mass : NAN;
    }

    // The entry of the row where an offset leads; minus infinity outside of the image.
    VERIFIX_WARP T entry(int place, int offset) const {
        const int i = place % plane / width + classes.di[offset], j = place % width + classes.dj[offset];
        if (i < 0 || i >= height || j < 0 || j >= width) return static_cast<T>(-INFINITY);
        return g[place / plane * plane + i * width + j];
    }

    VERIFIX_WARP void find_values() {
        warp.each([&](int lane) {
            for (int k = lane; k < n; k += lanes) {
                for (int p = 0; p < classes.count; ++p) {
                    T largest = entry(memory.place[k], classes.first[p]);
                    for (int d = classes.first[p] + 1; d < classes.first[p + 1]; ++d) {
                        const T here = entry(memory.place[k], d);
                        largest = here > largest ? here : largest;
                    }
                    memory.values[p * pixels + k] = largest;
                }
            }
        });
    }

    VERIFIX_WARP double value(int p, int k) const { return static_cast<double>(memory.values[p * pixels + k]); }

    VERIFIX_WARP int choice(int k, double lam, double& best) const {
        best = value(0, k);
        int chosen = 0;
        for (int p = 1; p < classes.count; ++p) {
            const double net = value(p, k) - price(lam, classes.cost[p]);
            if (net > best) {
                best = net;
                chosen = p;
            }
        }
        return chosen;
    }

    VERIFIX_WARP Sums sweep(double lam) {
        typename Warp::template PerLane<double> dual{}, size{}, plan{}, cost{};
        warp.each([&](int lane) {
            for (int k = lane; k < n; k += lanes) {
                double best;
                const int p = choice(k, lam, best);
                const double here = mass(memory.place[k]), product = here * best;
                dual[lane] += product;
                size[lane] += product < 0 ? -product : product;
                plan[lane] += here * value(p, k);
                cost[lane] += here * classes.cost[p];
            }
        });
        return {warp.total(dual), warp.total(size), warp.total(plan), warp.total(cost)};
    }

    // The first offset of the window among equals where a pixel's mass goes at lam.
    VERIFIX_WARP int destination(int k, double lam) const {
        double best;
        const int p = choice(k, lam, best);
        const T wanted = memory.values[p * pixels + k];
        for (int d = classes.first[p]; d < classes.first[p + 1]; ++d) {
            if (entry(memory.place[k], d) == wanted) return at_window(classes.di[d], classes.dj[d]);
        }
        return -1;
    }

    VERIFIX_WARP int at_window(int di, int dj) const { return (di + radius) * (2 * radius + 1) + dj + radius; }

    // What each place receives: from its sources in their order, as on the CPU.
    VERIFIX_WARP void write_maximiser(const Search& search, T* z) {
        const double share = search.share_of_left();
        warp.each([&](int lane) {
            for (int i = lane; i < pixels; i += lanes) memory.left[i] = memory.right[i] = -1;
        });
        warp.each([&](int lane) {
            for (int k = lane; k < n; k += lanes) {
                memory.left[memory.place[k]] = destination(k, search.left_lam);
                memory.right[memory.place[k]] = destination(k, search.right_lam);
            }
        });
        warp.each([&](int lane) {
            for (int at = lane; at < pixels; at += lanes) {
                const int c = at / plane, i = at % plane / width, j = at % width;
                double sum = 0;
                for (int di = radius; di >= -radius; --di) {
                    for (int dj = radius; dj >= -radius; --dj) {
                        if (i - di < 0 || i - di >= height || j - dj < 0 || j - dj >= width) continue;
                        const int source = c * plane + (i - di) * width + j - dj, offset = at_window(di, dj);
                        const double whole = mass(source), part = share * whole;
                        if (memory.left[source] == offset) sum += part;
                        if (share < 1 && memory.right[source] == offset) sum += whole - part;
                    }
                }
                z[at] = static_cast<T>(memory.left[at] < 0 ? sum + static_cast<double>(x[at]) : sum);
            }
        });
    }

    VERIFIX_WARP void run(std::int64_t pair) {
        const std::int64_t image = job.image[pair], row = job.row[pair];
        const bool there = image >= 0 && image < job.images && row >= 0 && row < job.rows;
        x = job.x + (there ? image * pixels : 0);
        g = job.g + (there ? row * pixels : 0);
        n = 0;
        bool nan = false, finite = false;
        if (there) inspect(nan, finite);
        Search search{};
        if (finite) {
            for (int c = 0; c < static_cast<int>(job.channels); ++c) gather(c);
            find_values();
            search.begin(job.budget[image], n);
            if (n > 0) {
                bool open = search.after_zero(sweep(search.lam));
                if (open) open = search.after_infinity(sweep(search.lam));
                while (open) open = search.after(sweep(search.lam));
            }
        }
        const bool sound = finite && search.budget >= 0;
        const double share = search.share_of_left();
        const bool moved = sound && n > 0;
        warp.each([&](int lane) {
            if (lane != 0) return;
            job.upper[pair] = !sound ? (nan || finite || !there ? NAN : INFINITY) : n > 0 ? search.best : 0;
            job.multiplier[pair] = !sound ? NAN : n > 0 ? search.best_lam : 0;
            if (job.z == nullptr) return;
            const Sums &left = search.left, &right = search.right;
            job.value[pair] = moved ? right.value + share * (left.value - right.value) : sound ? 0 : NAN;
            job.plan_cost[pair] = moved ? right.cost + share * (left.cost - right.cost) : 0;
        });
        if (job.z == nullptr) return;
        T* const z = job.z + pair * pixels;
        if (moved) return write_maximiser(search, z);
        warp.each([&](int lane) {
            for (int i = lane; i < pixels; i += lanes) z[i] = there ? x[i] : static_cast<T>(NAN);
        });
    }
};

// The classes of costs in host memory. Throws std::invalid_argument where a cost cannot be or the window is larger than
// 15 x 15.
inline Classes classes_of(const double* cost, std::int64_t window) {
    if (window * window > most_offsets) {
        throw std::invalid_argument("transport_linear: a window of " + std::to_string(window) + ": must be at most 15");
    }
    const TransportClasses sorted(cost, window);
    Classes classes{};
    classes.count = static_cast<int>(sorted.cost.size());
    for (std::size_t p = 0; p < sorted.cost.size(); ++p) classes.cost[p] = sorted.cost[p];
    for (std::size_t p = 0; p < sorted.first.size(); ++p) classes.first[p] = static_cast<int16_t>(sorted.first[p]);
    for (std::size_t d = 0; d < sorted.offsets.size(); ++d) {
        classes.di[d] = static_cast<int8_t>(sorted.offsets[d].first);
        classes.dj[d] = static_cast<int8_t>(sorted.offsets[d].second);
    }
    return classes;
}

// How many warps there is memory for, at most one for each pair. Throws std::invalid_argument where there is none.
template <class T>
std::int64_t warps_for(const TransportLinear<T>& job, std::int64_t pixels, const Classes& classes, std::int64_t bytes) {
    const std::int64_t warps = bytes / warp_bytes<T>(pixels, classes.count);
    if (warps < 1) {
        throw std::invalid_argument("transport_linear: a workspace of " + std::to_string(bytes) + " bytes: too small");
    }
    return warps < job.pairs ? warps : job.pairs;
}

}  // namespace transport
}  // namespace verifix
