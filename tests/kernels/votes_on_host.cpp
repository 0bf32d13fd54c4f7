// The CUDA code of add_votes, run on the host: the same pieces, with the threads of a block in a loop. The "stream" is the
// order of pieces and threads: 0 for first to last, 1 for last to first; both must give the same counts.
#include <pybind11/pybind11.h>

#include <vector>

#include "bindings/data_type.h"
#include "cuda/votes_piece.h"

using namespace verifix;

namespace {

struct HostBlock {
    bool reversed;

    template <class Body>
    void each(std::int64_t first, std::int64_t last, const Body& body) const {
        for (std::int64_t i = first; i < last; ++i) body(reversed ? first + last - 1 - i : i);
    }
    template <class Number>
    void add(Number* count, int votes) const {
        *count += votes;
    }
};

void add_votes(std::uintptr_t logits, std::uintptr_t counts, std::int64_t n, std::int64_t count, std::int64_t classes,
               const std::string& dtype, std::uintptr_t stream) {
    visit(dtype, [&](auto zero) {
        const auto* const rows = reinterpret_cast<const decltype(zero)*>(logits);
        auto* const totals = reinterpret_cast<std::int64_t*>(counts);
        const VotesShape shape{n, count, classes};
        if (!check_votes(rows, totals, shape)) return;
        const HostBlock block{stream != 0};
        const std::int64_t pieces = votes_pieces(shape);
        block.each(0, n * pieces, [&](std::int64_t work) {
            if (votes_shared(shape)) {
                std::vector<int> votes(static_cast<std::size_t>(classes + 1), 7);  // as what was there before
                count_piece<true>(block, rows, totals, shape, pieces, work, votes.data());
            } else {
                count_piece<false>(block, rows, totals, shape, pieces, work, nullptr);
            }
        });
    });
}

}  // namespace

PYBIND11_MODULE(votes_on_host, m) {
    namespace py = pybind11;
    m.def("add_votes", &add_votes, py::kw_only(), py::arg("logits"), py::arg("counts"), py::arg("n"), py::arg("count"),
          py::arg("classes"), py::arg("dtype"), py::arg("stream"));
}
