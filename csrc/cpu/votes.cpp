#include "verifix/votes.h"

#include "verifix/parallel.h"

namespace verifix {
namespace {

// Below this many logits a second thread costs more than it saves.
constexpr std::int64_t logits_worth_a_thread = 65536;

}  // namespace

template <class T>
void add_votes_cpu(const T* logits, std::int64_t* counts, VotesShape shape, int threads) {
    if (threads < 1) throw std::invalid_argument("add_votes: threads = " + std::to_string(threads) + ": must be >= 1");
    if (!check_votes(logits, counts, shape)) return;
    if (shape.n * shape.count * shape.classes < logits_worth_a_thread) threads = 1;
    parallel_ranges(shape.n, threads, [&](std::int64_t first, std::int64_t last) {
        for (std::int64_t i = first; i < last; ++i) {
            std::int64_t* const of_input = counts + i * (shape.classes + 1);
            for (std::int64_t j = 0; j < shape.count; ++j) {
                ++of_input[vote(logits + (i * shape.count + j) * shape.classes, shape.classes)];
            }
        }
    });
}

template void add_votes_cpu(const float*, std::int64_t*, VotesShape, int);
template void add_votes_cpu(const double*, std::int64_t*, VotesShape, int);

}  // namespace verifix
