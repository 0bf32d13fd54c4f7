// Products with the window of a plan, for one channel at a time; included by sinkhorn.inl in its namespace.
//
// Both kinds of window have: begin (the weights of a multiplier), rows (u from v, so that the plan has rows x), columns_of
// and then column (lambda times what arrives, but for the factor v), and moments (of the cost, over the channels since
// begin).

// Calls body(row, column, part) for the vectors of each row of a plane: where the row begins, and the vector in it.
template <class T, class Body>
VERIFIX_INLINE void each_vector(const SinkhornLayout& layout, const Body& body) {
    for (int64_t row = 0; row < layout.rows; ++row) {
        for (int64_t block = 0; block < layout.blocks; ++block) {
            for (int64_t part = 0; part < parts<T>; ++part) {
                body(layout.origin + row * layout.stride, block * sinkhorn_lanes + part * width<T>, part);
            }
        }
    }
}

// Costs that depend on |di| and |dj|, |di| and |dj| at most R. Pairs of pixels to the left and right, or above and below,
// are added before they are weighed, and the sums of one direction before the other is looked at.
template <class T, int R>
class SymmetricWindow {
public:
    using V = typename Vectors<T>::V;

    SymmetricWindow(const SinkhornLayout& layout, const double* cost, T* planes) : layout_(layout) {
        constexpr int window = 2 * R + 1;
        for (int a = 0; a <= R; ++a) {
            sums_[a] = planes + a * layout.plane;
            pairs_[a] = planes + (R + 1 + a) * layout.plane;
            for (int b = 0; b <= R; ++b) cost_[a][b] = cost[(R + a) * window + (R + b)];
        }
    }

    void begin(double multiplier, double regularisation) {
        for (int a = 0; a <= R; ++a) {
            for (int b = 0; b <= R; ++b) {
                weight_[a][b] = sinkhorn_weight(multiplier, cost_[a][b]);
                row_weight_[a][b] = static_cast<T>(weight_[a][b]);
                column_weight_[a][b] = static_cast<T>(regularisation * weight_[a][b]);
                total_[a][b] = 0;
            }
        }
    }

    void rows(const T* v, const T* x, T* u) {
        each_vector<T>(layout_, [&](int64_t row, int64_t column, int64_t) {
            const int64_t at = row + column;
            V pair[R + 1];
            pair[0] = load(v + at);
            for (int b = 1; b <= R; ++b) {
                pair[b] = load(v + at - b) + load(v + at + b);
                store(pairs_[b - 1] + at, pair[b]);
            }
            for (int a = 0; a <= R; ++a) {
                V sum = pair[0] * row_weight_[a][0];
                for (int b = 1; b <= R; ++b) sum += pair[b] * row_weight_[a][b];
                store(sums_[a] + at, sum);
            }
        });
        each_vector<T>(layout_, [&](int64_t row, int64_t column, int64_t) {
            const int64_t at = row + column;
            V sum = load(sums_[0] + at);
            for (int a = 1; a <= R; ++a) {
                sum += load(sums_[a] + at - a * layout_.stride) + load(sums_[a] + at + a * layout_.stride);
            }
            store(u + at, load(x + at) / larger(sum, V{} + SinkhornNumbers<T>::smallest));
        });
    }

    void columns_of(const T* u, const T* v) {
        Sum<T> total[R + 1][R + 1];
        each_vector<T>(layout_, [&](int64_t row, int64_t column, int64_t part) {
            const int64_t at = row + column;
            V pair[R + 1], other[R + 1];
            pair[0] = load(u + at);
            other[0] = load(v + at);
            for (int a = 1; a <= R; ++a) {
                pair[a] = load(u + at - a * layout_.stride) + load(u + at + a * layout_.stride);
                other[a] = load(pairs_[a - 1] + at);
            }
            for (int a = 0; a <= R; ++a) {
                for (int b = 0; b <= R; ++b) {
                    if (a + b > 0) total[a][b].part[part] += pair[a] * other[b];
                }
            }
            for (int b = 0; b <= R; ++b) {
                V sum = pair[0] * column_weight_[0][b];
                for (int a = 1; a <= R; ++a) sum += pair[a] * column_weight_[a][b];
                store(sums_[b] + at, sum);
            }
        });
        for (int a = 0; a <= R; ++a) {
            for (int b = 0; b <= R; ++b) total_[a][b] += total[a][b].total();
        }
    }

