// One tile of a backward pass, compiled once for each instruction set: VERIFIX_ISA_NAMESPACE says which.
//
// Rows are the vector lanes, so a weight is one number that multiplies whole vectors. Every step gathers: for each entry
// of its source that is needed it sums over the listed entries of its output, in registers. Every product is rounded
// before it is added and every sum has a fixed order, so results are the same in every bit for every instruction set and
// every number of threads.

#include <stdint.h>
#include <string.h>

#include "backward_access.inl"
#include "backward_tile.h"

namespace verifix {
namespace VERIFIX_ISA_NAMESPACE {
namespace {

template <class T, int64_t bundles, bool packed>
struct Pass : Access<T, bundles, packed> {
    typedef Access<T, bundles, packed> Base;
    typedef typename Base::Sums Sums;
    typedef typename Base::Column Column;
    typedef typename Base::Vector Vector;
    typedef typename Base::Mask Mask;
    typedef typename Base::Bundle Bundle;
    typedef typename Base::Place Place;
    using Base::at, Base::find, Base::first_from, Base::for_each_listed, Base::for_each_position, Base::fresh, Base::inside;
    using Base::lanes_of_vector, Base::match, Base::of_inputs, Base::place, Base::positive_part, Base::reached, Base::tile;
    using Base::vectors;
    static constexpr int64_t most_columns = 64;

    Bundle low, high;
    Bundle diagonal;        // while the rows are still unit vectors, what they are multiplied by
    int32_t units_on = -1;  // and the node that they are on; -1 once they are written out

    void add_constant(const Bundle& below, const Bundle& above) {
        for (int64_t v = 0; v < vectors; ++v) low.part[v] += below.part[v];
        for (int64_t v = 0; v < vectors; ++v) high.part[v] += above.part[v];
    }

    explicit Pass(const Tile<T>& tile) : Base(tile) {
        memset(&low, 0, sizeof low);
        memset(&high, 0, sizeof high);
    }

    // Calls body(lane, h, w, channel) for each unit row; through scalings their positions stay those of the start.
    template <class Body>
    void for_each_unit(const Body& body) const {
        int64_t next = 0;
        for_each_position(tile.start, [&](int64_t h, int64_t w) {
            const Place range = place(tile.start, h, w);
            for (int64_t k = range.first; k < range.last; ++k, ++next) {
                const int64_t channel = tile.entries[tile.start].channel[k];
                body(tile.base < 0 ? next : channel - tile.base, h, w, channel);
            }
        });
    }

    // Writes unit rows out as coefficients of the node that they are on.
    void write_units() {
        const int32_t node = units_on;
        for_each_position(node, [&](int64_t h, int64_t w) {
            for_each_listed(node, h, w, [&](Vector* rows, int64_t) { memset(rows, 0, sizeof(Bundle)); });
        });
        for_each_unit([&](int64_t lane, int64_t h, int64_t w, int64_t c) {
            const int64_t k = find(node, h, w, c);
            if (k >= 0) reinterpret_cast<T*>(at(node, h, k))[lane] = reinterpret_cast<const T*>(&diagonal)[lane];
        });
        units_on = -1;
    }

    // ---- convolutions, and dense layers as convolutions with one window ----

    void convolution(const Step<T>& step, int32_t node) {
        const Window from = tile.windows[node], to = tile.windows[step.sources[0]];
        AxisBlock* const blocks_h = tile.axis_blocks;
        const int64_t count_h = cut(blocks_h, to.h0, to.h1, step.kernel_h, step.stride_h, step.padding_h, step.dilation_h, from.h0, from.h1);
        AxisBlock* const blocks_w = blocks_h + count_h;
        const int64_t count_w = cut(blocks_w, to.w0, to.w1, step.kernel_w, step.stride_w, step.padding_w, step.dilation_w, from.w0, from.w1);
        for (int64_t h = 0; h < count_h; ++h) {
            for (int64_t w = 0; w < count_w; ++w) {
                if (units_on == node) {
                    unit_block(step, node, blocks_h[h], blocks_w[w]);
                } else {
                    block(step, node, blocks_h[h], blocks_w[w]);
                }
            }
        }
        bias(step, node);
    }

