// The CUDA code of abs_median, run on the host: the same blocks, with their threads in a loop. The "stream" is the order
// of the threads: 0 for first to last, 1 for last to first; both must give the same bits.
#include <pybind11/pybind11.h>

#include <memory>

#include "bindings/data_type.h"
#include "cuda/abs_median_column.h"
#include "verifix/abs_median.h"

using namespace verifix;

namespace {

template <class T, bool staged>
void run(const T* x, T* values, std::int64_t* index, AbsMedianShape shape, bool reversed) {
    using Key = typename MedianKey<T>::Key;
    const MedianBlock block = median_block<T>(shape.k);
    const std::int64_t columns = shape.batch * shape.n;
    for (std::int64_t first = 0; first < columns; first += block.threads) {
        // of its own size, so that sanitizers see what lies beyond it
        const std::unique_ptr<Key[]> memory(new Key[static_cast<std::size_t>(block.bytes) / sizeof(Key)]);
        for (int i = 0; i < block.threads; ++i) {
            const int thread = reversed ? block.threads - 1 - i : i;
            const std::int64_t column = first + thread;
            if (column >= columns) continue;
            median_of_column<T, staged>(x + column / shape.n * shape.k * shape.n + column % shape.n,
                                        static_cast<int>(shape.k), shape.n, memory.get() + thread, block.threads,
                                        values + column, index + column);
        }
    }
}

void abs_median(std::uintptr_t x, std::uintptr_t values, std::uintptr_t index, std::int64_t batch, std::int64_t k,
                std::int64_t n, const std::string& dtype, std::uintptr_t stream) {
    visit(dtype, [&](auto zero) {
        using T = decltype(zero);
        const auto *from = reinterpret_cast<const T*>(x);
        auto *to = reinterpret_cast<T*>(values);
        auto *at = reinterpret_cast<std::int64_t*>(index);
        const AbsMedianShape shape{batch, k, n};
        check_abs_median(from, to, at, shape);
        median_block<T>(k).staged ? run<T, true>(from, to, at, shape, stream != 0)
                                  : run<T, false>(from, to, at, shape, stream != 0);
    });
}

}  // namespace

PYBIND11_MODULE(abs_median_on_host, m) {
    namespace py = pybind11;
    m.def("abs_median", &abs_median, py::kw_only(), py::arg("x"), py::arg("values"), py::arg("index"), py::arg("batch"),
          py::arg("k"), py::arg("n"), py::arg("dtype"), py::arg("stream"));
}
