// The kernel itself, compiled once for each instruction set: VERIFIX_ISA_NAMESPACE and VERIFIX_VECTOR_BYTES say which.
//
// Lanes are pixels of a row. All that a sweep touches of one channel stays in the first-level cache for images of a few
// ten thousand pixels at most; channels go through a sweep one after the other, and share the multiplier.

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "sinkhorn_images.h"
#include "sinkhorn_vectors.inl"

namespace verifix {

namespace VERIFIX_ISA_NAMESPACE {
namespace {

#include "sinkhorn_window.inl"

// What a sweep found at the point that it started from.
struct Found {
    double residual, cost, second;
};

// One image, divided by its mass, on its way.
template <class T, class Window>
class Iterates {
public:
    using V = typename Vectors<T>::V;

    // `memory` has layout.elements elements.
    Iterates(const SinkhornLayout& layout, const SinkhornRule& rule, const double* cost, T* memory)
        : layout_(layout), rule_(rule), window_(layout, cost, memory + sinkhorn_fields * layout.channels * layout.plane) {
        const int64_t field = layout.channels * layout.plane;
        v_ = memory;
        u_ = v_ + field;
        x_ = u_ + field;
        target_ = x_ + field;
        exponent_ = target_ + field;
        velocity_ = exponent_ + field;
        mask_ = memory + layout.elements - layout.blocks * sinkhorn_lanes;
        memset(memory, 0, static_cast<size_t>(layout.elements) * sizeof(T));
        memset(mask_, 0xFF, static_cast<size_t>(layout.columns) * sizeof(T));
    }

    template <class Source>
    void start(const Source* x, const Source* w, double mass) {
        const double lowest = -SinkhornNumbers<double>::largest * sinkhorn_log_2;
        each_pixel([&](int64_t pixel, int64_t at) {
            x_[at] = static_cast<T>(static_cast<double>(x[pixel]) / mass);
            const double target = rule_.regularisation * (static_cast<double>(w[pixel]) / mass);
            target_[at] = static_cast<T>(larger(target, lowest));
        });
        // Nothing arrives where no mass is near: there z = 0 = w - beta / lambda, whatever w is.
        window_.begin(0, 1);
        each_channel([&](int64_t plane) {
            window_.columns_of(x_ + plane, v_ + plane);
            each_vector<T>(layout_, [&](int64_t row, int64_t column, int64_t) {
                const int64_t in_plane = row + column, at = plane + in_plane;
                store(target_ + at, window_.column(in_plane) > V{} ? load(target_ + at) : V{});
            });
        });
        set_v();
    }

    // The exponents of another precision.
    template <class Other>
    void take(const Other* exponent) {
        for (int64_t i = 0; i < layout_.channels * layout_.plane; ++i) exponent_[i] = static_cast<T>(exponent[i]);
        set_v();
    }

    const T* exponent() const { return exponent_; }

    // Whether an exponent is held where numbers end.
    bool held() const {
        T most = 0;
        for (int64_t i = 0; i < layout_.channels * layout_.plane; ++i) most = larger(most, absolute(exponent_[i]));
        return most >= SinkhornNumbers<T>::largest;
    }

    // `age`: sweeps since the residual grew; at 0 the step is a plain one.
    Found sweep(double multiplier, int64_t age) {
        const T relaxation = static_cast<T>((age == 0 ? 1 : rule_.relaxation) / sinkhorn_log_2);
        const T momentum = age == 0 ? T{0} : static_cast<T>(sinkhorn_momentum(rule_.momentum, age));
        window_.begin(multiplier, rule_.regularisation);
        Found found{0, 0, 0};
        each_channel([&](int64_t plane) {
            window_.rows(v_ + plane, x_ + plane, u_ + plane);
            window_.columns_of(u_ + plane, v_ + plane);
            Sum<T> residual;
            each_vector<T>(layout_, [&](int64_t row, int64_t column, int64_t part) {
                const int64_t in_plane = row + column, at = plane + in_plane;
                const V exponent = load(exponent_ + at), columns = window_.column(in_plane) * load(v_ + at);
                const V error = column_error<T>(load(target_ + at), exponent, columns);
                residual.part[part] += absolute(error);
                V velocity = load(velocity_ + at);
                const V next = next_exponent<T>(exponent, error, columns, velocity, relaxation, momentum);
                store(velocity_ + at, velocity);
                store(exponent_ + at, next);
                store(v_ + at, masked(power_of_two<T>(next), column));
            });
            found.residual += residual.total();
        });
        found.residual /= rule_.regularisation;
        window_.moments(found.cost, found.second);
        return found;
    }