    void block(const Step<T>& step, int32_t node, const AxisBlock& over_h, const AxisBlock& over_w) {
        const int64_t inputs = tile.channels[step.sources[0]], outputs = step.c / step.groups;
        const int32_t* const channel = tile.entries[node].channel;
        for (int64_t group = 0; group < step.groups; ++group) {
            Column columns[most_columns];
            int64_t count = 0;
            bool first = fresh(step, node, 0);
            const auto flush = [&] {
                sum_columns(step, group, columns, count, over_h, over_w, first);
                first = false;
                count = 0;
            };
            for (int64_t oh = over_h.first; oh < over_h.last; ++oh) {
                const int64_t tap_h = tap_of(over_h.begin + step.padding_h - oh * step.stride_h, step.dilation_h);
                if (tap_h < 0) continue;
                for (int64_t ow = over_w.first; ow < over_w.last; ++ow) {
                    const int64_t tap_w = tap_of(over_w.begin + step.padding_w - ow * step.stride_w, step.dilation_w);
                    if (tap_w < 0) continue;
                    const Place range = place(node, oh, ow, group * outputs, (group + 1) * outputs);
                    if (range.first == range.last) continue;
                    columns[count++] = {at(node, oh, range.first), channel + range.first, range.last - range.first,
                                        (tap_h * step.kernel_w + tap_w) * inputs * outputs - group * outputs};
                    if (count == most_columns) flush();
                }
            }
            if (count > 0 || first) flush();
        }
    }

    // Adds the columns to the needed inputs of a block, of one group.
    void sum_columns(const Step<T>& step, int64_t group, const Column* columns, int64_t count, const AxisBlock& over_h,
                     const AxisBlock& over_w, bool first) {
        const int32_t source = step.sources[0];
        const int64_t inputs = tile.channels[source], outputs = step.c / step.groups, of_group = inputs / step.groups;
        const int32_t* const channel = tile.entries[source].channel;
        Vector* targets[targets_together];
        const T* weights[targets_together];
        int64_t together = 0;
        for (int64_t h = over_h.begin; h < over_h.end; ++h) {
            const T* weight = step.weight + (h - over_h.begin) * step.kernel_w * inputs * outputs;
            for (int64_t w = over_w.begin; w < over_w.end; ++w, weight += inputs * outputs) {
                const Place range = place(source, h, w, group * of_group, (group + 1) * of_group);
                Vector* rows = at(source, h, range.first);
                for (int64_t k = range.first; k < range.last; ++k, rows += vectors) {
                    targets[together] = rows;
                    weights[together++] = weight + channel[k] * outputs;
                    if (together == targets_together) {
                        Sums::template gather<targets_together>(targets, weights, columns, count, first);
                        together = 0;
                    }
                }
            }
        }
        Sums::gather_some(targets, weights, together, columns, count, first);
    }

    // The same where the rows are unit vectors: the coefficients of a lane are weights of its channel.
    void unit_block(const Step<T>& step, int32_t node, const AxisBlock& over_h, const AxisBlock& over_w) {
        UnitColumn columns[most_columns];
        int64_t count = 0;
        bool first = fresh(step, node, 0);
        const auto flush = [&] {
            copy_columns(step, columns, count, over_h, over_w, first);
            first = false;
            count = 0;
        };
        for (int64_t oh = over_h.first; oh < over_h.last; ++oh) {
            const int64_t tap_h = tap_of(over_h.begin + step.padding_h - oh * step.stride_h, step.dilation_h);
            if (tap_h < 0) continue;
            for (int64_t ow = over_w.first; ow < over_w.last; ++ow) {
                const int64_t tap_w = tap_of(over_w.begin + step.padding_w - ow * step.stride_w, step.dilation_w);
                const Place range = place(tile.start, oh, ow);  // the lanes of this position, where there is no base
                if (tap_w < 0 || range.first == range.last) continue;
                columns[count++] = {tap_h * step.kernel_w + tap_w, range.first, range.last - range.first};
                if (count == most_columns) flush();
            }
        }
        if (count > 0 || first) flush();
    }

