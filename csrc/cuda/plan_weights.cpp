// The weights of a plan on CUDA: borrowed, where and as they are given. Only their addresses are read here.
#include "../cpu/plan.h"

namespace verifix {

template <class T>
const T* Plan<T>::Parts::keep(const T* values, std::int64_t) {
    return values;
}

template <class T>
void Plan<T>::Parts::keep_weights(Step<T>& step, const T* weight, PlanShape) {
    step.weight = weight;
}

template const float* Plan<float>::Parts::keep(const float*, std::int64_t);
template const double* Plan<double>::Parts::keep(const double*, std::int64_t);
template void Plan<float>::Parts::keep_weights(Step<float>&, const float*, PlanShape);
template void Plan<double>::Parts::keep_weights(Step<double>&, const double*, PlanShape);

}  // namespace verifix
