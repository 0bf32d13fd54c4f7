// The arguments of projected and of conjugate Sinkhorn. Plain C types only: kernels of every instruction set include this.
#pragma once

#include <stdint.h>

namespace verifix {

struct SinkhornShape {
    int64_t images, channels, rows, columns, window;
};

struct SinkhornRule {
    double regularisation, tolerance;
    int64_t max_sweeps;
    double relaxation, momentum;
};

// Of each image: x and w to z (channels, rows, columns), and the numbers of verifix/kernels/sinkhorn.py.
template <class T>
struct Sinkhorn {
    SinkhornShape shape;
    SinkhornRule rule;
    const T *x, *w;
    const double *cost, *budget;
    T* z;
    double *column_residual, *plan_cost, *multiplier;
    int64_t* sweeps;
    bool* converged;
};

// Of each image: x and g to z, and the numbers of verifix/kernels/sinkhorn.py.
template <class T>
struct ConjugateSinkhorn {
    SinkhornShape shape;
    double regularisation, tolerance;
    int64_t max_sweeps;
    const T *x, *g;
    const double *cost, *budget;
    T* z;
    double *value, *upper, *plan_cost, *multiplier;
    int64_t* sweeps;
    bool* converged;
};

}  // namespace verifix