    // The rows of one position of the start, as seen from the inputs that feed it.
    struct UnitColumn {
        int64_t tap, lane, count;
    };

    void copy_columns(const Step<T>& step, const UnitColumn* columns, int64_t count, const AxisBlock& over_h, const AxisBlock& over_w,
                      bool first) {
        const int32_t source = step.sources[0];
        const int64_t inputs = tile.channels[source];
        const int32_t* const channels = tile.entries[tile.start].channel;
        for (int64_t h = over_h.begin; h < over_h.end; ++h) {
            for (int64_t w = over_w.begin; w < over_w.end; ++w) {
                const int64_t shift = (h - over_h.begin) * step.kernel_w + (w - over_w.begin);
                for_each_listed(source, h, w, [&](Vector* rows, int64_t input) {
                    Bundle own;
                    memset(&own, 0, sizeof own);
                    for (int64_t c = 0; c < count; ++c) {
                        const UnitColumn& column = columns[c];
                        const T* weight = step.weight + ((column.tap + shift) * inputs + input) * step.c;
                        if (tile.base >= 0) {
                            memcpy(&own, weight + tile.base, sizeof own);
                            break;
                        }
                        T* numbers = reinterpret_cast<T*>(&own) + column.lane;
                        const int32_t* channel = channels + column.lane;
                        if (channel[column.count - 1] - channel[0] == column.count - 1) {
                            for (int64_t lane = 0; lane < column.count; ++lane) numbers[lane] = weight[channel[0] + lane];
                        } else {
                            for (int64_t lane = 0; lane < column.count; ++lane) numbers[lane] = weight[channel[lane]];
                        }
                    }
                    for (int64_t v = 0; v < vectors; ++v) {
                        const Vector product = diagonal.part[v] * own.part[v];
                        rows[v] = first ? product : rows[v] + product;
                    }
                });
            }
        }
    }

    // A bias is per channel for convolutions and dense layers, and per entry for scalings and sparse steps.
    void bias(const Step<T>& step, int32_t node) {
        if (step.bias == nullptr) return;
        const bool per_entry = step.kind == StepKind::scaling || step.kind == StepKind::sparse;
        Bundle sum;
        memset(&sum, 0, sizeof sum);
        const auto shifts = [&](int64_t h, int64_t w) { return per_entry ? step.bias + (h * step.w + w) * step.c : step.bias; };
        if (units_on == node) {
            for_each_unit([&](int64_t lane, int64_t h, int64_t w, int64_t c) {
                reinterpret_cast<T*>(&sum)[lane] = shifts(h, w)[c] * reinterpret_cast<const T*>(&diagonal)[lane];
            });
        } else {
            for_each_position(node, [&](int64_t h, int64_t w) {
                const T* shift = shifts(h, w);
                for_each_listed(node, h, w, [&](const Vector* rows, int64_t c) {
                    for (int64_t v = 0; v < vectors; ++v) sum.part[v] += shift[c] * rows[v];
                });
            });
        }
        add_constant(sum, sum);
    }

    // ---- steps that keep positions ----

    void scaling(const Step<T>& step, int32_t node) {
        bias(step, node);
        if (units_on == node) {
            units_on = step.sources[0];
            if (step.scale == nullptr) return;
            for_each_unit([&](int64_t lane, int64_t h, int64_t w, int64_t c) {
                reinterpret_cast<T*>(&diagonal)[lane] *= step.scale[(h * step.w + w) * step.c + c];
            });
            return;
        }
        const bool first = fresh(step, node, 0);
        match(node, step.sources[0], 0, first, [&](Vector* target, const Vector* rows, int64_t entry) {
            for (int64_t v = 0; v < vectors; ++v) {
                const Vector scaled = step.scale == nullptr ? rows[v] : step.scale[entry] * rows[v];
                target[v] = first ? scaled : target[v] + scaled;
            }
        });
    }

