// One tile of a backward pass, compiled once for each instruction set: VERIFIX_ISA_NAMESPACE says which.
//
// Rows are the vector lanes, so a weight is one number that multiplies a whole vector. Coefficients that are zero in all
// lanes (dead columns) are skipped. Every product is rounded before it is added and every sum has a fixed order, so
// results are the same in every bit for every instruction set and every number of threads.

#include <stdint.h>
#include <string.h>

#include "backward_tile.h"

namespace verifix {
namespace VERIFIX_ISA_NAMESPACE {
namespace {

template <class T>
struct Pass {
    typedef T Vector __attribute__((vector_size(backward_vector_bytes)));
    static constexpr int64_t lanes = backward_vector_bytes / sizeof(T);
    static constexpr int64_t together = 4;  // columns that are multiplied in one sweep over their target

    const Tile<T>& tile;
    Vector low, high;

    explicit Pass(const Tile<T>& tile) : tile(tile) {
        memset(&low, 0, sizeof low);
        memset(&high, 0, sizeof high);
    }

    Vector* buffer(int32_t node) const { return reinterpret_cast<Vector*>(tile.buffers[node]); }

    // Which entries of a node's buffer may hold anything but zero.
    uint8_t* live(int32_t node) const { return tile.live[node]; }

    void all_live(int32_t node) { memset(live(node), 1, static_cast<size_t>(entries(node))); }

    // What a maximum of numbers should be where one of them is NaN.
    static Vector positive_part(const Vector& a) { return a > T(0) ? a : a * T(0); }

    void add_constant(const Vector& below, const Vector& above) {
        low += below;
        high += above;
    }

    // target[j] += sum over the columns of weight[j] * coefficient. Not inlined: its loop wants all registers.
    __attribute__((noinline)) static void sweep(Vector* target, const T* const* weights, const Vector* const* columns,
                                                int64_t count, int64_t size) {
        if (count == together) {
            const Vector a = *columns[0], b = *columns[1], c = *columns[2], d = *columns[3];
            const T *wa = weights[0], *wb = weights[1], *wc = weights[2], *wd = weights[3];
            for (int64_t j = 0; j < size; ++j) {
                target[j] = (((target[j] + wa[j] * a) + wb[j] * b) + wc[j] * c) + wd[j] * d;
            }
            return;
        }
        for (int64_t i = 0; i < count; ++i) {
            const Vector a = *columns[i];
            const T* weight = weights[i];
            for (int64_t j = 0; j < size; ++j) target[j] += weight[j] * a;
        }
    }

    void dense(const Step<T>& step, int32_t node) {
        const int64_t inputs = entries(step.sources[0]);
        const Vector* rows = buffer(node);
        Vector* target = buffer(step.sources[0]);
        all_live(step.sources[0]);
        if (starts_with_units(step, node)) {
            unit_sweep(target, step.transposed + tile.first_channel, step.c, inputs);
            return bias(step, node);
        }
        const T* weights[together];
        const Vector* columns[together];
        int64_t count = 0;
        for (int64_t o = 0; o < step.c; ++o) {
            if (!live(node)[o]) continue;
            weights[count] = step.weight + o * inputs;
            columns[count++] = rows + o;
            if (count == together) {
                sweep(target, weights, columns, count, inputs);
                count = 0;
            }
        }
        sweep(target, weights, columns, count, inputs);
        bias(step, node);
    }

    // Whether the rows of this step's output are unit vectors of neighbouring channels, one for each lane.
    bool starts_with_units(const Step<T>& step, int32_t node) const {
        return node == tile.start && tile.first_channel >= 0 && step.transposed != nullptr;
    }

    // The same sweep for unit rows: the coefficients of lane i are column i of the transposed weight, times the sign.
    void unit_sweep(Vector* target, const T* weight, int64_t stride, int64_t size) const {
        for (int64_t j = 0; j < size; ++j) {
            Vector w;
            memcpy(&w, weight + j * stride, sizeof w);
            target[j] += tile.sign * w;
        }
    }

