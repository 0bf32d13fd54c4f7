// verifix._C: the CPU kernels. Pointers come as integers from verifix/kernels/cpu.py, which knows what they point to.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>

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
#include "verifix/isa.h"
#include "verifix/parallel.h"
#include "verifix/narrow_adjoint.h"
#include "verifix/relu_lines.h"
#include "verifix/votes.h"

namespace py = pybind11;
using namespace verifix;

namespace {

void abs_median(std::uintptr_t x, std::uintptr_t values, std::uintptr_t index, std::int64_t batch, std::int64_t k,
                std::int64_t n, const std::string& dtype, int threads, const std::string& isa) {
    visit(dtype, [&](auto zero) {
        using T = decltype(zero);
        abs_median_cpu(reinterpret_cast<const T*>(x), reinterpret_cast<T*>(values),
                       reinterpret_cast<std::int64_t*>(index), {batch, k, n}, threads, isa_named(isa));
    });
}

struct CpuNoise {
    template <class T>
    static void add_noise(const AddNoise<T>& job, int threads, const std::string& isa) {
        add_noise_cpu(job, threads, isa_named(isa));
    }
    template <class T>
    static void add_lattice_noise(const AddLatticeNoise<T>& job, int threads, const std::string& isa) {
        add_lattice_noise_cpu(job, threads, isa_named(isa));
    }
    template <class T>
    static void keep_or_replace(const KeepOrReplace<T>& job, int threads, const std::string& isa) {
        keep_or_replace_cpu(job, threads, isa_named(isa));
    }
    static void random_words(const RandomWords& job, int threads, const std::string& isa) {
        random_words_cpu(job, threads, isa_named(isa));
    }
};

struct CpuTransportLinear {
    template <class T>
    static void run(const TransportLinear<T>& job, int threads, const std::string& isa) {
        transport_linear_cpu(job, threads, isa_named(isa));
    }
};

struct CpuIntervalImage {
    template <class T>
    static void image(const IntervalImage<T>& job, int threads, const std::string& isa) {
        interval_image_cpu(job, threads, isa_named(isa));
    }
    template <class T>
    static void gradient(const IntervalImageGradient<T>& job, int threads, const std::string& isa) {
        interval_image_gradient_cpu(job, threads, isa_named(isa));
    }
};

void add_votes(std::uintptr_t logits, std::uintptr_t counts, std::int64_t n, std::int64_t count, std::int64_t classes,
               const std::string& dtype, int threads) {
    visit(dtype, [&](auto zero) {
        using T = decltype(zero);
        add_votes_cpu(reinterpret_cast<const T*>(logits), reinterpret_cast<std::int64_t*>(counts), {n, count, classes},
                      threads);
    });
}

void clopper_pearson(std::uintptr_t successes, std::uintptr_t trials, std::uintptr_t level, std::uintptr_t lower,
                     std::uintptr_t failure, std::int64_t count, int threads) {
    clopper_pearson_cpu({reinterpret_cast<const std::int64_t*>(successes), reinterpret_cast<const std::int64_t*>(trials),
                         reinterpret_cast<const double*>(level), reinterpret_cast<double*>(lower),
                         reinterpret_cast<double*>(failure), count},
                        threads);
}

struct CpuPullLines {
    template <class T>
    static void rows(const PullLines<T>& job, int threads, const std::string& isa) {
        pull_lines_cpu(job, threads, isa_named(isa));
    }
    template <class T>
    static void gradient(const PullLinesGradient<T>& job, int threads, const std::string& isa) {
        pull_lines_gradient_cpu(job, threads, isa_named(isa));
    }
};

using Address = std::uintptr_t;

NarrowShape narrow_shape(const std::array<std::int64_t, 13>& s) {
    return {s[0], s[1], s[2], s[3], s[4], s[5], s[6], s[7], s[8], s[9], s[10], s[11], s[12]};
}

void narrow_adjoint(const std::array<std::int64_t, 13>& shape, Address rows, Address weight, Address result,
                    const std::string& dtype, int threads, const std::string& isa) {
    visit(dtype, [&](auto zero) {
        using T = decltype(zero);
        narrow_adjoint_cpu(NarrowAdjoint<T>{narrow_shape(shape), reinterpret_cast<const T*>(rows),
                                            reinterpret_cast<const T*>(weight), reinterpret_cast<T*>(result)},
                           threads, isa_named(isa));
    });
}

void narrow_adjoint_gradient(const std::array<std::int64_t, 13>& shape, Address rows, Address weight, Address of_result,
                             Address of_rows, Address of_weight, const std::string& dtype, int threads, const std::string& isa) {
    visit(dtype, [&](auto zero) {
        using T = decltype(zero);
        narrow_adjoint_gradient_cpu(
            NarrowAdjointGradient<T>{narrow_shape(shape), reinterpret_cast<const T*>(rows), reinterpret_cast<const T*>(weight),
                                     reinterpret_cast<const T*>(of_result), reinterpret_cast<T*>(of_rows),
                                     reinterpret_cast<T*>(of_weight)},
            threads, isa_named(isa));
    });
}

void relu_lines(std::int64_t count, const std::array<Address, 5>& arrays, const std::string& dtype, int threads,
                const std::string& isa) {
    visit(dtype, [&](auto zero) {
        using T = decltype(zero);
        const auto array = [&](std::size_t i) { return reinterpret_cast<T*>(arrays[i]); };
        relu_lines_cpu(ReluLines<T>{count, array(0), array(1), array(2), array(3), array(4)}, threads, isa_named(isa));
    });
}

void relu_lines_gradient(std::int64_t count, const std::array<Address, 6>& arrays, const std::string& dtype, int threads,
                         const std::string& isa) {
    visit(dtype, [&](auto zero) {
        using T = decltype(zero);
        const auto array = [&](std::size_t i) { return reinterpret_cast<T*>(arrays[i]); };
        relu_lines_gradient_cpu(ReluLinesGradient<T>{count, array(0), array(1), array(2), array(3), array(4), array(5)}, threads,
                                isa_named(isa));
    });
}

struct CpuTransportProject {
    template <class T>
    static void project_plan(const ProjectPlan<T>& job, int threads, const std::string& isa) {
        project_plan_cpu(job, threads, isa_named(isa));
    }
    template <class T>
    static void plan_image(const T* plan, T* image, TransportShape shape, int threads, const std::string&) {
        plan_image_cpu(plan, image, shape, threads);
    }
    template <class T>
    static void plan_gradient(const T* image, T* plan, TransportShape shape, int threads, const std::string&) {
        plan_gradient_cpu(image, plan, shape, threads);
    }
};

struct CpuSinkhorn {
    template <class T>
    static void projected(const Sinkhorn<T>& job, int threads, const std::string& isa) {
        projected_sinkhorn_cpu(job, threads, isa_named(isa));
    }
    template <class T>
    static void conjugate(const ConjugateSinkhorn<T>& job, int threads, const std::string& isa) {
        conjugate_sinkhorn_cpu(job, threads, isa_named(isa));
    }
};

py::dict config() {
    py::list known, available;
    for (const Isa isa : all_isas) {
        known.append(isa_name(isa));
        if (isa_supported(isa)) available.append(isa_name(isa));
    }
    py::dict facts;
#if defined(__clang__)
    facts["compiler"] = "clang " __clang_version__;
#else
    facts["compiler"] = "g++ " __VERSION__;
#endif
    facts["flags"] = VERIFIX_FLAGS;
    facts["isas_known"] = known;
    facts["isas"] = available;
#if defined(_OPENMP)
    facts["openmp"] = _OPENMP;
#else
    facts["openmp"] = py::none();
#endif
    facts["cuda_build"] = VERIFIX_CUDA_BUILD;
    return facts;
}

}  // namespace

