// The kernel itself, compiled once for each instruction set: VERIFIX_ISA_NAMESPACE and VERIFIX_VECTOR_BYTES say which.
//
// Lanes are pixels with mass. The multiplier changes an offset's share by its cost alone, so the powers of the offsets are
// added by classes of equal cost once, and a sweep takes one power for each class.

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "conjugate_sinkhorn_images.h"
#include "sinkhorn_vectors.inl"

namespace verifix {
namespace VERIFIX_ISA_NAMESPACE {
namespace {

using V = Vectors<double>::V;

// Of body(i) for i below count, in fixed lanes.
template <class Body>
double lane_sum(int64_t count, const Body& body) {
    double part[sinkhorn_lanes] = {}, sum = 0;
    int64_t i = 0;
    for (; i + sinkhorn_lanes <= count; i += sinkhorn_lanes) {
        for (int64_t l = 0; l < sinkhorn_lanes; ++l) part[l] += body(i + l);
    }
    for (int64_t l = 0; i + l < count; ++l) part[l] += body(i + l);
    for (const double lane : part) sum += lane;
    return sum;
}

struct Sums {
    double cost, slope;
};

// Classes: how many there are, or 0 where only the window knows.
template <int Classes>
class Maximisation {
public:
    Maximisation(const ConjugateLayout& layout, const ConjugateWindow& window, const ConjugateMemory& memory,
                 double regularisation)
        : layout_(layout), window_(window), memory_(memory), scale_(regularisation / sinkhorn_log_2) {}

    // Of an image with mass.
    template <class T>
    void start(const T* x, const T* g) {
        for (int64_t i = 0; i < layout_.channels * layout_.plane; ++i) {
            memory_.g[i] = -HUGE_VAL;
            memory_.z[i] = 0;
        }
        count_ = 0;
        each_pixel([&](int64_t pixel, int64_t at) {
            memory_.g[at] = static_cast<double>(g[pixel]);
            memory_.place[count_] = at;
            memory_.mass[count_] = static_cast<double>(x[pixel]);
            count_ += x[pixel] > 0;
        });
        rounded_ = (count_ + sinkhorn_lanes - 1) / sinkhorn_lanes * sinkhorn_lanes;
        for (int64_t k = count_; k < rounded_; ++k) {
            memory_.place[k] = memory_.place[0];
            memory_.mass[k] = 0;
        }
        for (int64_t k = 0; k < rounded_; ++k) memory_.top[k] = -HUGE_VAL;
        for (int64_t p = 0; p < classes(); ++p) find_most(p);
        for (int64_t p = 0; p < classes(); ++p) add_powers(p);
    }

    // The plan of a multiplier: its cost, and the derivative of that, but for its sign.
    Sums sums(double multiplier) const {
        for (int64_t p = 0; p < classes(); ++p) memory_.price[p] = level_price(multiplier, window_.cost[p]);
        Sum<double> cost, slope;
        for (int64_t k = 0; k < rounded_; k += sinkhorn_lanes) {
            for (int64_t part = 0; part < parts<double>; ++part) {
                const int64_t at = k + part * width<double>;
                V largest = load(memory_.free + at), anchor{};
                for (int64_t p = 1; p < classes(); ++p) {
                    const V level = load(of(memory_.free, p) + at) - memory_.price[p];
                    anchor = level > largest ? V{} + window_.cost[p] : anchor;
                    largest = larger(level, largest);
                }
                Shares<V> shares;
                for (int64_t p = 0; p < classes(); ++p) {
                    const V power = falling_power((load(of(memory_.free, p) + at) - memory_.price[p]) - largest);
                    shares.add(load(of(memory_.sum, p) + at) * power, window_.cost[p], anchor);
                }
                const V row = load(memory_.mass + at) / shares.sum;
                store(memory_.level + at, largest);
                store(memory_.row + at, row);
                cost.part[part] += row * shares.cost;
                slope.part[part] += row * shares.variance();
            }
        }
        return {cost.total(), slope.total()};
    }