    // All entries inside a node's window.
    int64_t entries(int32_t node) const {
        const Window& window = tile.windows[node];
        return (window.h1 - window.h0) * (window.w1 - window.w0) * tile.channels[node];
    }

    // A bias is per channel for convolutions and dense layers, and per entry for scalings and movements.
    void bias(const Step<T>& step, int32_t node) {
        if (step.bias == nullptr) return;
        const bool per_entry = step.kind == StepKind::scaling || step.kind == StepKind::movement;
        const Window& window = tile.windows[node];
        const Vector* rows = buffer(node);
        Vector sum;
        memset(&sum, 0, sizeof sum);
        for (int64_t h = window.h0; h < window.h1; ++h) {
            for (int64_t w = window.w0; w < window.w1; ++w) {
                const T* shift = per_entry ? step.bias + (h * step.w + w) * step.c : step.bias;
                for (int64_t c = 0; c < step.c; ++c) sum += shift[c] * *rows++;
            }
        }
        add_constant(sum, sum);
    }

    void convolution(const Step<T>& step, int32_t node) {
        const int64_t outputs = step.c / step.groups;
        const Window& window = tile.windows[node];
        const Vector* rows = buffer(node);
        const uint8_t* alive = live(node);
        all_live(step.sources[0]);
        if (starts_with_units(step, node)) {
            spread(step, window.h0, window.w0, 0, nullptr, nullptr, 0);
            return bias(step, node);
        }
        for (int64_t h = window.h0; h < window.h1; ++h) {
            for (int64_t w = window.w0; w < window.w1; ++w, rows += step.c, alive += step.c) {
                for (int64_t group = 0; group < step.groups; ++group) {
                    const Vector* columns[together];
                    int64_t channel[together], count = 0;
                    for (int64_t o = group * outputs; o < (group + 1) * outputs; ++o) {
                        if (!alive[o]) continue;
                        columns[count] = rows + o;
                        channel[count++] = o;
                        if (count == together) {
                            spread(step, h, w, group, columns, channel, count);
                            count = 0;
                        }
                    }
                    if (count > 0) spread(step, h, w, group, columns, channel, count);
                }
            }
        }
        bias(step, node);
    }

    // The adjoint of one window of the convolution, for a few output channels of one group; or, with no columns, for
    // unit rows.
    void spread(const Step<T>& step, int64_t h, int64_t w, int64_t group, const Vector* const* columns,
                const int64_t* channel, int64_t count) {
        const int32_t source = step.sources[0];
        const Window& window = tile.windows[source];
        const int64_t channels = tile.channels[source], inputs = channels / step.groups;
        const int64_t width = window.w1 - window.w0;
        const bool contiguous = step.groups == 1 && step.dilation_w == 1;
        const T* weights[together];
        for (int64_t kh = 0; kh < step.kernel_h; ++kh) {
            const int64_t row = h * step.stride_h - step.padding_h + kh * step.dilation_h;
            if (row < window.h0 || row >= window.h1) continue;
            const int64_t left = w * step.stride_w - step.padding_w;
            int64_t first = 0, last = step.kernel_w;
            while (first < last && left + first * step.dilation_w < window.w0) ++first;
            while (first < last && left + (last - 1) * step.dilation_w >= window.w1) --last;
            if (first == last) continue;
            const int64_t runs = contiguous ? 1 : last - first;
            for (int64_t run = 0; run < runs; ++run) {
                const int64_t kw = first + run, column = left + kw * step.dilation_w;
                Vector* target = buffer(source) + ((row - window.h0) * width + (column - window.w0)) * channels + group * inputs;
                const int64_t size = contiguous ? (last - first) * inputs : inputs;
                if (columns == nullptr) {
                    const T* weight = step.transposed + (kh * step.kernel_w + kw) * inputs * step.c + tile.first_channel;
                    unit_sweep(target, weight, step.c, size);
                    continue;
                }
                for (int64_t i = 0; i < count; ++i) {
                    weights[i] = step.weight + ((channel[i] * step.kernel_h + kh) * step.kernel_w + kw) * inputs;
                }
                sweep(target, weights, columns, count, size);
            }
        }
    }