    void sum(const Step<T>& step, int32_t node) {
        for (int32_t s = 0; s < 2; ++s) {
            const T factor = s == 0 ? T(1) : step.factor;
            const bool first = fresh(step, node, s);
            match(node, step.sources[s], 0, first, [&](Vector* target, const Vector* rows, int64_t) {
                for (int64_t v = 0; v < vectors; ++v) {
                    target[v] = first ? factor * rows[v] : target[v] + factor * rows[v];
                }
            });
        }
    }

    void concatenation(const Step<T>& step, int32_t node) {
        int64_t before = 0;
        for (int32_t s = 0; s < step.source_count; ++s) {
            const bool first = fresh(step, node, s);
            match(node, step.sources[s], before, first, [&](Vector* target, const Vector* rows, int64_t) {
                for (int64_t v = 0; v < vectors; ++v) target[v] = first ? rows[v] : target[v] + rows[v];
            });
            before += tile.channels[step.sources[s]];
        }
    }

    // ---- steps that read any entries ----

    // For each needed entry of the source, calls body(coefficients of an entry of `node` that uses it, sum, number of the
    // place) in the order of the entries that do, and adds the sum to its coefficients.
    template <class Body>
    void sum_uses(const Step<T>& step, int32_t node, const Body& body) const {
        const int32_t source = step.sources[0];
        const bool first = fresh(step, node, 0);
        const Window& from = tile.windows[node];
        for_each_position(source, [&](int64_t h, int64_t w) {
            const int64_t* first_use = step.first_use + (h * tile.widths[source] + w) * tile.channels[source];
            for_each_listed(source, h, w, [&](Vector* target, int64_t c) {
                Bundle sum;
                if (first) {
                    memset(&sum, 0, sizeof sum);
                } else {
                    memcpy(&sum, target, sizeof sum);
                }
                for (int64_t u = first_use[c]; u < first_use[c + 1]; ++u) {
                    const Use use = step.uses[u];
                    const int64_t column = use.position - use.row * step.w;
                    if (use.row < from.h0 || use.row >= from.h1 || column < from.w0 || column >= from.w1) continue;
                    const int64_t k = find(node, use.row, column, use.channel);
                    if (k >= 0) body(at(node, use.row, k), sum, use.place);
                }
                memcpy(target, &sum, sizeof sum);
            });
        });
    }

    void sparse(const Step<T>& step, int32_t node) {
        sum_uses(step, node, [&](const Vector* rows, Bundle& sum, int64_t place) {
            const T weight = step.weight[place];
            for (int64_t v = 0; v < vectors; ++v) sum.part[v] += weight * rows[v];
        });
        bias(step, node);
    }

    void planes(const Step<T>& step, int32_t node) {
        const LinesOfInput<T>& line = tile.lines[node - 1];
        sum_uses(step, node, [&](const Vector* rows, Bundle& sum, int64_t place) {
            const T slope_p = line.lower_slope[place], slope_n = line.upper_slope[place];
            if (slope_p == T(0) && slope_n == T(0)) return;
            for (int64_t v = 0; v < vectors; ++v) {
                const Vector a = rows[v], positive = positive_part(a), negative = a - positive;
                sum.part[v] += slope_p * positive + slope_n * negative;
            }
        });
        add_offsets(step, node);
    }

    void lines(const Step<T>& step, int32_t node) {
        const LinesOfInput<T> line = tile.lines[node - 1];
        const int32_t source = step.sources[0];
        const bool first = fresh(step, node, 0);
        const auto pull = [&](Vector* target, const Vector* rows, int64_t e) {
            for (int64_t v = 0; v < vectors; ++v) {
                const Vector pulled = packed ? pull_each(line, node, rows[v], e, v) : pull_one(line, rows[v], e);
                target[v] = first ? pulled : target[v] + pulled;
            }
        };
        if (tile.entries[node].channel != tile.entries[source].channel) {
            match(node, source, 0, first, pull);
            return add_offsets(step, node);
        }
        // Both have the same entries: one sweep for slopes and offsets.
        Bundle below, above;
        memset(&below, 0, sizeof below);
        memset(&above, 0, sizeof above);
        for_each_position(node, [&](int64_t h, int64_t w) {
            Vector* target = at(source, h, place(source, h, w).first);
            for_each_listed(node, h, w, [&](const Vector* rows, int64_t c) {
                const int64_t e = (h * step.w + w) * step.c + c;
                pull(target, rows, e);
                add_offset(line, node, rows, e, below, above);
                target += vectors;
            });
        });
        add_constant(below, above);
    }

