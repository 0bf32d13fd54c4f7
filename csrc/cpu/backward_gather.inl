// The inner loops of a backward pass through a convolution; included by backward.inl, for each instruction set.

#include <stdint.h>

#include "backward_tile.h"

namespace verifix {
namespace VERIFIX_ISA_NAMESPACE {
namespace {

#if defined(__AVX512F__)
constexpr int64_t vector_bytes = 64;
constexpr int64_t targets_together = 8;
#elif defined(__AVX2__)
constexpr int64_t vector_bytes = 32;
constexpr int64_t targets_together = 4;
#else
constexpr int64_t vector_bytes = 16;
constexpr int64_t targets_together = 4;
#endif

// Sums of columns for a few targets at once, with an entry's rows in so many bundles.
template <class T, int64_t bundles>
struct Gather {
    typedef T Vector __attribute__((vector_size(vector_bytes)));
    static constexpr int64_t vectors = bundles * bundle_bytes / vector_bytes;  // of one entry
    static constexpr int64_t chunk = vectors < 2 ? 1 : 2;                      // of them, that are summed up together

    // The listed entries of a convolution's output at one position, as seen from the inputs that feed it.
    struct Column {
        const Vector* rows;
        const int32_t* channel;
        int64_t count;
        int64_t shift;  // of the weights
    };

    // target += sum over the columns of weight * coefficient, for `count` targets at once.
    template <int64_t count>
    static void gather(Vector* const* targets, const T* const* weights, const Column* columns, int64_t column_count,
                       bool first) {
        for (int64_t v = 0; v < vectors; v += chunk) {
            Vector sum[count][chunk];
            for (int64_t t = 0; t < count; ++t) {
                for (int64_t i = 0; i < chunk; ++i) sum[t][i] = first ? Vector{} : targets[t][v + i];
            }
            for (int64_t c = 0; c < column_count; ++c) {
                const Column& column = columns[c];
                const T* weight[count];
                for (int64_t t = 0; t < count; ++t) weight[t] = weights[t] + column.shift;
                const Vector* rows = column.rows + v;
                for (int64_t k = 0; k < column.count; ++k, rows += vectors) {
                    const int64_t o = column.channel[k];
                    Vector a[chunk];
                    for (int64_t i = 0; i < chunk; ++i) a[i] = rows[i];
                    for (int64_t t = 0; t < count; ++t) {
                        for (int64_t i = 0; i < chunk; ++i) sum[t][i] += weight[t][o] * a[i];
                    }
                }
            }
            for (int64_t t = 0; t < count; ++t) {
                for (int64_t i = 0; i < chunk; ++i) targets[t][v + i] = sum[t][i];
            }
        }
    }

    static void gather_some(Vector* const* targets, const T* const* weights, int64_t count, const Column* columns,
                            int64_t column_count, bool first) {
        int64_t t = 0;
        for (; t + 4 <= count; t += 4) gather<4>(targets + t, weights + t, columns, column_count, first);
        if (t + 2 <= count) gather<2>(targets + t, weights + t, columns, column_count, first), t += 2;
        if (t < count) gather<1>(targets + t, weights + t, columns, column_count, first);
    }
};

// Cuts the positions of one axis into blocks of neighbours that feed the same windows, of those from `first` to `last`.
inline int64_t cut(AxisBlock* blocks, int64_t begin, int64_t end, int64_t kernel, int64_t stride, int64_t padding,
                   int64_t dilation, int64_t first, int64_t last) {
    int64_t count = 0;
    for (int64_t position = begin; position < end; ++position) {
        const int64_t right = position + padding, left = right - (kernel - 1) * dilation;
        int64_t from = left <= 0 ? 0 : (left + stride - 1) / stride, to = right / stride + 1;
        from = from < first ? first : from;
        to = to > last ? last : to;
        if (from >= to) from = to = 0;
        if (count > 0 && dilation == 1 && blocks[count - 1].first == from && blocks[count - 1].last == to) {
            blocks[count - 1].end = position + 1;
        } else {
            blocks[count++] = {position, position + 1, from, to};
        }
    }
    return count;
}

// How far along the kernel, or -1 between its taps.
inline int64_t tap_of(int64_t distance, int64_t dilation) {
    if (dilation == 1) return distance;
    return distance % dilation == 0 ? distance / dilation : -1;
}

}  // namespace
}  // namespace VERIFIX_ISA_NAMESPACE
}  // namespace verifix