    // Calls body(position in the node's buffer, entry of the whole node) for each plane position of a node's window.
    template <class Body>
    void for_each_position(int32_t node, const Body& body) const {
        const Window& window = tile.windows[node];
        int64_t position = 0;
        for (int64_t h = window.h0; h < window.h1; ++h) {
            for (int64_t w = window.w0; w < window.w1; ++w) {
                body(position, (h * tile.widths[node] + w) * tile.channels[node], h, w);
                position += tile.channels[node];
            }
        }
    }

    // Where a plane position of another node starts in this node's buffer; the window holds it.
    Vector* at(int32_t node, int64_t h, int64_t w) const {
        const Window& window = tile.windows[node];
        return buffer(node) + ((h - window.h0) * (window.w1 - window.w0) + (w - window.w0)) * tile.channels[node];
    }

    void scaling(const Step<T>& step, int32_t node) {
        all_live(step.sources[0]);
        for_each_position(node, [&](int64_t position, int64_t entry, int64_t h, int64_t w) {
            const Vector* rows = buffer(node) + position;
            Vector* target = at(step.sources[0], h, w);
            for (int64_t c = 0; c < step.c; ++c) {
                target[c] += step.scale == nullptr ? rows[c] : step.scale[entry + c] * rows[c];
            }
        });
        bias(step, node);
    }

    void sum(const Step<T>& step, int32_t node) {
        for (int32_t s = 0; s < 2; ++s) {
            const T factor = s == 0 ? T(1) : step.factor;
            all_live(step.sources[s]);
            for_each_position(node, [&](int64_t position, int64_t, int64_t h, int64_t w) {
                const Vector* rows = buffer(node) + position;
                Vector* target = at(step.sources[s], h, w);
                for (int64_t c = 0; c < step.c; ++c) target[c] += factor * rows[c];
            });
        }
    }

    void concatenation(const Step<T>& step, int32_t node) {
        int64_t before = 0;
        for (int32_t s = 0; s < step.source_count; ++s) {
            const int64_t channels = tile.channels[step.sources[s]];
            all_live(step.sources[s]);
            for_each_position(node, [&](int64_t position, int64_t, int64_t h, int64_t w) {
                const Vector* rows = buffer(node) + position + before;
                Vector* target = at(step.sources[s], h, w);
                for (int64_t c = 0; c < channels; ++c) target[c] += rows[c];
            });
            before += channels;
        }
    }

    // The source's window is all of it.
    void movement(const Step<T>& step, int32_t node) {
        Vector* target = buffer(step.sources[0]);
        all_live(step.sources[0]);
        for_each_position(node, [&](int64_t position, int64_t entry, int64_t, int64_t) {
            const Vector* rows = buffer(node) + position;
            for (int64_t c = 0; c < step.c; ++c) {
                const int64_t from = step.index[entry + c];
                if (from >= 0) target[from] += rows[c];
            }
        });
        bias(step, node);
    }