    // The constants of lines and planes.
    void add_offsets(const Step<T>& step, int32_t node) {
        const LinesOfInput<T> line = tile.lines[node - 1];
        if (line.lower_offset == nullptr && line.upper_offset == nullptr) return;
        Bundle below, above;
        memset(&below, 0, sizeof below);
        memset(&above, 0, sizeof above);
        for_each_position(node, [&](int64_t h, int64_t w) {
            for_each_listed(node, h, w, [&](const Vector* rows, int64_t c) {
                add_offset(line, node, rows, (h * step.w + w) * step.c + c, below, above);
            });
        });
        add_constant(below, above);
    }

    // Coefficients through the lines of one entry. An entry whose slopes are zero passes zeros on, whatever came: then
    // nothing depends on which other inputs are in the tile.
    static Vector pull_one(const LinesOfInput<T>& line, const Vector& a, int64_t e) {
        const T slope_p = line.lower_slope[e], slope_n = line.upper_slope[e];
        if (slope_p == T(0) && slope_n == T(0)) return Vector{};
        if (slope_p == slope_n) return slope_p * a;
        const Vector positive = positive_part(a), negative = a - positive;
        return slope_p * positive + slope_n * negative;
    }

    Vector pull_each(const LinesOfInput<T>& line, int32_t node, const Vector& a, int64_t e, int64_t v) const {
        const Vector slope_p = of_inputs(line.lower_slope, e, tile.sizes[node], v);
        const Vector slope_n = of_inputs(line.upper_slope, e, tile.sizes[node], v);
        const Vector positive = positive_part(a), negative = a - positive;
        const Vector pulled = slope_p == slope_n ? slope_p * a : slope_p * positive + slope_n * negative;
        return ((slope_p == T(0)) & (slope_n == T(0))) ? Vector{} : pulled;
    }

    void add_offset(const LinesOfInput<T>& line, int32_t node, const Vector* rows, int64_t e, Bundle& below, Bundle& above) const {
        const int64_t size = tile.sizes[node];
        const auto offset_of = [&](const T* offsets, int64_t input) { return offsets == nullptr ? T(0) : offsets[input * size + e]; };
        bool any = false;
        for (int64_t input = 0; input < (packed ? tile.inputs : 1); ++input) {
            any |= !(offset_of(line.lower_offset, input) == T(0) && offset_of(line.upper_offset, input) == T(0));
        }
        if (!any) return;
        for (int64_t v = 0; v < vectors; ++v) {
            const Vector offset_p = of_inputs(line.lower_offset, e, size, v), offset_n = of_inputs(line.upper_offset, e, size, v);
            const Vector a = rows[v], positive = positive_part(a), negative = a - positive;
            const Vector down = offset_p * positive + offset_n * negative, up = offset_n * positive + offset_p * negative;
            const Mask none = (offset_p == T(0)) & (offset_n == T(0));
            below.part[v] += none ? Vector{} : down;
            if (tile.both) above.part[v] += none ? Vector{} : up;
        }
    }

    // ---- the end ----