    V column(int64_t at) const {
        V sum = load(sums_[0] + at);
        for (int b = 1; b <= R; ++b) sum += load(sums_[b] + at - b) + load(sums_[b] + at + b);
        return sum;
    }

    // The sums of plan times cost, and of plan times squared cost.
    void moments(double& cost, double& second) const {
        cost = second = 0;
        for (int a = 0; a <= R; ++a) {
            for (int b = 0; b <= R; ++b) {
                const double moved = weight_[a][b] * total_[a][b] * cost_[a][b];
                cost += moved;
                second += moved * cost_[a][b];
            }
        }
    }

private:
    const SinkhornLayout layout_;
    double cost_[R + 1][R + 1], weight_[R + 1][R + 1], total_[R + 1][R + 1];
    T row_weight_[R + 1][R + 1], column_weight_[R + 1][R + 1];
    T *sums_[R + 1], *pairs_[R + 1];
};

// Any costs, offset by offset.
template <class T>
class AnyWindow {
public:
    using V = typename Vectors<T>::V;

    AnyWindow(const SinkhornLayout& layout, const double* cost, T* weights)
        : layout_(layout), cost_(cost), weight_(weights) {}

    void begin(double multiplier, double regularisation) {
        const int64_t window = 2 * layout_.radius + 1;
        for (int64_t d = 0; d < window * window; ++d) {
            const double weight = sinkhorn_weight(multiplier, cost_[d]);
            weight_[4 * d] = static_cast<T>(weight);
            weight_[4 * d + 1] = static_cast<T>(weight * cost_[d]);
            weight_[4 * d + 2] = static_cast<T>(weight * cost_[d] * cost_[d]);
            weight_[4 * d + 3] = static_cast<T>(regularisation * weight);
        }
        first_ = second_ = 0;
    }

    void rows(const T* v, const T* x, T* u) {
        Sum<T> first, second;
        each_vector<T>(layout_, [&](int64_t row, int64_t column, int64_t part) {
            const int64_t at = row + column;
            V sum{}, cost{}, squared{};
            each_offset([&](int64_t d, int64_t step) {
                const V there = load(v + at + step);
                sum += there * weight_[4 * d];
                cost += there * weight_[4 * d + 1];
                squared += there * weight_[4 * d + 2];
            });
            const V scale = load(x + at) / larger(sum, V{} + SinkhornNumbers<T>::smallest);
            store(u + at, scale);
            first.part[part] += scale * cost;
            second.part[part] += scale * squared;
        });
        first_ += first.total();
        second_ += second.total();
    }

    void columns_of(const T* u, const T*) { u_ = u; }

    V column(int64_t at) const {
        V sum{};
        each_offset([&](int64_t d, int64_t step) { sum += load(u_ + at - step) * weight_[4 * d + 3]; });
        return sum;
    }

    void moments(double& cost, double& second) const {
        cost = first_;
        second = second_;
    }

private:
    template <class Body>
    void each_offset(const Body& body) const {
        int64_t d = 0;
        for (int64_t i = -layout_.radius; i <= layout_.radius; ++i) {
            for (int64_t j = -layout_.radius; j <= layout_.radius; ++j) body(d++, i * layout_.stride + j);
        }
    }

    const SinkhornLayout layout_;
    const double* cost_;
    T* weight_;  // of an offset: itself, times the cost, times its square, times lambda
    const T* u_ = nullptr;
    double first_ = 0, second_ = 0;
};