    // After sums: where the mass arrives, in the planes of z.
    void move() const {
        for (int64_t p = 0; p < classes(); ++p) {
            each_vector([&](int64_t at) {
                const V power = falling_power((load(of(memory_.free, p) + at) - memory_.price[p]) - load(memory_.level + at));
                store(memory_.top + at, load(memory_.row + at) * power);  // top has served
            });
            for (int32_t d = window_.first[p]; d < window_.first[p + 1]; ++d) {
                const int64_t step = window_.steps[d];
                look_at(step);
                each_vector([&](int64_t at) {
                    const V share = falling_power((load(memory_.near + at) - load(of(memory_.most, p) + at)) * scale_);
                    store(memory_.near + at, load(memory_.top + at) * share);
                });
                for (int64_t k = 0; k < count_; ++k) memory_.z[memory_.place[k] + step] += memory_.near[k];
            }
        }
    }

    // The sum of x times the largest g - price c of the window.
    double terms(double price) const {
        Sum<double> total;
        for (int64_t k = 0; k < rounded_; k += sinkhorn_lanes) {
            for (int64_t part = 0; part < parts<double>; ++part) {
                const int64_t at = k + part * width<double>;
                V best = load(memory_.most + at);
                for (int64_t p = 1; p < classes(); ++p) {
                    best = larger(load(of(memory_.most, p) + at) - price * window_.cost[p], best);
                }
                total.part[part] += load(memory_.mass + at) * best;
            }
        }
        return total.total();
    }

    // Calls body(pixel, at): without and with borders.
    template <class Body>
    void each_pixel(const Body& body) const {
        int64_t pixel = 0;
        for (int64_t channel = 0; channel < layout_.channels; ++channel) {
            for (int64_t row = 0; row < layout_.rows; ++row) {
                const int64_t first = channel * layout_.plane + (row + layout_.radius) * layout_.stride + layout_.radius;
                for (int64_t column = 0; column < layout_.columns; ++column) body(pixel++, first + column);
            }
        }
    }

private:
    int64_t classes() const { return Classes > 0 ? Classes : window_.classes; }

    double* of(double* planes, int64_t p) const { return planes + p * layout_.capacity; }

    template <class Body>
    void each_vector(const Body& body) const {
        for (int64_t at = 0; at < rounded_; at += width<double>) body(at);
    }

    void look_at(int64_t step) const {
        for (int64_t k = 0; k < rounded_; ++k) memory_.near[k] = memory_.g[memory_.place[k] + step];
    }

    void find_most(int64_t p) const {
        double* const most = of(memory_.most, p);
        for (int64_t k = 0; k < rounded_; ++k) most[k] = -HUGE_VAL;
        for (int32_t d = window_.first[p]; d < window_.first[p + 1]; ++d) {
            const int64_t step = window_.steps[d];
            for (int64_t k = 0; k < rounded_; ++k) most[k] = larger(most[k], memory_.g[memory_.place[k] + step]);
        }
        each_vector([&](int64_t at) { store(memory_.top + at, larger(load(memory_.top + at), load(most + at))); });
    }

    void add_powers(int64_t p) const {
        double *const most = of(memory_.most, p), *const sum = of(memory_.sum, p);
        each_vector([&](int64_t at) {
            store(of(memory_.free, p) + at, free_level(load(most + at), load(memory_.top + at), scale_));
            store(sum + at, V{});
        });
        for (int32_t d = window_.first[p]; d < window_.first[p + 1]; ++d) {
            look_at(window_.steps[d]);
            each_vector([&](int64_t at) {
                const V power = falling_power((load(memory_.near + at) - load(most + at)) * scale_);
                store(sum + at, load(sum + at) + power);
            });
        }
    }