    void concretise() {
        if (tile.hull == Hull::none) return;  // the caller reads the coefficients of the input
        Bundle middle, spread;
        memset(&middle, 0, sizeof middle);
        memset(&spread, 0, sizeof spread);
        if (reached(0)) {
            for_each_coefficient([&](const Vector* rows, int64_t entry) {
                for (int64_t v = 0; v < vectors; ++v) {
                    const Vector a = rows[v];
                    middle.part[v] += of_inputs(tile.center, entry, tile.sizes[0], v) * a;
                    const Vector size = of_inputs(tile.radius, entry, tile.sizes[0], v) * (a < T(0) ? -a : a);
                    Vector& sum = spread.part[v];
                    if (tile.hull == Hull::box) {
                        sum += size;
                    } else {
                        sum = size > sum || size != size ? size : sum;
                    }
                }
            });
            if (tile.hull == Hull::l2) euclidean(spread);
        }
        for (int64_t v = 0; v < vectors; ++v) {
            low.part[v] = low.part[v] + (middle.part[v] - spread.part[v]);
            high.part[v] = high.part[v] + (middle.part[v] + spread.part[v]);
        }
    }

    // From the largest number to the root of the sum of squares, of numbers divided by it: squares of small ones must not
    // vanish.
    void euclidean(Bundle& largest) const {
        Bundle scale, total;
        memset(&total, 0, sizeof total);
        for (int64_t v = 0; v < vectors; ++v) {
            scale.part[v] = largest.part[v] > T(0) ? largest.part[v] : largest.part[v] + T(1);  // NaN stays
        }
        for_each_coefficient([&](const Vector* rows, int64_t entry) {
            for (int64_t v = 0; v < vectors; ++v) {
                const Vector ratio = of_inputs(tile.radius, entry, tile.sizes[0], v) * rows[v] / scale.part[v];
                total.part[v] += ratio * ratio;
            }
        });
        for (int64_t v = 0; v < vectors; ++v) {
            for (int64_t lane = 0; lane < lanes_of_vector; ++lane) total.part[v][lane] = root(total.part[v][lane]);
            largest.part[v] = largest.part[v] * total.part[v];
        }
    }

    static float root(float x) { return __builtin_sqrtf(x); }
    static double root(double x) { return __builtin_sqrt(x); }

    // Calls body(coefficients of one entry of the input, entry).
    template <class Body>
    void for_each_coefficient(const Body& body) const {
        for_each_position(0, [&](int64_t h, int64_t w) {
            const int64_t entry = (h * tile.widths[0] + w) * tile.channels[0];
            for_each_listed(0, h, w, [&](const Vector* rows, int64_t c) { body(rows, entry + c); });
        });
    }

    void run() {
        if (tile.units) {
            units_on = tile.start;
            memset(&diagonal, 0, sizeof diagonal);
            for_each_unit([&](int64_t lane, int64_t, int64_t, int64_t) { reinterpret_cast<T*>(&diagonal)[lane] = tile.sign; });
        }
        for (int32_t node = tile.start; node > 0; --node) {
            if (!reached(node)) continue;
            const Step<T>& step = tile.steps[node - 1];
            const bool convolves = step.kind == StepKind::convolution || step.kind == StepKind::dense;
            const bool unit_step = step.kind == StepKind::scaling || (convolves && step.groups == 1);
            if (units_on == node && !unit_step) write_units();
            switch (step.kind) {
                case StepKind::dense:
                case StepKind::convolution:
                    convolution(step, node);
                    if (units_on == node) units_on = -1;
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
                case StepKind::sparse:
                    sparse(step, node);
                    break;
                case StepKind::lines:
                    lines(step, node);
                    break;
                case StepKind::planes:
                    planes(step, node);
                    break;
            }
        }
        if (units_on == 0) write_units();
        concretise();
        memcpy(tile.low, &low, sizeof low);
        if (tile.both) memcpy(tile.high, &high, sizeof high);
    }
};

template <class T>
void run(const Tile<T>& tile, int64_t bundles) {
    if (tile.inputs > 1) {
        Pass<T, most_bundles, true>(tile).run();
    } else if (bundles == 1) {
        Pass<T, 1, false>(tile).run();
    } else {
        Pass<T, most_bundles, false>(tile).run();
    }
}

}  // namespace

void backward_tile(const Tile<float>& tile, int64_t bundles) noexcept { run(tile, bundles); }
void backward_tile(const Tile<double>& tile, int64_t bundles) noexcept { run(tile, bundles); }

}  // namespace VERIFIX_ISA_NAMESPACE
}  // namespace verifix