    // Puts lambda times the column sums of the plan with rows x in place of v; of it, `kept` is within the budget, and the
    // rest stays where it was.
    Found finish(double multiplier, double eps, double& kept) {
        window_.begin(multiplier, rule_.regularisation);
        each_channel([&](int64_t plane) {
            window_.rows(v_ + plane, x_ + plane, u_ + plane);
            window_.columns_of(u_ + plane, v_ + plane);
            each_vector<T>(layout_, [&](int64_t row, int64_t column, int64_t) {
                const int64_t in_plane = row + column, at = plane + in_plane;
                store(v_ + at, window_.column(in_plane) * load(v_ + at));
            });
        });
        Found found{0, 0, 0};
        window_.moments(found.cost, found.second);
        kept = found.cost <= sinkhorn_certain * eps ? 1.0 : sinkhorn_certain * eps / found.cost;
        found.cost *= kept;
        const T scale = static_cast<T>(kept), rest = static_cast<T>(rule_.regularisation * (1 - kept));
        each_channel([&](int64_t plane) {
            Sum<T> residual;
            each_vector<T>(layout_, [&](int64_t row, int64_t column, int64_t part) {
                const int64_t at = plane + row + column;
                const V columns = load(v_ + at) * scale + load(x_ + at) * rest;
                residual.part[part] += absolute(column_error<T>(load(target_ + at), load(exponent_ + at), columns));
            });
            found.residual += residual.total();
        });
        found.residual /= rule_.regularisation;
        return found;
    }

    // After finish: the point itself. `start` or `take` come next, if the image is not done.
    template <class Source>
    void write(const Source* x, double mass, double kept, Source* z) const {
        const double scale = kept / rule_.regularisation * mass, rest = 1 - kept;
        each_pixel([&](int64_t pixel, int64_t at) {
            z[pixel] = static_cast<Source>(static_cast<double>(v_[at]) * scale + static_cast<double>(x[pixel]) * rest);
        });
    }

private:
    // The border of an image must stay zero.
    V masked(V value, int64_t column) const {
        typename SinkhornBits<V>::type bits, mask;
        memcpy(&bits, &value, sizeof bits);
        memcpy(&mask, mask_ + column, sizeof mask);
        bits &= mask;
        memcpy(&value, &bits, sizeof bits);
        return value;
    }

    void set_v() {
        each_channel([&](int64_t plane) {
            each_vector<T>(layout_, [&](int64_t row, int64_t column, int64_t) {
                const int64_t at = plane + row + column;
                store(v_ + at, masked(power_of_two<T>(load(exponent_ + at)), column));
            });
        });
    }

    template <class Body>
    void each_channel(const Body& body) const {
        for (int64_t channel = 0; channel < layout_.channels; ++channel) body(channel * layout_.plane);
    }

    template <class Body>
    void each_pixel(const Body& body) const {
        int64_t pixel = 0;
        each_channel([&](int64_t plane) {
            for (int64_t row = 0; row < layout_.rows; ++row) {
                const int64_t first = plane + layout_.origin + row * layout_.stride;
                for (int64_t column = 0; column < layout_.columns; ++column) body(pixel++, first + column);
            }
        });
    }