    const ConjugateLayout& layout_;
    const ConjugateWindow& window_;
    const ConjugateMemory& memory_;
    const double scale_;
    int64_t count_ = 0, rounded_ = 0;
};

template <class T>
void write_numbers(const ConjugateSinkhorn<T>& job, int64_t image, double value, double upper, double cost,
                   const ConjugateSearch& search) {
    job.value[image] = value;
    job.upper[image] = upper;
    job.plan_cost[image] = cost;
    job.multiplier[image] = search.multiplier;
    job.sweeps[image] = search.sweeps;
    job.converged[image] = search.good;
}

template <class T, int Classes>
void maximise(const ConjugateSinkhorn<T>& job, int64_t image, const ConjugateLayout& layout,
              const ConjugateWindow& window, const ConjugateMemory& memory, double mass) {
    const int64_t size = layout.channels * layout.rows * layout.columns, first = image * size;
    const T *x = job.x + first, *g = job.g + first;
    const double budget = job.budget[image];
    Maximisation<Classes> one(layout, window, memory, job.regularisation);
    one.start(x, g);
    ConjugateSearch search;
    Sums sums = one.sums(search.multiplier);
    while (conjugate_search(search, sums.cost, sums.slope, budget, job.tolerance, job.max_sweeps)) {
        sums = one.sums(search.multiplier);
    }
    one.move();
    const double kept = conjugate_kept(sums.cost, budget), rest = 1 - kept;
    double largest = 0;
    one.each_pixel([&](int64_t pixel, int64_t at) {
        const double z = kept * memory.z[at] + rest * static_cast<double>(x[pixel]);
        largest = larger(largest, absolute(static_cast<double>(g[pixel])));
        job.z[first + pixel] = static_cast<T>(z);
        memory.near[pixel] = static_cast<double>(g[pixel]) * z;
    });
    const double value = lane_sum(size, [&](int64_t i) { return memory.near[i]; });
    const double price = search.multiplier / job.regularisation;
    const double upper = conjugate_bound(one.terms(price), price, budget, mass, largest,
                                         window.cost[window.classes - 1], size);
    write_numbers(job, image, value, upper, kept * sums.cost, search);
}

template <class T>
void one_image(const ConjugateSinkhorn<T>& job, int64_t image, const ConjugateLayout& layout,
               const ConjugateWindow& window, const ConjugateMemory& memory) {
    const int64_t size = layout.channels * layout.rows * layout.columns, first = image * size;
    const T *x = job.x + first, *g = job.g + first;
    const double budget = job.budget[image];
    const Facts facts = look(x, g, size);
    ConjugateSearch search;
    if (!facts.usable || !(budget >= 0) || budget - budget != 0) {
        for (int64_t i = 0; i < size; ++i) job.z[first + i] = static_cast<T>(NAN);
        search.multiplier = NAN;
        write_numbers(job, image, NAN, NAN, NAN, search);
    } else if (facts.mass == 0 || budget == 0) {
        const auto product = [&](int64_t i) { return static_cast<double>(g[i]) * static_cast<double>(x[i]); };
        const double value = lane_sum(size, product);
        const double sizes = lane_sum(size, [&](int64_t i) { return absolute(product(i)); });
        for (int64_t i = 0; i < size; ++i) job.z[first + i] = x[i];
        search.good = true;
        write_numbers(job, image, value, facts.mass == 0 ? value : resting_bound(value, sizes, size), 0, search);
    } else if (window.classes == 3) {  // 3 x 3 by euclidean distance
        maximise<T, 3>(job, image, layout, window, memory, facts.mass);
    } else if (window.classes == 6) {  // 5 x 5
        maximise<T, 6>(job, image, layout, window, memory, facts.mass);
    } else if (window.classes == 10) {  // 7 x 7
        maximise<T, 10>(job, image, layout, window, memory, facts.mass);
    } else {
        maximise<T, 0>(job, image, layout, window, memory, facts.mass);
    }
}

}  // namespace

void conjugate_image(const ConjugateSinkhorn<float>& job, int64_t image, const ConjugateLayout& layout,
                     const ConjugateWindow& window, const ConjugateMemory& memory) noexcept {
    one_image(job, image, layout, window, memory);
}

void conjugate_image(const ConjugateSinkhorn<double>& job, int64_t image, const ConjugateLayout& layout,
                     const ConjugateWindow& window, const ConjugateMemory& memory) noexcept {
    one_image(job, image, layout, window, memory);
}

}  // namespace VERIFIX_ISA_NAMESPACE
}  // namespace verifix
