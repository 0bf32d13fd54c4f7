// verifix._C_cuda: the CUDA kernels. Pointers come as integers from verifix/kernels/cuda.py, which has checked what
// they point to and has made their device current; nothing here waits for the device. The module imports on machines
// without a GPU or a driver.
#include <pybind11/pybind11.h>

#include "data_type.h"
#include "interval_image.h"
#include "noise.h"
#include "plan.h"
#include "pull_lines.h"
#include "sinkhorn.h"
#include "transport_linear.h"
#include "transport_project.h"
#include "verifix/abs_median.h"
#include "verifix/clopper_pearson.h"
#include "verifix/cuda.h"
#include "verifix/votes.h"

namespace py = pybind11;
using namespace verifix;

namespace {

void abs_median(std::uintptr_t x, std::uintptr_t values, std::uintptr_t index, std::int64_t batch, std::int64_t k,
                std::int64_t n, const std::string& dtype, std::uintptr_t stream) {
    visit(dtype, [&](auto zero) {
        using T = decltype(zero);
        abs_median_cuda(reinterpret_cast<const T*>(x), reinterpret_cast<T*>(values),
                        reinterpret_cast<std::int64_t*>(index), {batch, k, n}, reinterpret_cast<void*>(stream));
    });
}

void clopper_pearson(std::uintptr_t successes, std::uintptr_t trials, std::uintptr_t level, std::uintptr_t lower,
                     std::uintptr_t failure, std::int64_t count, std::uintptr_t stream) {
    clopper_pearson_cuda({reinterpret_cast<const std::int64_t*>(successes), reinterpret_cast<const std::int64_t*>(trials),
                          reinterpret_cast<const double*>(level), reinterpret_cast<double*>(lower),
                          reinterpret_cast<double*>(failure), count},
                         reinterpret_cast<void*>(stream));
}

struct CudaNoise {
    template <class T>
    static void add_noise(const AddNoise<T>& job, std::uintptr_t stream) {
        add_noise_cuda(job, memory<void>(stream));
    }
    template <class T>
    static void add_lattice_noise(const AddLatticeNoise<T>& job, std::uintptr_t stream) {
        add_lattice_noise_cuda(job, memory<void>(stream));
    }
    template <class T>
    static void keep_or_replace(const KeepOrReplace<T>& job, std::uintptr_t stream) {
        keep_or_replace_cuda(job, memory<void>(stream));
    }
    static void random_words(const RandomWords& job, std::uintptr_t stream) {
        random_words_cuda(job, memory<void>(stream));
    }
};

struct CudaTransportLinear {
    template <class T>
    static void run(const TransportLinear<T>& job, std::uintptr_t workspace, std::int64_t bytes, std::uintptr_t stream) {
        transport_linear_cuda(job, memory<void>(workspace), bytes, memory<void>(stream));
    }
};

struct CudaIntervalImage {
    template <class T>
    static void image(const IntervalImage<T>& job, std::uintptr_t stream) {
        interval_image_cuda(job, memory<void>(stream));
    }
    template <class T>
    static void gradient(const IntervalImageGradient<T>& job, std::uintptr_t stream) {
        interval_image_gradient_cuda(job, memory<void>(stream));
    }
};

struct CudaPullLines {
    template <class T>
    static void rows(const PullLines<T>& job, std::uintptr_t stream) {
        pull_lines_cuda(job, memory<void>(stream));
    }
    template <class T>
    static void gradient(const PullLinesGradient<T>& job, std::uintptr_t stream) {
        pull_lines_gradient_cuda(job, memory<void>(stream));
    }
};

void add_votes(std::uintptr_t logits, std::uintptr_t counts, std::int64_t n, std::int64_t count, std::int64_t classes,
               const std::string& dtype, std::uintptr_t stream) {
    visit(dtype, [&](auto zero) {
        using T = decltype(zero);
        add_votes_cuda(reinterpret_cast<const T*>(logits), reinterpret_cast<std::int64_t*>(counts), {n, count, classes},
                       reinterpret_cast<void*>(stream));
    });
}

struct CudaTransportProject {
    template <class T>
    static void project_plan(const ProjectPlan<T>& job, std::uintptr_t stream) {
        project_plan_cuda(job, memory<void>(stream));
    }
    template <class T>
    static void plan_image(const T* plan, T* image, TransportShape shape, std::uintptr_t stream) {
        plan_image_cuda(plan, image, shape, memory<void>(stream));
    }
    template <class T>
    static void plan_gradient(const T* image, T* plan, TransportShape shape, std::uintptr_t stream) {
        plan_gradient_cuda(image, plan, shape, memory<void>(stream));
    }
};

struct CudaSinkhorn {
    template <class T>
    static void projected(const Sinkhorn<T>& job, std::uintptr_t workspace, std::uintptr_t stream) {
        projected_sinkhorn_cuda(job, reinterpret_cast<void*>(workspace), reinterpret_cast<void*>(stream));
    }
    template <class T>
    static void conjugate(const ConjugateSinkhorn<T>& job, std::uintptr_t workspace, std::uintptr_t stream) {
        conjugate_sinkhorn_cuda(job, reinterpret_cast<void*>(workspace), reinterpret_cast<void*>(stream));
    }
};

py::dict config() {
    const CudaMachine machine = cuda_machine();
    py::dict facts;
    facts["architectures"] = VERIFIX_CUDA_ARCHITECTURES;
    facts["runtime_version"] = machine.runtime_version;
    facts["driver_version"] = machine.driver_version;
    facts["devices"] = machine.devices;
    return facts;
}

}  // namespace