    const SinkhornLayout layout_;
    const SinkhornRule rule_;
    Window window_;
    T *v_, *u_, *x_, *target_, *exponent_, *velocity_, *mask_;
};

// Where an image is on its way.
struct Progress {
    double multiplier = 1, residual = HUGE_VAL, before = HUGE_VAL;
    int64_t sweeps = 0, age = 0;
};

// Sweeps until the point before one was satisfactory, or there were enough of them.
template <class Iterates>
void advance(Iterates& iterates, Progress& progress, const SinkhornRule& rule, double eps) {
    while (progress.sweeps < rule.max_sweeps) {
        progress.age = progress.residual > progress.before ? 0 : progress.age + 1;
        const Found found = iterates.sweep(progress.multiplier, progress.age);
        const bool done = sinkhorn_satisfied(found.residual, found.cost, progress.multiplier, eps, rule.tolerance);
        progress.before = progress.residual;
        progress.residual = found.residual;
        progress.multiplier = next_multiplier(progress.multiplier, found.cost, found.second, eps);
        progress.sweeps += 1;
        if (done) return;
    }
}

template <class T>
void write_numbers(const Sinkhorn<T>& job, int64_t image, double residual, double cost, const Progress& progress,
                   bool converged) {
    job.column_residual[image] = residual;
    job.plan_cost[image] = cost;
    job.multiplier[image] = progress.multiplier;
    job.sweeps[image] = progress.sweeps;
    job.converged[image] = converged;
}

// In the type of the images as long as its range is enough, and in double; points are made in double. Whether the range
// was enough.
template <class T, template <class> class Window>
bool project(const Sinkhorn<T>& job, int64_t image, const SinkhornLayout& layout, const Facts& facts, T* memory,
             double* wide_memory, bool narrow) {
    const int64_t first = image * layout.channels * layout.rows * layout.columns;
    const T *x = job.x + first, *w = job.w + first;
    const double eps = job.budget[image] / facts.mass;
    Progress progress;
    Iterates<double, Window<double>> wide(layout, job.rule, job.cost, wide_memory);
    wide.start(x, w, facts.mass);
    const auto finish = [&]() {
        double kept = 1;
        const Found found = wide.finish(progress.multiplier, eps, kept);
        const bool converged =
            sinkhorn_satisfied(found.residual, found.cost, progress.multiplier, eps, job.rule.tolerance);
        if (converged || progress.sweeps >= job.rule.max_sweeps) {
            wide.write(x, facts.mass, kept, job.z + first);
            write_numbers(job, image, found.residual, found.cost * facts.mass, progress, converged);
            return true;
        }
        wide.take(wide.exponent());
        return false;
    };
    if (!narrow) {
        while (!finish()) advance(wide, progress, job.rule, eps);
        return true;
    }
    Iterates<T, Window<T>> iterates(layout, job.rule, job.cost, memory);
    iterates.start(x, w, facts.mass);
    do {
        advance(iterates, progress, job.rule, eps);
        if (iterates.held()) return false;
        wide.take(iterates.exponent());
    } while (!finish());
    return true;
}

template <class T>
using Window1 = SymmetricWindow<T, 1>;
template <class T>
using Window2 = SymmetricWindow<T, 2>;
template <class T>
using Window3 = SymmetricWindow<T, 3>;

template <class T, template <class> class Window>
void project(const Sinkhorn<T>& job, int64_t image, const SinkhornLayout& layout, const Facts& facts,
             const SinkhornMemory<T>& memory) {
    // beta = lambda (w - z): a guess, as z may be further from w than x is. Where it fails, everything is done again.
    const double beta = job.rule.regularisation * (facts.change / facts.mass);
    const bool narrow = memory.narrow != nullptr && beta < 0.75 * sinkhorn_log_2 * SinkhornNumbers<T>::largest;
    if (narrow && project<T, Window>(job, image, layout, facts, memory.narrow, memory.wide, true)) return;
    project<T, Window>(job, image, layout, facts, nullptr, memory.wide, false);
}

template <class T>
void one_image(const Sinkhorn<T>& job, int64_t image, bool symmetric, const SinkhornMemory<T>& memory) {
    const SinkhornLayout layout = sinkhorn_layout(job.shape);
    const int64_t size = layout.channels * layout.rows * layout.columns, first = image * size;
    const Facts facts = look(job.x + first, job.w + first, size);
    const double budget = job.budget[image];
    if (!facts.usable || !(budget >= 0) || budget - budget != 0) {
        for (int64_t i = 0; i < size; ++i) job.z[first + i] = static_cast<T>(NAN);
        Progress progress;
        progress.multiplier = NAN;
        write_numbers(job, image, NAN, NAN, progress, false);
    } else if (facts.mass == 0 || budget == 0) {
        for (int64_t i = 0; i < size; ++i) job.z[first + i] = job.x[first + i];
        Progress progress;
        progress.multiplier = 0;
        write_numbers(job, image, 0, 0, progress, true);
    } else if (symmetric && layout.radius == 1) {
        project<T, Window1>(job, image, layout, facts, memory);
    } else if (symmetric && layout.radius == 2) {
        project<T, Window2>(job, image, layout, facts, memory);
    } else if (symmetric && layout.radius == 3) {
        project<T, Window3>(job, image, layout, facts, memory);
    } else {
        project<T, AnyWindow>(job, image, layout, facts, memory);
    }
}

}  // namespace

void sinkhorn_image(const Sinkhorn<float>& job, int64_t image, bool symmetric,
                    const SinkhornMemory<float>& memory) noexcept {
    one_image(job, image, symmetric, memory);
}

void sinkhorn_image(const Sinkhorn<double>& job, int64_t image, bool symmetric,
                    const SinkhornMemory<double>& memory) noexcept {
    one_image(job, image, symmetric, memory);
}

}  // namespace VERIFIX_ISA_NAMESPACE
}  // namespace verifix