PYBIND11_MODULE(_C, m, py::mod_gil_not_used()) {
    m.doc() = "CPU kernels of verifix; use them through verifix.kernels.";
    m.def("abs_median", &abs_median, py::kw_only(), py::arg("x"), py::arg("values"), py::arg("index"), py::arg("batch"),
          py::arg("k"), py::arg("n"), py::arg("dtype"), py::arg("threads"), py::arg("isa"),
          py::call_guard<py::gil_scoped_release>());
    bind_noise<CpuNoise, int, const std::string&>(m, py::arg("threads"), py::arg("isa"));
    m.def("add_votes", &add_votes, py::kw_only(), py::arg("logits"), py::arg("counts"), py::arg("n"), py::arg("count"),
          py::arg("classes"), py::arg("dtype"), py::arg("threads"), py::call_guard<py::gil_scoped_release>());
    m.def("clopper_pearson", &clopper_pearson, py::kw_only(), py::arg("successes"), py::arg("trials"), py::arg("level"),
          py::arg("lower"), py::arg("failure"), py::arg("count"), py::arg("threads"),
          py::call_guard<py::gil_scoped_release>());
    bind_pull_lines<CpuPullLines, int, const std::string&>(m, py::arg("threads"), py::arg("isa"));
    m.def("relu_lines", &relu_lines, py::kw_only(), py::arg("count"), py::arg("arrays"), py::arg("dtype"), py::arg("threads"),
          py::arg("isa"), py::call_guard<py::gil_scoped_release>());
    m.def("relu_lines_gradient", &relu_lines_gradient, py::kw_only(), py::arg("count"), py::arg("arrays"), py::arg("dtype"),
          py::arg("threads"), py::arg("isa"), py::call_guard<py::gil_scoped_release>());
    m.def("narrow_adjoint", &narrow_adjoint, py::kw_only(), py::arg("shape"), py::arg("rows"), py::arg("weight"),
          py::arg("result"), py::arg("dtype"), py::arg("threads"), py::arg("isa"), py::call_guard<py::gil_scoped_release>());
    m.def("narrow_adjoint_gradient", &narrow_adjoint_gradient, py::kw_only(), py::arg("shape"), py::arg("rows"),
          py::arg("weight"), py::arg("of_result"), py::arg("of_rows"), py::arg("of_weight"), py::arg("dtype"), py::arg("threads"), py::arg("isa"),
          py::call_guard<py::gil_scoped_release>());
    bind_transport_project<CpuTransportProject, int, const std::string&>(m, py::arg("threads"), py::arg("isa"));
    bind_plans(m);
    bind_interval_image<CpuIntervalImage, int, const std::string&>(m, py::arg("threads"), py::arg("isa"));
    bind_transport_linear<CpuTransportLinear, int, const std::string&>(m, py::arg("threads"), py::arg("isa"));
    bind_sinkhorn<CpuSinkhorn, int, const std::string&>(m, py::arg("threads"), py::arg("isa"));
    m.def("config", &config, "What was built, and which instruction sets this processor has.");
}
