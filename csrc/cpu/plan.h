// The inside of a plan: steps with the memory that they point to.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <new>
#include <string>
#include <vector>

#include "backward_tile.h"
#include "forward_tile.h"
#include "verifix/backward.h"

namespace verifix {

// Memory that passes leave to the next ones: fresh pages cost more than the work of a small pass.
class Workspaces {
public:
    struct Memory {
        struct Free {
            void operator()(void* memory) const { std::free(memory); }
        };
        std::unique_ptr<void, Free> bytes;
        std::int64_t capacity = 0;

        // Throws std::bad_alloc; what was there is lost where it was too small.
        void reserve(std::int64_t wanted) {
            if (wanted <= capacity) return;
            bytes.reset();
            capacity = 0;
            bytes.reset(std::aligned_alloc(bundle_bytes, static_cast<std::size_t>(wanted)));
            if (bytes == nullptr) throw std::bad_alloc();
            capacity = wanted;
        }
    };

    Memory take() {
        const std::lock_guard<std::mutex> lock(mutex_);
        if (kept_.empty()) return {};
        Memory memory = std::move(kept_.back());
        kept_.pop_back();
        return memory;
    }

    void give(Memory memory) noexcept {
        const std::lock_guard<std::mutex> lock(mutex_);
        try {
            kept_.push_back(std::move(memory));
        } catch (const std::bad_alloc&) {
            // then it is not kept
        }
    }

private:
    std::mutex mutex_;
    std::vector<Memory> kept_;
};

// The steps and nodes of a plan.
template <class T>
struct Network {
    std::vector<PlanShape> shapes;  // of every node
    std::vector<Step<T>> steps;
    std::vector<std::int64_t> channels, widths, sizes;  // of every node
    std::vector<Entries> all_entries;            // of every node: the list of all that it has
    mutable Workspaces workspaces;
};

template <class T>
struct Plan<T>::Parts : Network<T> {
    std::vector<std::unique_ptr<T[]>> numbers;
    std::vector<std::unique_ptr<std::int64_t[]>> offsets;
    std::vector<std::unique_ptr<std::int32_t[]>> indices, sources;
    std::vector<std::unique_ptr<Use[]>> uses;
    std::vector<std::unique_ptr<Window[]>> reaches;
    std::vector<std::unique_ptr<std::int32_t[]>> listed;

    // What the steps of this module read: csrc/cpu/plan_weights.cpp copies, csrc/cuda/plan_weights.cpp borrows.
    const T* keep(const T* values, std::int64_t count);
    void keep_weights(Step<T>& step, const T* weight, PlanShape source);

    const T* keep_outputs_last(const T* values, std::int64_t groups, std::int64_t outputs, std::int64_t taps, std::int64_t inputs);
    void add_node(PlanShape shape);
    void keep_panels(Step<T>& step, const T* weight, std::int64_t groups, std::int64_t outputs, std::int64_t window);
    Step<T> places(PlanShape input, PlanShape output, std::int64_t count, const std::int64_t* from,
                   const std::int64_t* index);
    int append(Step<T> step, const std::vector<int>& from, PlanShape shape);
};

// How a forward pass reads the source of a dense layer or a convolution, but for pointers and the block; with a plane of 0
// where the padding is too large to hold.
template <class T>
ForwardWindows windows_of(const Step<T>& step, PlanShape source);

// The windows of every node that rows inside one window of `start` reach; `reached` says which nodes they do. A node whose
// window is empty holds nothing, and passes nothing on.
template <class T>
void propagate_windows(const std::vector<Step<T>>& steps, const std::vector<PlanShape>& shapes, int start,
                       std::vector<Window>& windows, std::vector<char>& reached);

}  // namespace verifix
