// Where the coefficients of a tile are; included by backward.inl, for each instruction set.

#include <stdint.h>
#include <string.h>

#include "backward_gather.inl"
#include "backward_tile.h"

namespace verifix {
namespace VERIFIX_ISA_NAMESPACE {
namespace {

// `packed`: several inputs share the tile.
template <class T, int64_t bundles, bool packed>
struct Access {
    typedef Gather<T, bundles> Sums;
    typedef typename Sums::Column Column;
    typedef T Vector __attribute__((vector_size(vector_bytes)));
    typedef decltype(Vector{} < Vector{}) Mask;
    static constexpr int64_t vectors = Sums::vectors;  // of one entry
    static constexpr int64_t lanes = bundles * bundle_bytes / static_cast<int64_t>(sizeof(T));
    static constexpr int64_t lanes_of_vector = vector_bytes / static_cast<int64_t>(sizeof(T));

    struct Bundle {
        Vector part[vectors];
    };

    const Tile<T>& tile;
    Mask lanes_of[packed ? most_packed : 1][vectors];  // which lanes are of an input

    explicit Access(const Tile<T>& tile) : tile(tile) {
        for (int64_t input = 0; packed && input < tile.inputs; ++input) {
            for (int64_t lane = 0; lane < lanes; ++lane) {
                lanes_of[input][lane / lanes_of_vector][lane % lanes_of_vector] = lane / tile.rows == input ? -1 : 0;
            }
        }
    }

    // A number of each lane's input, where those of one input are `size` apart; null stands for zeros.
    Vector of_inputs(const T* numbers, int64_t entry, int64_t size, int64_t v) const {
        if (numbers == nullptr) return Vector{};
        Vector result = Vector{} + numbers[entry];
        for (int64_t input = 1; packed && input < tile.inputs; ++input) {
            result = lanes_of[input][v] ? Vector{} + numbers[input * size + entry] : result;
        }
        return result;
    }

    // The first and the last place, in its list, of the entries of a node at a plane position.
    struct Place {
        int64_t first, last;
    };
    Place place(int32_t node, int64_t h, int64_t w) const {
        const int32_t* offset = tile.entries[node].offset + h * tile.widths[node] + w;
        return {offset[0], offset[1]};
    }

    // The same for channels from `begin` to `end` alone.
    Place place(int32_t node, int64_t h, int64_t w, int64_t begin, int64_t end) const {
        const Place all = place(node, h, w);
        if (end - begin == tile.channels[node]) return all;
        return {first_from(node, all, begin), first_from(node, all, end)};
    }

    // The first place of a channel that is not below a number.
    int64_t first_from(int32_t node, Place range, int64_t number) const {
        if (range.last - range.first == tile.channels[node]) return range.first + number;
        const int32_t* channel = tile.entries[node].channel;
        while (range.first < range.last) {
            const int64_t middle = (range.first + range.last) / 2;
            if (channel[middle] < number) {
                range.first = middle + 1;
            } else {
                range.last = middle;
            }
        }
        return range.first;
    }

    // Where the coefficients of an entry are, from its place in the list; its position is in this row of the plane.
    Vector* at(int32_t node, int64_t h, int64_t listed) const {
        const int64_t shift = tile.shifts[node][h - tile.windows[node].h0];
        return reinterpret_cast<Vector*>(tile.coefficients) + (listed + shift) * vectors;
    }

    bool reached(int32_t node) const { return node == tile.start || tile.first_writer[node] > 0; }

    // Whether the sources of a step have no coefficients yet when it comes to source number s: buffers start undefined.
    bool fresh(const Step<T>& step, int32_t node, int32_t s) const {
        bool first = tile.first_writer[step.sources[s]] == node;
        for (int32_t other = 0; other < s; ++other) first = first && step.sources[other] != step.sources[s];
        return first;
    }

    bool inside(int32_t node, int64_t h, int64_t w) const {
        const Window& window = tile.windows[node];
        return h >= window.h0 && h < window.h1 && w >= window.w0 && w < window.w1;
    }

    // What a maximum of numbers should be where one of them is NaN.
    static Vector positive_part(const Vector& a) { return a > T(0) ? a : a * T(0); }

    // Calls body(h, w) for each position of a node's window.
    template <class Body>
    void for_each_position(int32_t node, const Body& body) const {
        const Window& window = tile.windows[node];
        for (int64_t h = window.h0; h < window.h1; ++h) {
            for (int64_t w = window.w0; w < window.w1; ++w) body(h, w);
        }
    }

    // Calls body(its coefficients, channel) for each listed entry at a position of a node.
    template <class Body>
    void for_each_listed(int32_t node, int64_t h, int64_t w, const Body& body) const {
        const Place range = place(node, h, w);
        Vector* rows = at(node, h, range.first);
        for (int64_t k = range.first; k < range.last; ++k, rows += vectors) body(rows, tile.entries[node].channel[k]);
    }

    // The place of an entry in its list, or -1.
    int64_t find(int32_t node, int64_t h, int64_t w, int64_t c) const {
        const Place range = place(node, h, w);
        const int64_t k = first_from(node, range, c);
        return k < range.last && tile.entries[node].channel[k] == c ? k : -1;
    }

    // For each needed entry of a source, calls body(target, rows, channel) with the coefficients of the entry of `node` at the
    // same position whose channel is `before` higher, or writes zeros where there is none and nothing is there yet.
    template <class Body>
    void match(int32_t node, int32_t source, int64_t before, bool first, const Body& body) const {
        for_each_position(source, [&](int64_t h, int64_t w) {
            Place range{0, 0};
            const Vector* rows = nullptr;
            if (inside(node, h, w)) {
                range = place(node, h, w);
                rows = at(node, h, range.first);
            }
            const int32_t* channel = tile.entries[node].channel;
            for_each_listed(source, h, w, [&](Vector* target, int64_t c) {
                while (range.first < range.last && channel[range.first] < c + before) ++range.first, rows += vectors;
                if (range.first < range.last && channel[range.first] == c + before) {
                    body(target, rows, (h * tile.widths[source] + w) * tile.channels[source] + c);
                } else if (first) {
                    memset(target, 0, sizeof(Bundle));
                }
            });
        });
    }
};

}  // namespace
}  // namespace VERIFIX_ISA_NAMESPACE
}  // namespace verifix
