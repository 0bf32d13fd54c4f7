#include "verifix/clopper_pearson.h"

#include "verifix/binomial.h"
#include "verifix/parallel.h"

namespace verifix {
namespace {

// Below this many entries a second thread costs more than it saves.
constexpr std::int64_t entries_worth_a_thread = 64;
// Neighbouring entries often take equally long, and longer than others: threads take turns in pieces of this size.
constexpr std::int64_t piece = 16;

void run_piece(const ClopperPearson& job, std::int64_t first) noexcept {
    const std::int64_t last = first + piece < job.count ? first + piece : job.count;
    for (std::int64_t i = first; i < last; ++i) {
        const binomial::Bounds bounds = binomial::clopper_pearson(job.successes[i], job.trials[i], job.level[i]);
        job.lower[i] = bounds.lower;
        job.failure[i] = bounds.failure;
    }
}

}  // namespace

void clopper_pearson_cpu(const ClopperPearson& job, int threads) {
    check_clopper_pearson(job);
    if (threads < 1) {
        throw std::invalid_argument("clopper_pearson: threads = " + std::to_string(threads) + ": must be >= 1");
    }
    if (job.count < entries_worth_a_thread) threads = 1;
    parallel_ranges(threads, threads, [&](std::int64_t first, std::int64_t last) {
        for (std::int64_t turn = first; turn < last; ++turn) {
            for (std::int64_t at = turn * piece; at < job.count; at += threads * piece) run_piece(job, at);
        }
    });
}

}  // namespace verifix