    void lines(const Step<T>& step, int32_t node) {
        const LinesOfInput<T>& line = tile.lines[node - 1];
        Vector below, above;
        memset(&below, 0, sizeof below);
        memset(&above, 0, sizeof above);
        for_each_position(node, [&](int64_t position, int64_t entry, int64_t h, int64_t w) {
            const Vector* rows = buffer(node) + position;
            Vector* target = at(step.sources[0], h, w);
            uint8_t* alive = live(step.sources[0]) + (target - buffer(step.sources[0]));
            for (int64_t c = 0; c < step.c; ++c) {
                const int64_t e = entry + c;
                const T slope_p = line.lower_slope[e], slope_n = line.upper_slope[e];
                const T offset_p = line.lower_offset == nullptr ? T(0) : line.lower_offset[e];
                const T offset_n = line.upper_offset == nullptr ? T(0) : line.upper_offset[e];
                if (slope_p == T(0) && slope_n == T(0) && offset_p == T(0) && offset_n == T(0)) continue;
                const Vector a = rows[c], positive = positive_part(a), negative = a - positive;
                alive[c] = 1;
                if (slope_p == slope_n) {
                    target[c] += slope_p * a;
                } else {
                    target[c] += slope_p * positive + slope_n * negative;
                }
                if (offset_p == T(0) && offset_n == T(0)) continue;
                below += offset_p * positive + offset_n * negative;
                if (tile.both) above += offset_n * positive + offset_p * negative;
            }
        });
        add_constant(below, above);
    }

    void concretise() {
        Vector middle, spread;
        memset(&middle, 0, sizeof middle);
        memset(&spread, 0, sizeof spread);
        if (tile.buffers[0] != nullptr) {
            for_each_coefficient([&](const Vector& a, T center, T radius) {
                middle += center * a;
                const Vector size = radius * (a < T(0) ? -a : a);
                if (tile.hull == Hull::box) {
                    spread += size;
                } else {
                    spread = size > spread || size != size ? size : spread;
                }
            });
            if (tile.hull == Hull::l2) spread = euclidean(spread);
        }
        low = low + (middle - spread);
        high = high + (middle + spread);
    }

    // sqrt of the sum of squares, of numbers divided by the largest: squares of small ones must not vanish.
    Vector euclidean(const Vector& largest) const {
        const Vector scale = largest > T(0) ? largest : largest + T(1);  // NaN stays
        Vector total;
        memset(&total, 0, sizeof total);
        for_each_coefficient([&](const Vector& a, T, T radius) {
            const Vector ratio = radius * a / scale;
            total += ratio * ratio;
        });
        for (int64_t lane = 0; lane < lanes; ++lane) total[lane] = root(total[lane]);
        return largest * total;
    }

    static float root(float x) { return __builtin_sqrtf(x); }
    static double root(double x) { return __builtin_sqrt(x); }

    // Calls body(coefficients of one entry of the input, center, radius).
    template <class Body>
    void for_each_coefficient(const Body& body) const {
        for_each_position(0, [&](int64_t position, int64_t entry, int64_t, int64_t) {
            const Vector* rows = buffer(0) + position;
            for (int64_t c = 0; c < tile.channels[0]; ++c) body(rows[c], tile.center[entry + c], tile.radius[entry + c]);
        });
    }

    void run() {
        for (int32_t node = tile.start; node > 0; --node) {
            // Rows that fall into padding altogether reach nothing before it.
            if (tile.buffers[node] == nullptr || entries(node) == 0) continue;
            const Step<T>& step = tile.steps[node - 1];
            switch (step.kind) {
                case StepKind::dense:
                    dense(step, node);
                    break;
                case StepKind::convolution:
                    convolution(step, node);
                    break;
                case StepKind::scaling:
                    scaling(step, node);
                    break;
                case StepKind::sum:
                    sum(step, node);
                    break;
                case StepKind::concatenation:
                    concatenation(step, node);
                    break;
                case StepKind::movement:
                    movement(step, node);
                    break;
                case StepKind::lines:
                    lines(step, node);
                    break;
            }
        }
        concretise();
        memcpy(tile.low, &low, sizeof low);
        if (tile.both) memcpy(tile.high, &high, sizeof high);
    }
};

}  // namespace

void backward_tile(const Tile<float>& tile) noexcept { Pass<float>(tile).run(); }
void backward_tile(const Tile<double>& tile) noexcept { Pass<double>(tile).run(); }

}  // namespace VERIFIX_ISA_NAMESPACE
}  // namespace verifix