PYBIND11_MODULE(_C_cuda, m, py::mod_gil_not_used()) {
    m.doc() = "CUDA kernels of verifix; use them through verifix.kernels.";
    m.def("abs_median", &abs_median, py::kw_only(), py::arg("x"), py::arg("values"), py::arg("index"), py::arg("batch"),
          py::arg("k"), py::arg("n"), py::arg("dtype"), py::arg("stream"), py::call_guard<py::gil_scoped_release>());
    m.def("clopper_pearson", &clopper_pearson, py::kw_only(), py::arg("successes"), py::arg("trials"), py::arg("level"),
          py::arg("lower"), py::arg("failure"), py::arg("count"), py::arg("stream"),
          py::call_guard<py::gil_scoped_release>());
    bind_noise<CudaNoise, std::uintptr_t>(m, py::arg("stream"));
    m.def("add_votes", &add_votes, py::kw_only(), py::arg("logits"), py::arg("counts"), py::arg("n"), py::arg("count"),
          py::arg("classes"), py::arg("dtype"), py::arg("stream"), py::call_guard<py::gil_scoped_release>());
    bind_transport_project<CudaTransportProject, std::uintptr_t>(m, py::arg("stream"));
    bind_plans(m);
    bind_interval_image<CudaIntervalImage, std::uintptr_t>(m, py::arg("stream"));
    bind_pull_lines<CudaPullLines, std::uintptr_t>(m, py::arg("stream"));
    bind_transport_linear<CudaTransportLinear, std::uintptr_t, std::int64_t, std::uintptr_t>(
        m, py::arg("workspace"), py::arg("bytes"), py::arg("stream"));
    bind_sinkhorn<CudaSinkhorn, std::uintptr_t, std::uintptr_t>(m, py::arg("workspace"), py::arg("stream"));
    m.def(
        "sinkhorn_workspace",
        [](const std::array<std::int64_t, 5>& shape) {
            return sinkhorn_workspace({shape[0], shape[1], shape[2], shape[3], shape[4]});
        },
        py::arg("shape"));
    m.def("config", &config, "What was built, and whether a driver and a GPU are there.");
}
