// The CUDA code of transport plans, run on the host: the same items, in loops instead of threads, with the bindings of
// the module. The "stream" is the order of the threads: 0 for first to last, 1 for last to first; both must give the
// same bits.
#include <pybind11/pybind11.h>

#include "bindings/transport_project.h"
#include "cuda/transport_project_items.h"

using namespace verifix;

namespace {

struct HostBlock {
    bool reversed;

    template <class Body>
    void threads(int64_t count, const Body& body) const {
        for (int thread = 0; thread < transport_slots; ++thread) {
            const int slot = reversed ? transport_slots - 1 - thread : thread;
            for (int64_t p = slot; p < count; p += transport_slots) body(p, slot);
        }
    }

    template <class Body>
    void pixels(int64_t count, const Body& body) const {
        threads(count, [&](int64_t p, int) { body(p); });
    }

    template <class Body>
    TwoSums sums(int64_t count, const Body& body) const {
        double first[transport_slots] = {}, second[transport_slots] = {};
        threads(count, [&](int64_t p, int slot) { body(p, first[slot], second[slot]); });
        for (int half = transport_slots / 2; half > 0; half /= 2) {
            for (int i = 0; i < half; ++i) {
                first[i] += first[i + half];
                second[i] += second[i + half];
            }
        }
        return {first[0], second[0]};
    }

    double largest(double value) const { return value; }
    bool all(bool flag) const { return flag; }
};

template <class T, int fixed>
void project_all(const ProjectPlan<T>& job, bool reversed) {
    const HostBlock block{reversed};
    for (int64_t i = 0; i < job.shape.n; ++i) {
        const TransportImage<T, fixed, HostBlock> image(job, block, i);
        job.multiplier[i] = image.project(job.budget[i], job.start == nullptr ? 0.0 : job.start[i]);
    }
}

struct HostTransportProject {
    template <class T>
    static void project_plan(const ProjectPlan<T>& job, std::uintptr_t order) {
        if (!check_project_plan(job)) return;
        switch (job.shape.window) {
            case 3:
                return project_all<T, 9>(job, order != 0);
            case 5:
                return project_all<T, 25>(job, order != 0);
            case 7:
                return project_all<T, 49>(job, order != 0);
            default:
                return project_all<T, 0>(job, order != 0);
        }
    }

    template <class Item>
    static void loop(std::int64_t count, std::uintptr_t order, const Item& item) {
        for (std::int64_t i = 0; i < count; ++i) item(order == 0 ? i : count - 1 - i);
    }

    template <class T>
    static void plan_image(const T* plan, T* image, TransportShape shape, std::uintptr_t order) {
        if (!check_plan_image(plan, image, shape)) return;
        const std::int64_t count = shape.n * shape.channels * shape.height * shape.width;
        loop(count, order, [&](std::int64_t i) { plan_image_item(plan, image, shape, i); });
    }

    template <class T>
    static void plan_gradient(const T* image, T* plan, TransportShape shape, std::uintptr_t order) {
        if (!check_plan_image(plan, image, shape)) return;
        loop(transport_entries(shape), order, [&](std::int64_t i) { plan_gradient_item(image, plan, shape, i); });
    }
};

}  // namespace

PYBIND11_MODULE(transport_project_on_host, m) {
    bind_transport_project<HostTransportProject, std::uintptr_t>(m, pybind11::arg("stream"));
}
