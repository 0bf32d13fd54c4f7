// The CUDA code of backward passes, run on the host: the same items and sums, in loops instead of kernels.
//
// The "stream" is the order of the items: 0 for first to last, 1 for last to first. Items of one launch may run in any
// order on a device, so both must give the same bits.
#include <pybind11/pybind11.h>

#include "bindings/plan.h"
#include "cuda/backward_pass.h"

namespace verifix {
namespace {

class Loops {
public:
    explicit Loops(bool backwards) : backwards_(backwards) {}

    template <class Step>
    void items(const Step& step, std::int32_t pairs, std::int64_t count) const {
        for (std::int64_t i = 0; i < pairs * count; ++i) {
            const std::int64_t at = backwards_ ? pairs * count - 1 - i : i;
            for (int lane = 0; lane < gather::lanes; ++lane) {
                step(static_cast<std::int32_t>(at / count), static_cast<std::int32_t>(at % count), lane);
            }
        }
    }

    template <class T, template <class> class Sum>
    void sums(const Sum<T>& sum, std::int32_t pairs) const {
        for (std::int32_t i = 0; i < pairs; ++i) {
            const std::int32_t pair = backwards_ ? pairs - 1 - i : i;
            for (int lane = 0; lane < gather::lanes; ++lane) {
                gather::Sums<T> total = sum.part(pair, 0, lane);
                for (int part = 1; part < gather::parts; ++part) sum.combine(total, sum.part(pair, part, lane));
                sum.finish(pair, lane, total);
            }
        }
    }

private:
    bool backwards_;
};

}  // namespace

template <class T>
void backward_cuda(const BackwardSchedule<T>& schedule, const BackwardRequest<T>& request, const BackwardMemory& memory,
                   void* stream) {
    Loops loops(stream != nullptr);
    BackwardPass<T, Loops>(schedule, request, memory, loops).run();
}

template void backward_cuda(const BackwardSchedule<float>&, const BackwardRequest<float>&, const BackwardMemory&, void*);
template void backward_cuda(const BackwardSchedule<double>&, const BackwardRequest<double>&, const BackwardMemory&, void*);

}  // namespace verifix

PYBIND11_MODULE(cuda_on_host, m) { bind_plans(m); }
